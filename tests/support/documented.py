"""Blocks of code in the documents, and a shell that runs them as a reader would.

A comment before a block says what it is: `<!-- file: NAME -->` is saved, `<!-- stays up -->` runs beside the next ones,
`<!-- shows -->` is text that the block before it printed.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
END = "the block has ended with"
STOP_SECONDS = 20


@dataclass(frozen=True)
class Block:
    heading: str
    language: str
    note: str
    text: str

    def with_text(self, text: str) -> "Block":
        return replace(self, text=text)


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order; those above its first heading have an empty one."""
    top, *parts = re.split(r"^##+ ", page.read_text(), flags=re.MULTILINE)
    under = [("", top), *((part.splitlines()[0], part) for part in parts)]
    return [
        Block(heading, each["language"], each["note"] or "", each["text"])
        for heading, part in under
        for each in FENCE.finditer(part)
    ]


@dataclass
class Shell:
    """One terminal: what a block sets and where it goes holds for the next one."""

    process: asyncio.subprocess.Process
    replaced: Mapping[str, str]
    said: str = ""
    beside: list[int] = field(default_factory=list)

    async def read(self, page: list[Block], *, seconds: float = 60) -> None:
        """Do what these blocks say; raises where one fails or shows something else."""
        for block in page:
            text = self._as_here(block.text)
            if block.note == "shows":
                assert [line for line in text.splitlines() if line not in self.said] == [], self.said
            elif block.note.startswith("file: "):
                name = block.note.removeprefix("file: ")
                self.said = await self._run(f"cat > {name} <<'END OF FILE'\n{text}END OF FILE\n", seconds)
            elif block.note == "stays up":
                told = await self._run(
                    f": > stays-up.log\nsetsid {text.strip()} >> stays-up.log 2>&1 &\necho $!\n", seconds
                )
                self.beside.append(int(told.split()[-1]))
            else:
                assert block.language == "sh", block
                self.said = await self._run(text, seconds)

    def _as_here(self, text: str) -> str:
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text

    async def _run(self, script: str, seconds: float) -> str:
        assert self.process.stdin
        assert self.process.stdout
        # A program that reads from the terminal must not read the next block.
        self.process.stdin.write(f"{{\n{script}\n}} < /dev/null\necho '{END}' $?\n".encode())
        said = ""
        async with asyncio.timeout(seconds):
            while END not in said:
                line = await self.process.stdout.readline()
                assert line, f"the shell ended:\n{said}"
                said += line.decode()
        assert said.rstrip().endswith(f"{END} 0"), said
        return said.partition(END)[0]

    async def ask(self, command: str) -> str:
        """What a command of the test's own prints, where this shell is."""
        return await self._run(command, 60)

    async def log(self) -> str:
        """What the last one that stays up has said."""
        return await self.ask("cat stays-up.log")


@asynccontextmanager
async def shell(
    folder: Path, environment: Mapping[str, str], replaced: Mapping[str, str] | None = None
) -> AsyncIterator[Shell]:
    """A shell in a folder; a command that fails ends it, and what stays up is stopped with it."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-eu"),
        cwd=folder,
        env=dict(environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    it = Shell(process, replaced or {})
    try:
        yield it
    finally:
        if process.returncode is None:
            assert process.stdin
            for pid in it.beside:
                process.stdin.write(f"kill -- -{pid} 2>&1 || true; wait {pid} || true\n".encode())
            process.stdin.write(b"exit\n")
            try:
                await asyncio.wait_for(process.communicate(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.communicate()
