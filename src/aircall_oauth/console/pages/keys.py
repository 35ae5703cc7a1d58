"""API keys: what there is, making one, revoking one."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Response

from aircall_oauth.access import keys, known_keys, rules
from aircall_oauth.access.keys import API_KEY_PREFIX
from aircall_oauth.access.known_keys import KnownKey
from aircall_oauth.access.scopes import Scope
from aircall_oauth.console import acts, words
from aircall_oauth.console.acts import Act, Field
from aircall_oauth.console.corrections import WrongForm
from aircall_oauth.console.frame import ActingPage, Form, Page, PageDep
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.console.visitors import Visitor
from aircall_oauth.errors import InvalidRequest, NotFound, OwnerNotAllowed
from aircall_oauth.settings import parse_duration
from aircall_oauth.storage.stamps import now

router = APIRouter(route_class=PageRoute)

KeyId = Annotated[str, Path(pattern=r"^key_[0-9a-f]{32}$")]
MOST_OF_A_NAME = 100
SAID = {
    Scope.INSTALLATIONS_READ: "see installations and install attempts",
    Scope.INSTALLATIONS_WRITE: "make links, claim, check, disconnect",
    Scope.AIRCALL_CALL: "ask Aircall as an installation",
    Scope.EVENTS_READ: "read the log",
    Scope.SUBSCRIPTIONS_READ: "see subscriptions",
    Scope.SUBSCRIPTIONS_WRITE: "make and change subscriptions, replay",
    Scope.SUBSCRIPTIONS_BROKERS: "brokers as destinations, for a key bound to an owner",
    Scope.AUDIT_READ: "read the audit",
    Scope.PRIVACY_ERASE: "erase what is held about a person or a customer",
    Scope.PRIVACY_RETENTION: "say how long an owner's events are kept",
    Scope.PRIVACY_EXPORT: "read all that is held about a customer",
    Scope.CONSOLE_READ: "look at the console",
    Scope.CONSOLE_ACT: "look and act in the console",
    Scope.PAYLOADS_READ: "show personal data in the console",
}


@router.get("/keys")
async def list_keys(page: PageDep) -> Response:
    """Who may use the API?"""
    found = await known_keys.list_all(page.resources)
    rows = [(key, key.status(now())) for key in reversed(found)]
    active = sum(status == "active" for _, status in rows)
    past = len(rows) - active
    return page.show(
        "keys.html",
        title="Keys",
        sentence=f"{words.count(active, 'API key')} can be used; {words.count(past, 'other')} cannot any more.",
        rows=rows,
    )


@router.get("/keys/new")
async def ask_key(page: PageDep) -> Response:
    """Ask what a key is for."""
    return page.ask(_new(page.visitor, {}))


@router.post("/keys/new")
async def make_key(page: ActingPage, form: Form) -> Response:
    """Make a key, and show it this once."""
    try:
        name, scopes = _name(form), _scopes(page.visitor, form)
        aircall = _rules(page.visitor, form, scopes)
        lifetime = _lifetime(form)
        once = page.once
        secret = await keys.create(
            page.resources,
            name=name,
            scopes=scopes,
            owner=form.get("owner"),
            aircall_rules=aircall,
            lifetime=lifetime,
            not_after=page.visitor.key.expires_at if page.visitor.key is not None else None,
            made_as=(once.id("key"), API_KEY_PREFIX + once.base64url),
            who=page.who,
        )
    except (InvalidRequest, OwnerNotAllowed) as error:
        return page.ask(_new(page.visitor, form), wrong=error)
    facts = _cut(page.visitor, form.get("expires"), lifetime)
    return page.done("Key made", f"This is the new API key “{name}”.", back="/keys", secret=secret, facts=facts)


@router.get("/keys/{key_id}/revoke")
async def ask_revoke(page: PageDep, key_id: KeyId) -> Response:
    """Ask before a key is revoked."""
    key = await _key(page, key_id)
    return page.ask(
        Act(
            title=f"Revoke the key “{key.name}”",
            sentence="This ends the key for good: the next request with it is refused, at every replica.",
            effects=[
                f"It may: {', '.join(key.scopes)}.",
                f"It was last used {f'{key.last_used_at:%Y-%m-%d %H:%M} UTC' if key.last_used_at else 'never'}.",
                "Sessions of the console that were opened with it end too.",
            ],
            button="Revoke this key",
            back="/keys",
            command=acts.command("keys", "revoke", key_id),
            dangerous=True,
        )
    )


@router.post("/keys/{key_id}/revoke")
async def revoke_key(page: ActingPage, key_id: KeyId) -> Response:
    """Revoke a key."""
    if not await keys.revoke(page.resources, key_id, who=page.who):
        raise NotFound("There is no active API key with this id.")
    return page.done("Key revoked", "The key is revoked.", back="/keys")


def _new(visitor: Visitor, given: Form) -> Act:
    return Act(
        title="Make an API key",
        sentence="This makes a key for one of your systems, or for a person who signs in here; it is shown once.",
        effects=[
            "It may be given what your own session holds, and no more.",
            *([] if visitor.reveals else ["What leads to personal data needs the scope payloads:read."]),
            *([] if visitor.key is None else ["It ends no later than the key that you signed in with."]),
            "Keys that read tokens in clear are made on the command line only.",
        ],
        button="Make the key",
        back="/keys",
        command=acts.command("keys", "create", "--name", given.get("name", "my-crm"), "--scopes", "events:read"),
        fields=[
            Field("name", "What it is for", value=given.get("name", ""), required=True),
            Field(
                "scopes",
                "What it may do",
                kind="checkboxes",
                value=given.get("scopes", "").split(","),
                options={str(scope): f"{scope}: {SAID[scope]}" for scope in visitor.grantable},
            ),
            Field("owner", "Owner", value=given.get("owner", ""), hint="The key then sees this owner's only."),
            Field("expires", "Works for", value=given.get("expires", ""), hint="Such as 90d; for good, if left out."),
            Field(
                "aircall",
                "Requests to Aircall that it may make",
                kind="textarea",
                value=given.get("aircall", ""),
                hint="One rule a line, such as GET,POST /calls/*; with aircall:call only. All, if left out.",
            ),
        ],
    )


def _name(form: Form) -> str:
    name = form.get("name", "")
    if not 0 < len(name) <= MOST_OF_A_NAME or not name.isprintable():
        raise WrongForm({"name": f"Say in 1 to {MOST_OF_A_NAME} visible characters what the key is for."})
    return name


def _scopes(visitor: Visitor, form: Form) -> list[Scope]:
    allowed, wanted = visitor.grantable, [scope for scope in form.get("scopes", "").split(",") if scope]
    if not wanted:
        raise WrongForm({"scopes": "Choose what the key may do."})
    if refused := set(wanted) - set(map(str, allowed)):
        said = ", ".join(sorted(refused))
        raise WrongForm({"scopes": f"This session can't give {said}: it does not hold that itself."})
    return [scope for scope in allowed if scope in wanted]


def _rules(visitor: Visitor, form: Form, scopes: list[Scope]) -> list[str] | None:
    """Return the requests to Aircall that are allowed; of a key that has rules, these or some of them."""
    given = [line.strip() for line in form.get("aircall", "").splitlines() if line.strip()]
    if given and Scope.AIRCALL_CALL not in scopes:
        raise WrongForm({"aircall": "Rules for requests to Aircall are for a key with aircall:call only."})
    held = visitor.key.aircall_rules if visitor.key is not None else None
    if held is None or Scope.AIRCALL_CALL not in scopes:
        return [_rule(rule) for rule in given] or None
    if beyond := [rule for rule in given if rule not in held]:
        raise WrongForm({"aircall": f"The key that you signed in with has no such rule: {', '.join(beyond)}."})
    return given or list(held)


def _rule(text: str) -> str:
    try:
        return rules.checked(text)
    except ValueError as error:
        raise WrongForm({"aircall": f"“{text}”: a rule {error}."}) from None


def _lifetime(form: Form) -> timedelta | None:
    try:
        return parse_duration(form["expires"]) if "expires" in form else None
    except ValueError:
        raise WrongForm({"expires": "Write a length such as 90d, 12h, 45m or 90s."}) from None


def _cut(visitor: Visitor, asked: str | None, lifetime: timedelta | None) -> list[str]:
    """Say when a key ends that was to work for longer than the one that its maker signed in with."""
    ends = visitor.key.expires_at if visitor.key is not None else None
    if ends is None or (lifetime is not None and now() + lifetime <= ends):
        return []
    said = f"It was to work for {asked}, but" if asked else "It has no end of its own, but"
    return [f"{said} it ends with the key that you signed in with: {ends:%Y-%m-%d %H:%M} UTC."]


async def _key(page: Page, key_id: str) -> KnownKey:
    for key in await known_keys.list_all(page.resources):
        if key.id == key_id and key.revoked_at is None:
            return key
    raise NotFound("There is no active API key with this id.")
