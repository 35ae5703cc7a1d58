"""The console's own files: each is served under a name that holds its hash, so that browsers may keep it for good."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    body: bytes
    media_type: str


def _read() -> tuple[dict[str, str], dict[str, Asset]]:
    """Return the path of each file by its name, and each file by its hashed name."""
    paths, assets = {}, {}
    for file in files("aircall_oauth.console").joinpath("static").iterdir():
        stem, _, kind = file.name.rpartition(".")
        if kind in MEDIA_TYPES:
            body = file.read_bytes()
            hashed = f"{stem}-{hashlib.sha256(body).hexdigest()[:12]}.{kind}"
            paths[file.name], assets[hashed] = f"/assets/{hashed}", Asset(body, MEDIA_TYPES[kind])
    return paths, assets


_PATHS, ASSETS = _read()


def path(name: str) -> str:
    """Return the address of a file of `static/`."""
    return _PATHS[name]
