"""Registers the types of arrays with a connection, which would ask PostgreSQL for each at its first statement with one.

asyncpg knows few arrays by itself, those of text among them. For the others it sends a query over the catalogues, on
each connection anew: that takes PostgreSQL longer than the rest of opening the connection.
"""

import asyncpg

# Element type, its number, and its array's: the same in every PostgreSQL (src/include/catalog/pg_type.dat).
ELEMENTS = (
    ("bool", 16, 1000),
    ("bytea", 17, 1001),
    ("int8", 20, 1016),
    ("int2", 21, 1005),
    ("int4", 23, 1007),
    ("float8", 701, 1022),
    ("date", 1082, 1182),
    ("timestamptz", 1184, 1185),
    ("uuid", 2950, 2951),
    ("jsonb", 3802, 3807),
)
# As that query of asyncpg's describes them.
TYPES = tuple(
    {
        "oid": array,
        "ns": "pg_catalog",
        "name": f"_{name}",
        "kind": b"b",
        "basetype": None,
        "elemtype": element,
        "elemtype_name": name,
        "elemdelim": ",",
        "range_subtype": None,
        "attrtypoids": None,
        "attrnames": None,
    }
    for name, element, array in ELEMENTS
)


def register(connection: asyncpg.Connection) -> None:
    """Register the arrays of `ELEMENTS` with a new connection."""
    # asyncpg has no public way to give it a type's description.
    connection._protocol.get_settings().register_data_types(TYPES)
