"""The environment of a container, as its manifest says it."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")

# Returns the texts of a ConfigMap or a Secret: by kind and name. None where it does not exist.
Read = Callable[[str, str], Awaitable[dict[str, str] | None]]


class NotInTheManifest(Exception):
    """A container can't start yet: something that its manifest names is not there, or this node does not know it."""


async def resolve(container: dict[str, Any], pod: dict[str, Any], read: Read) -> dict[str, str]:
    """Return the variables: those of `envFrom` first, then those of `env`, which win."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= await _all_of(source, read)
    for each in container.get("env", ()):
        value = await _value(each, pod, read) if "valueFrom" in each else expand(each.get("value", ""), found)
        if value is not None:
            found[each["name"]] = value
    return found


def expand(text: str, known: dict[str, str]) -> str:
    """Put variables in for `$(NAME)`; an unknown one stays as it is, and `$$` is a dollar sign."""
    return REFERENCE.sub(lambda each: "$" if each[0] == "$$" else known.get(each[1], each[0]), text)


async def _all_of(source: dict[str, Any], read: Read) -> dict[str, str]:
    kind, reference = (
        ("ConfigMap", source["configMapRef"]) if "configMapRef" in source else ("Secret", source["secretRef"])
    )
    texts = await read(kind, reference["name"])
    if texts is None and not reference.get("optional"):
        raise NotInTheManifest(f"{kind} {reference['name']} does not exist")
    return {source.get("prefix", "") + key: text for key, text in (texts or {}).items()}


async def _value(each: dict[str, Any], pod: dict[str, Any], read: Read) -> str | None:
    match each["valueFrom"]:
        case {"secretKeyRef": reference}:
            return await _of_key("Secret", reference, read)
        case {"configMapKeyRef": reference}:
            return await _of_key("ConfigMap", reference, read)
        case {"fieldRef": {"fieldPath": path}}:
            return _of_field(pod, path)
        case other:
            raise NotInTheManifest(f"this node does not know {next(iter(other))} of {each['name']}")


async def _of_key(kind: str, reference: dict[str, Any], read: Read) -> str | None:
    texts = await read(kind, reference["name"]) or {}
    if reference["key"] not in texts and not reference.get("optional"):
        raise NotInTheManifest(f"{kind} {reference['name']} has no key {reference['key']}")
    return texts.get(reference["key"])


def _of_field(pod: dict[str, Any], path: str) -> str:
    """Follow `metadata.name` or `metadata.labels['app']`."""
    at, _, key = path.partition("['")
    value: Any = pod
    for part in at.split("."):
        value = value.get(part, {})
    return str(value.get(key.removesuffix("']"), "") if key else value or "")
