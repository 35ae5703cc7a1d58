"""The pretend companies: their names, their numbers, and our app's integration in each."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aircall_oauth.sandbox.aircall import samples


@dataclass
class Integration:
    """Our app in one company. It gets the calls of the numbers in `number_ids`."""

    id: int
    number_ids: list[int]
    active: bool = True


@dataclass
class Company:
    id: int
    name: str
    users_count: int
    numbers: dict[int, str]
    integration: Integration
    calls: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def busy_number(self) -> int:
        """The number that calls come in on: a linked one where there is one."""
        return next(iter(self.integration.number_ids or self.numbers))


def default_companies() -> list[Company]:
    return [
        Company(
            70077,
            "Northwind Demo Ltd",
            14,
            {55010: "Paris Support", 55011: "Lyon Sales", 55012: "Front Desk"},
            Integration(400123, [55010]),
        ),
        Company(
            70078,
            "Küstenlicht Demo GmbH",
            6,
            {55020: "Hamburg Büro", 55021: "Notdienst"},
            Integration(400124, [55020]),
        ),
        Company(70079, "Alder & Finch Demo Inc", 31, {55030: "Austin Desk"}, Integration(400125, [55030])),
    ]


def more_companies(count: int) -> list[Company]:
    """Make up companies besides the three with a name."""
    return [
        Company(80000 + n, f"Demo Company {n}", 1 + n % 50, {60000 + n: "Desk"}, Integration(500000 + n, [60000 + n]))
        for n in range(count)
    ]


def company_view(company: Company) -> dict[str, Any]:
    """`GET /v1/company`: there is no id in it."""
    facts = {"name": company.name, "users_count": company.users_count, "numbers_count": len(company.numbers)}
    return {"company": facts}


def integration_view(company: Company, *, with_id: bool) -> dict[str, Any]:
    """`GET /v1/integrations/me`: the only answer that says which company a token belongs to."""
    integration: dict[str, Any] = samples.read("rest.integrations-me.200")["integration"]
    integration |= {
        "id": company.integration.id,
        "company_id": company.id,
        "status": "active" if company.integration.active else "inactive",
        "active": company.integration.active,
        "number_ids": company.integration.number_ids,
        "numbers_count": len(company.integration.number_ids),
    }
    if not with_id:
        del integration["id"]
    return {"integration": integration}


def number_views(company: Company) -> list[dict[str, Any]]:
    return [_number_view(number_id, name) for number_id, name in company.numbers.items()]


def user_views() -> list[dict[str, Any]]:
    return list(samples.read("rest.users-v2.list.200")["users"])


def find(companies: Iterable[Company], wanted: int) -> Company:
    """Return the company with this id; raises `LookupError`."""
    for company in companies:
        if company.id == wanted:
            return company
    raise LookupError(f"no pretend company {wanted}")


def _number_view(number_id: int, name: str) -> dict[str, Any]:
    sample = samples.read("rest.numbers.list.200")["numbers"][0]
    fresh = samples.renewed(sample, {str(sample["id"]): str(number_id)}, 0)
    return {**fresh, "name": name}
