"""The volumes of a pod, as folders laid out as kubelet does: each file leads through a link that a change replaces."""

import os
from pathlib import Path
from typing import Any

from cluster.environment import NotInTheManifest, Read

DEFAULT_MODE = 0o644
GROUP_MAY_WRITE = 0o2770
# (path, content, mode)
File = tuple[str, str, int]


async def lay_out(pod: dict[str, Any], folder: Path, read: Read) -> dict[str, Path]:
    """Make a folder for each volume, whose group is the pod's `fsGroup`. Returns them by name."""
    group = pod["spec"].get("securityContext", {}).get("fsGroup")
    made = {}
    for volume in pod["spec"].get("volumes", ()):
        made[volume["name"]] = place = folder / volume["name"]
        if "emptyDir" in volume:
            place.mkdir(parents=True)
            place.chmod(0o777 if group is None else GROUP_MAY_WRITE)
            _give(place, group)
        else:
            _write(place, await _files(volume, read), group)
    return made


async def _files(volume: dict[str, Any], read: Read) -> list[File]:
    match volume:
        case {"secret": source}:
            return await _of("Secret", source["secretName"], source, read, source.get("defaultMode", DEFAULT_MODE))
        case {"configMap": source}:
            return await _of("ConfigMap", source["name"], source, read, source.get("defaultMode", DEFAULT_MODE))
        case {"projected": source}:
            mode = source.get("defaultMode", DEFAULT_MODE)
            return [each for part in source["sources"] for each in await _projected(part, read, mode)]
        case _:
            raise NotInTheManifest(f"this node does not know the kind of volume {volume['name']}")


async def _projected(source: dict[str, Any], read: Read, mode: int) -> list[File]:
    match source:
        case {"secret": part}:
            return await _of("Secret", part["name"], part, read, mode)
        case {"configMap": part}:
            return await _of("ConfigMap", part["name"], part, read, mode)
        case _:
            raise NotInTheManifest(f"this node does not know a projected {next(iter(source))}")


async def _of(kind: str, name: str, source: dict[str, Any], read: Read, mode: int) -> list[File]:
    texts = await read(kind, name)
    if texts is None and not source.get("optional"):
        raise NotInTheManifest(f"{kind} {name} does not exist")
    texts = texts or {}
    items = source.get("items") or [{"key": key, "path": key} for key in texts]
    if missing := [item["key"] for item in items if item["key"] not in texts and not source.get("optional")]:
        raise NotInTheManifest(f"{kind} {name} has no key {missing[0]}")
    return [(item["path"], texts[item["key"]], item.get("mode", mode)) for item in items if item["key"] in texts]


def _write(place: Path, files: list[File], group: int | None) -> None:
    real = place / "..2026_01_01"
    real.mkdir(parents=True)
    (place / "..data").symlink_to(real.name)
    for path, content, mode in files:
        file = real / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        # kubelet lets the group read what it gives to it.
        file.chmod(mode if group is None else mode | 0o440)
        _give(file, group)
        first = path.split("/")[0]
        if not (place / first).is_symlink():
            (place / first).symlink_to(f"..data/{first}")


def _give(place: Path, group: int | None) -> None:
    if group is not None:
        os.chown(place, -1, group)
