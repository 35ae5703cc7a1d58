"""The Python client's memory of deliveries in PostgreSQL, and its routes with the real service behind them."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from aircall_oauth_client import SqlSeen

from tests.support.tools import CI_GROUP, miss


def its_own_tests(name: str) -> ModuleType:
    """A module of the client's own tests."""
    path = Path(__file__).parents[2] / "clients" / "python" / "tests" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_postgresql_remembers(empty_database: str) -> None:
    try:
        import psycopg
    except ImportError:
        miss(f"psycopg is not installed (it is in {CI_GROUP})")

    def connect() -> object:
        return psycopg.connect(empty_database)

    # Two processes that make the table at once, and eight that are handed the same delivery.
    with ThreadPoolExecutor(8) as threads:
        begun = list(threads.map(lambda _: SqlSeen(connect).begin("same"), range(8)))
    its_own_tests("test_inbox").check_memory(connect, "%s")

    assert (begun.count(True), begun.count(None)) == (1, 7)
