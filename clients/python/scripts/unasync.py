"""Writes `_sync` from `_async`: the same code without `async` and `await`. `--check` only compares."""

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "aircall_oauth_client"
WORDS = (
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(close|read|iter_lines)\b", r"\1"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\basyncio\b", "time"),
    (r"\b_async\b", "_sync"),
    (r"asynchronous client\. `_sync` is generated from this package", "blocking client, generated from `_async`"),
)


def written(source: str) -> str:
    for pattern, replacement in WORDS:
        source = re.sub(pattern, replacement, source)
    # What is told may be a coroutine's only where there is a loop.
    source = source.replace(
        "        told = save(position, epoch)\n        if inspect.isawaitable(told):\n            told\n",
        "        save(position, epoch)\n",
    )
    return source.replace("import inspect\n", "")


def main() -> int:
    stale = []
    for path in sorted((PACKAGE / "_async").glob("*.py")):
        target, text = PACKAGE / "_sync" / path.name, written(path.read_text())
        if not target.exists() or target.read_text() != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                target.parent.mkdir(exist_ok=True)
                target.write_text(text)
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"Run scripts/unasync.py: {', '.join(stale)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
