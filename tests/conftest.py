"""Loads what tests share into the processes that run some."""

import atexit
import gc
import os

import pytest

FIXTURES = "tests.support.fixtures"
# Before the conftest of a folder imports it, which comes first where only that folder is run.
pytest.register_assert_rewrite(FIXTURES)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Without Python's clean-up, which took five to fifteen seconds.
    atexit.register(os._exit, 0)


def pytest_configure(config: pytest.Config) -> None:
    # What only hands tests out to others needs none of it, and they begin when it has.
    hands_out = config.getoption("tx", None) and not config.option.collectonly and not hasattr(config, "workerinput")
    if not hands_out:
        # Until all tests are read: each search for garbage went through all modules.
        gc.disable()
        config.pluginmanager.import_plugin(FIXTURES)


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.markexpr == "not slow":
        terminalreporter.write_line("The slow tests were left out: `make test-all` and `make check` run them.")
