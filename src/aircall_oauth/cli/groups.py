"""Commands that have commands."""

from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    """A group for which Typer need not import pydantic: it would, to read that `--help` was not given."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option
