"""The body of the request to erase a person."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from aircall_oauth.access.parameters import ID, Owner
from aircall_oauth.privacy import people
from aircall_oauth.privacy.people import Person
from aircall_oauth.storage.statuses import ErasureKind

KINDS = {
    "phone": ErasureKind.PHONE,
    "email": ErasureKind.EMAIL,
    "contact_id": ErasureKind.CONTACT,
    "user_id": ErasureKind.USER,
    "call_id": ErasureKind.CALL,
}


def _as_text(value: Any) -> Any:
    """Return an id as text, given as a number or as text: Aircall's events have both."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


AircallId = Annotated[str | None, BeforeValidator(_as_text)]


class NewErasure(BaseModel):
    """Whom to erase: by exactly one of `phone`, `email`, `contact_id`, `user_id`, `call_id`."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, json_schema_extra={"example": {"phone": "+44 20 7946 0123"}}
    )

    phone: str | None = Field(
        None,
        max_length=64,
        description="In any spelling, best with its country; 7 to 15 digits",
        examples=["+44 20 7946 0123"],
    )
    email: str | None = Field(None, max_length=320, examples=["mara@example.org"])
    contact_id: AircallId = Field(None, max_length=64, description="Aircall's id of a contact", examples=["704410"])
    user_id: AircallId = Field(None, max_length=64, description="Aircall's id of a user", examples=["90211"])
    call_id: AircallId = Field(None, max_length=64, description="Aircall's id of a call", examples=["2481173905"])
    owner: Owner | None = Field(None, description="Only in events of this owner")
    installation_id: str | None = Field(
        None,
        pattern=ID,
        description="Only in events of this installation",
        examples=["ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"],
    )

    @model_validator(mode="after")
    def _one_person(self) -> Self:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}")
        try:
            self.person  # noqa: B018 - it is refused here
        except people.PatternRefused as refused:
            raise ValueError(f"{given[0]} {refused}") from None
        return self

    @property
    def person(self) -> Person:
        """Whom the body means."""
        return next(
            people.parse(kind, text) for name, kind in KINDS.items() if (text := getattr(self, name)) is not None
        )
