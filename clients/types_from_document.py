"""Writes the clients' types from the API's document: `models.py` in Python, `types.ts` in TypeScript.

`python clients/types_from_document.py` writes them; `--check` only compares, and exits 1 where they are stale.
"""

import json
import keyword
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "docs" / "openapi.json"
PYTHON = HERE / "python" / "src" / "aircall_oauth_client" / "models.py"
TYPESCRIPT = HERE / "typescript" / "src" / "types.ts"

Schema = dict[str, Any]
PYTHON_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
TYPESCRIPT_TYPES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def main() -> int:
    document = json.loads(DOCUMENT.read_text())
    wanted = {PYTHON: python(document), TYPESCRIPT: typescript(document)}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        sys.stderr.write("".join(f"{path.name} is stale: run clients/types_from_document.py\n" for path in stale))
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path])
    return 0


def python(document: Schema) -> str:
    schemas = document["components"]["schemas"]
    lines = [
        '"""What the service answers and takes, as types. Generated from docs/openapi.json; answers may have more."""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import Any, Literal, TypedDict, Union",
    ]
    aliases = {name for name, schema in schemas.items() if "properties" not in schema and "allOf" not in schema}
    for name, schema in _in_order(schemas, aliases):
        lines += ["", "", *_python_class(name, schema, schemas)] if name not in aliases else ["", _alias(name, schema)]
    return "\n".join(lines) + "\n"


def _alias(name: str, schema: Schema) -> str:
    return f"{name} = {_python_type(schema, quoted=True)}"


def _in_order(schemas: Schema, aliases: set[str]) -> Iterator[tuple[str, Schema]]:
    """Aliases last: they name classes; a class whose base is another one behind it."""
    classes = [name for name in schemas if name not in aliases]
    for name in sorted(classes, key=lambda each: "allOf" in schemas[each]):
        yield name, schemas[name]
    named = [name for name in schemas if name in aliases]
    for name in sorted(named, key=lambda each: "anyOf" in schemas[each] or "oneOf" in schemas[each]):
        yield name, schemas[name]


def _python_class(name: str, schema: Schema, schemas: Schema) -> list[str]:
    if "allOf" in schema:
        return _python_class(name, _merged(schema, schemas), schemas)
    fields, required = schema["properties"], set(schema.get("required", []))
    if any(keyword.iskeyword(field) for field in fields):
        entries = [f"        {field!r}: {_python_type(of)!r}," for field, of in fields.items()]
        return [f"{name} = TypedDict(", f"    {name!r},", "    {", *entries, "    },", "    total=False,", ")"]
    always = {field: of for field, of in fields.items() if field in required}
    maybe = {field: of for field, of in fields.items() if field not in required}
    if always and maybe:
        lines = [f"class _{name}(TypedDict):", *_python_fields(always), "", ""]
        return [*lines, f"class {name}(_{name}, total=False):", *_described(schema), *_python_fields(maybe)]
    total = "" if always else ", total=False"
    return [f"class {name}(TypedDict{total}):", *_described(schema), *_python_fields(fields)]


def _merged(schema: Schema, schemas: Schema) -> Schema:
    properties: Schema = {}
    required: list[str] = []
    for part in schema["allOf"]:
        whole = schemas[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        properties |= whole.get("properties", {})
        required += whole.get("required", [])
    return {"properties": properties, "required": required}


def _described(schema: Schema) -> list[str]:
    said = schema.get("description", "").split("\n")[0]
    return [f'    """{said}"""', ""] if said else []


def _python_fields(fields: Schema) -> list[str]:
    return [f"    {name}: {_python_type(of)}" for name, of in fields.items()]


def _python_type(schema: Schema, *, quoted: bool = False) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'"{name}"' if quoted else name
    if variants := schema.get("anyOf") or schema.get("oneOf"):
        types = list(dict.fromkeys(_python_type(variant, quoted=quoted) for variant in variants))
        return f"Union[{', '.join(types)}]" if quoted else " | ".join(types)
    if "const" in schema:
        return f'Literal["{schema["const"]}"]'
    if "enum" in schema:
        return f"Literal[{', '.join(json.dumps(value) for value in schema['enum'])}]"
    kinds = schema.get("type", [])
    return " | ".join(_python_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)) or "Any"


def _python_kind(kind: str, schema: Schema) -> str:
    if kind == "array":
        return f"list[{_python_type(schema.get('items', {}))}]"
    return "dict[str, Any]" if kind == "object" else PYTHON_TYPES[kind]


def typescript(document: Schema) -> str:
    schemas = document["components"]["schemas"]
    lines = [
        "// What the service answers and takes, as types. Generated from docs/openapi.json; any answer may have more.",
        "",
        "/** An integer of up to 64 bits: a bigint where a number would lose digits. */",
        "export type Int64 = number | bigint;",
    ]
    for name, schema in schemas.items():
        lines += ["", *_typescript(name, schema)]
    lines += ["", "export interface Operations {", *_operations(document), "}"]
    return "\n".join(lines) + "\n"


def _operations(document: Schema) -> Iterator[str]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f'  {operation["operationId"]}: "{method.upper()} {path}";'


def _typescript(name: str, schema: Schema) -> list[str]:
    said = [f"/** {schema['description'].split(chr(10))[0]} */"] if schema.get("description") else []
    if "properties" not in schema:
        return [*said, f"export type {name} = {_typescript_type(schema)};"]
    return [*said, f"export interface {name} {{", *_typescript_fields(schema), "}"]


def _typescript_fields(schema: Schema) -> Iterator[str]:
    required = schema.get("required", [])
    for name, of in schema["properties"].items():
        if said := of.get("description"):
            yield f"  /** {said.replace('*/', '* /')} */"
        yield f"  {name}{'' if name in required else '?'}: {_typescript_type(of)};"
    if schema.get("additionalProperties") is True:
        yield "  [more: string]: unknown;"


def _typescript_type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    for key, sign in (("anyOf", " | "), ("oneOf", " | "), ("allOf", " & ")):
        if key in schema:
            return sign.join(dict.fromkeys(_typescript_type(variant) for variant in schema[key]))
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    kinds = schema.get("type", [])
    return " | ".join(_typescript_kind(one, schema) for one in ([kinds] if isinstance(kinds, str) else kinds)) or (
        "unknown"
    )


def _typescript_kind(kind: str, schema: Schema) -> str:
    if kind == "array":
        return f"Array<{_typescript_type(schema.get('items', {}))}>"
    if kind == "object":
        fields = " ".join(line.strip() for line in _typescript_fields(schema)) if "properties" in schema else ""
        return f"{{ {fields} }}" if fields else "Record<string, unknown>"
    return "Int64" if kind == "integer" and schema.get("format") == "int64" else TYPESCRIPT_TYPES[kind]


if __name__ == "__main__":
    sys.exit(main())
