"""What a newer document of the API takes away from the programs that were written against an older one.

`python -m tests.support.compatibility OLD.json NEW.json` prints it and exits 1; nothing to print is exit 0. What is
added is no fault: a new operation, an optional parameter, a new field of an answer, a new value of an answer's enum.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

Document = dict[str, Any]
# Whose side a schema is on: what we are sent must stay welcome, and what we answer must stay readable.
Side = Literal["sent", "answered"]
LOWER = ("maximum", "maxLength", "maxItems", "exclusiveMaximum")
HIGHER = ("minimum", "minLength", "minItems", "exclusiveMinimum")
ANY_TYPE = ("array", "boolean", "integer", "null", "number", "object", "string")


def faults(old: Document, new: Document) -> list[str]:
    """List what was removed or narrowed, each with its place."""
    compared = Compared(old, new)
    return [*dict.fromkeys(compared.document())]


class Compared:
    """Two documents; pairs of schemas that were compared are not compared again."""

    def __init__(self, old: Document, new: Document) -> None:
        self.old, self.new = old, new
        self._seen: set[tuple[str, str, Side]] = set()

    def document(self) -> Iterator[str]:
        for path, operations in self.old["paths"].items():
            for method, operation in operations.items():
                place, now = f"{method.upper()} {path}", self.new["paths"].get(path, {}).get(method)
                if now is None:
                    yield f"{place} is gone"
                else:
                    yield from self.operation(place, operation, now)
        for name in self.old["components"]["schemas"]:
            if name not in self.new["components"]["schemas"]:
                yield f"schema {name} is gone"
        for name, operations in self.old.get("webhooks", {}).items():
            now = self.new.get("webhooks", {}).get(name)
            if now is None:
                yield f"webhook {name} is gone"
            else:
                for method, operation in operations.items():
                    yield from self.body(f"webhook {name}", operation, now[method], "answered")

    def operation(self, place: str, old: Any, new: Any) -> Iterator[str]:
        if old["operationId"] != new["operationId"]:
            yield f"{place}: its operationId was {old['operationId']}"
        if {role for each in new.get("security", []) for role in each.get("api_key", [])} - {
            role for each in old.get("security", []) for role in each.get("api_key", [])
        }:
            yield f"{place}: needs a scope more"
        yield from self.parameters(place, old.get("parameters", []), new.get("parameters", []))
        yield from self.body(place, old, new, "sent")
        for status, answer in old["responses"].items():
            if status not in new["responses"]:
                yield f"{place}: no longer answers {status}"
            else:
                now = new["responses"][status]
                yield from self.content(f"{place} {status}", answer, now, "answered")

    def parameters(self, place: str, old: list[Any], new: list[Any]) -> Iterator[str]:
        before, now = ({(each["in"], each["name"]): each for each in some} for some in (old, new))
        for key, parameter in before.items():
            if key not in now:
                yield f"{place}: the parameter {key[1]} is gone"
            else:
                yield from self.schema(f"{place} {key[1]}", parameter["schema"], now[key]["schema"], "sent")
        for key, parameter in now.items():
            if parameter.get("required") and not before.get(key, {}).get("required"):
                yield f"{place}: the parameter {key[1]} is required"

    def body(self, place: str, old: Any, new: Any, side: Side) -> Iterator[str]:
        before, now = old.get("requestBody"), new.get("requestBody")
        if before is not None and now is None:
            yield f"{place}: its body is gone"
        elif before is not None:
            yield from self.content(f"{place} body", before, now, side)
        if now is not None and now.get("required") and not (before or {}).get("required"):
            yield f"{place}: its body is required"

    def content(self, place: str, old: Any, new: Any, side: Side) -> Iterator[str]:
        for media_type, described in old.get("content", {}).items():
            if media_type not in new.get("content", {}):
                yield f"{place}: {media_type} is gone"
            else:
                now = new["content"][media_type]
                yield from self.schema(place, described.get("schema", {}), now.get("schema", {}), side)

    def schema(self, place: str, old: Any, new: Any, side: Side) -> Iterator[str]:
        names = old.get("$ref", ""), new.get("$ref", "")
        if all(names):
            if (*names, side) in self._seen:
                return
            self._seen.add((*names, side))
            place = names[0].rpartition("/")[2]
        old, new = self._resolved(self.old, old), self._resolved(self.new, new)
        variants = self._variants(old), self._variants(new)
        if variants[0] or variants[1]:
            yield from self.union(place, variants[0] or [old], variants[1] or [new], side)
            return
        yield from self.types(place, old, new, side)
        yield from self.values(place, old, new, side)
        yield from self.bounds(place, old, new, side)
        yield from self.fields(place, old, new, side)
        if "items" in old and "items" in new:
            yield from self.schema(f"{place}[]", old["items"], new["items"], side)
        for number, (before, now) in enumerate(zip(old.get("allOf", []), new.get("allOf", []), strict=False)):
            yield from self.schema(f"{place}.{number}", before, now, side)

    def union(self, place: str, old: list[Any], new: list[Any], side: Side) -> Iterator[str]:
        """Each variant that may be sent must still be welcome; each that is answered must have been known."""
        for variant in old if side == "sent" else new:
            others = new if side == "sent" else old
            pairs = [(variant, other) if side == "sent" else (other, variant) for other in others]
            tried = [[*Compared(self.old, self.new).schema(place, *pair, side)] for pair in pairs]
            if not all(tried):
                continue
            same = [found for pair, found in zip(pairs, tried, strict=True) if self._alike(*pair)]
            yield from same[0] if same else [f"{place}: a variant is {'gone' if side == 'sent' else 'new'}"]

    def _alike(self, old: Any, new: Any) -> bool:
        if "$ref" in old or "$ref" in new:
            return bool(old.get("$ref") == new.get("$ref"))
        return bool(old.get("type") == new.get("type"))

    def types(self, place: str, old: Any, new: Any, side: Side) -> Iterator[str]:
        before, now = _types(old), _types(new)
        wide = {"integer"} if "number" in (now if side == "sent" else before) else set()
        if (before - now if side == "sent" else now - before) - wide:
            yield f"{place}: was {_said(before)}, is {_said(now)}"

    def values(self, place: str, old: Any, new: Any, side: Side) -> Iterator[str]:
        """An enum that is answered may grow: that is said where it is described."""
        before, now = (
            set(map(str, some["enum"])) if "enum" in some else {str(some["const"])} if "const" in some else None
            for some in (old, new)
        )
        if side == "sent" and now is not None and (before is None or before - now):
            yield f"{place}: takes fewer values"
        if side == "answered" and before is not None and now is None:
            yield f"{place}: its values are no longer listed"
        if side == "answered" and before is not None and now is not None and before - now and "const" in old:
            yield f"{place}: is another constant"

    def bounds(self, place: str, old: Any, new: Any, side: Side) -> Iterator[str]:
        """Only what is sent has bounds to keep to."""
        if side == "answered":
            return
        for bound, sign in [(each, 1) for each in LOWER] + [(each, -1) for each in HIGHER]:
            if bound in new and (bound not in old or sign * new[bound] < sign * old[bound]):
                yield f"{place}: {bound} is {new[bound]}, was {old.get(bound, 'free')}"
        for bound in ("pattern", "format"):
            if bound in new and new[bound] != old.get(bound):
                yield f"{place}: {bound} is {new[bound]}, was {old.get(bound, 'free')}"

    def fields(self, place: str, old: Any, new: Any, side: Side) -> Iterator[str]:
        before, now = old.get("properties", {}), new.get("properties", {})
        for name, schema in before.items():
            if name not in now:
                yield f"{place}.{name} is gone"
            else:
                yield from self.schema(f"{place}.{name}", schema, now[name], side)
        required = set(old.get("required", [])), set(new.get("required", []))
        for name in required[1] - required[0] if side == "sent" else (required[0] - required[1]) & now.keys():
            yield f"{place}.{name} is {'required' if side == 'sent' else 'no longer always there'}"

    @staticmethod
    def _variants(schema: Any) -> list[Any]:
        found: list[Any] = schema.get("oneOf") or schema.get("anyOf") or []
        return found

    @staticmethod
    def _resolved(document: Document, schema: Any) -> Any:
        while "$ref" in schema:
            # One that is gone is said elsewhere.
            schema = document["components"]["schemas"].get(schema["$ref"].rpartition("/")[2], {})
        return schema


def _types(schema: Any) -> set[str]:
    if "type" not in schema:
        return set() if "allOf" in schema else set(ANY_TYPE)
    return set(schema["type"]) if isinstance(schema["type"], list) else {schema["type"]}


def _said(types: set[str]) -> str:
    return "anything" if types == set(ANY_TYPE) else " or ".join(sorted(types))


def main(old: str, new: str) -> int:
    found = faults(json.loads(Path(old).read_text()), json.loads(Path(new).read_text()))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
