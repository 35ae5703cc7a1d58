"""Loads what tests share into the processes that run some."""

import pytest

# A folder's own conftest may import it before it is loaded here.
pytest.register_assert_rewrite("tests.support.fixtures")


def pytest_configure(config: pytest.Config) -> None:
    # What only hands tests out to others needs none of it, and they begin when it has.
    hands_out = config.getoption("tx", None) and not config.option.collectonly and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("tests.support.fixtures")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.markexpr == "not slow":
        terminalreporter.write_line("The slow tests were left out: `make test-all` and `make check` run them.")
