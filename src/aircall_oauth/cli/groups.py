"""Commands that have commands."""

from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    """A group whose `--help` is False where it is not given: Typer 0.29 imports pydantic to convert the default."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option
