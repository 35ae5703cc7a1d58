"""A container without a container runtime: a process with its own network, mounts and processes, and few rights."""

import asyncio
import os
import signal
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cluster.network import NAMESPACES

# The image of this service, as its Dockerfile makes it.
IMAGE_USER = 10001
TREE, PACKAGES = "/opt/aircall-oauth", "/opt/packages"
ENTRYPOINT = "aircall-oauth"
COMMAND = ["serve", "--host", "0.0.0.0"]
IMAGE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": f"{TREE}/src:{PACKAGES}",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "HOME": "/nonexistent",
}
# A root of its own: the system's programs, the image, the volumes, and nothing else of this machine.
ROOT = """
set -eu
root=$1 writable=$2; shift 2
bind() { mkdir -p "$root$2"; mount -o "bind,$3" "$1" "$root$2"; }
mount -t tmpfs -o mode=755,size=16m tmpfs "$root"
for each in /usr /bin /sbin /lib /lib64 /etc; do
    if [ -L "$each" ]; then cp -P "$each" "$root$each"; elif [ -d "$each" ]; then bind "$each" "$each" ro; fi
done
while [ "$1" != -- ]; do bind "$1" "$2" "$3"; shift 3; done
shift
mkdir -p "$root/proc" "$root/dev" "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
[ "$writable" = yes ] || mount -o remount,ro "$root"
exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class Mount:
    """A folder of this machine, and where the container sees it."""

    source: Path
    target: str
    read_only: bool


class Container:
    """One running process of a pod."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, manifest: dict[str, Any], pod: dict[str, Any], *, namespace: str, folder: Path, log: Path, tree: Path,
        environment: dict[str, str], volumes: dict[str, Path],
    ) -> Self:  # fmt: skip
        """Start what the manifest says; `tree` is what the image was made from."""
        root = folder / f"root-{manifest['name']}"
        root.mkdir(exist_ok=True)
        writable = "no" if manifest.get("securityContext", {}).get("readOnlyRootFilesystem") else "yes"
        mounts = [part for each in _mounts(manifest, volumes, tree) for part in _as_words(each)]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *("nsenter", f"--net={NAMESPACES}/{namespace}", "--", "unshare", "--mount", "--pid", "--fork"),
                *("--kill-child", "--", "sh", "-c", ROOT, "sh", str(root), writable, *mounts, "--"),
                *(*_rights(manifest, pod), *command(manifest)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**IMAGE_ENVIRONMENT, **environment},
                start_new_session=True,
            )
        return cls(process)

    async def wait(self) -> int:
        """Wait for its end. Returns its exit code, as a shell would say it."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself, which is the first in its own table of processes."""
        if self._process.returncode is None and (inner := self._inner()):
            os.kill(inner, number)

    async def run(self, words: list[str]) -> tuple[int, str]:
        """Run a command beside it, with its mounts, rights and environment, as `kubectl exec` does."""
        inner = self._inner()
        assert inner, "the container has ended"
        variables = Path(f"/proc/{inner}/environ").read_bytes().decode().rstrip("\0").split("\0")
        owner = Path(f"/proc/{inner}").stat()
        process = await asyncio.create_subprocess_exec(
            *("nsenter", f"--target={inner}", "--mount", "--net", "--pid", "--root", "--", "setpriv"),
            *(f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", *_groups_of(inner), "--", *_program(words)),
            env=dict(each.split("=", 1) for each in variables),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    def _inner(self) -> int | None:
        """The child of `unshare`; None before it is there, and once it has ended."""
        try:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(children[0]) if children else None


def command(manifest: dict[str, Any]) -> list[str]:
    """Return what is run: `command` replaces the image's entry point, `args` its arguments."""
    words = list(manifest.get("command", [ENTRYPOINT]))
    return _program([*words, *manifest.get("args", () if "command" in manifest else COMMAND)])


def _program(words: list[str]) -> list[str]:
    python = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    return [python, "-m", "aircall_oauth", *words[1:]] if words[0] == ENTRYPOINT else words


def _mounts(manifest: dict[str, Any], volumes: dict[str, Path], tree: Path) -> list[Mount]:
    packages = Path(sysconfig.get_path("purelib"))
    image = [Mount(tree, TREE, True), Mount(packages, PACKAGES, True)]
    if not sys.base_prefix.startswith("/usr"):
        image.append(Mount(Path(sys.base_prefix), sys.base_prefix, True))
    asked = manifest.get("volumeMounts", ())
    return image + [Mount(volumes[each["name"]], each["mountPath"], each.get("readOnly", False)) for each in asked]


def _as_words(mount: Mount) -> tuple[str, str, str]:
    return str(mount.source), mount.target, "ro" if mount.read_only else "rw"


def _rights(manifest: dict[str, Any], pod: dict[str, Any]) -> list[str]:
    """No capability, whatever the user; the pod's group beside the user's own."""
    of_pod = pod["spec"].get("securityContext", {})
    asked = {**of_pod, **manifest.get("securityContext", {})}
    user = asked.get("runAsUser", IMAGE_USER)
    group = asked.get("runAsGroup", IMAGE_USER if "runAsUser" not in asked else 0)
    groups = [f"--groups={of_pod['fsGroup']}"] if "fsGroup" in of_pod else ["--clear-groups"]
    new = [] if asked.get("allowPrivilegeEscalation", True) else ["--no-new-privs"]
    return ["setpriv", f"--reuid={user}", f"--regid={group}", *groups, "--bounding-set=-all", "--inh-caps=-all", *new]


def _groups_of(process: int) -> list[str]:
    status = Path(f"/proc/{process}/status").read_text()
    groups = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
    return [f"--groups={','.join(groups)}"] if groups else ["--clear-groups"]
