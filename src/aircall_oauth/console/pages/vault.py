"""The vault: under which keys secrets are sealed, and how far a rotation is."""

from dataclasses import dataclass

from fastapi import APIRouter, Response

from aircall_oauth.console import acts, words
from aircall_oauth.console.acts import Act
from aircall_oauth.console.frame import ActingPage, PageDep
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.operations import rotation

router = APIRouter(route_class=PageRoute)


@dataclass(frozen=True)
class KeyInUse:
    """A sealing key: its id, how many secrets are sealed under it, and what it is for."""

    id: str
    secrets: int
    seals: bool
    known: bool


@router.get("/vault")
async def vault(page: PageDep) -> Response:
    """Which keys are in use, and how far is a rotation?"""
    found = await _keys(page)
    old = sum(key.secrets for key in found if not key.seals)
    return page.show(
        "vault.html",
        title="Vault",
        sentence=_sentence(found, old),
        keys=found,
        old=old,
        share=_share(found, old),
    )


@router.get("/vault/rotate")
async def ask_rotate(page: PageDep) -> Response:
    """Ask before everything is sealed again."""
    old = sum(key.secrets for key in await _keys(page) if not key.seals)
    return page.ask(
        Act(
            title="Seal everything under the first key",
            sentence=f"This opens {words.count(old, 'secret')} and seals them under {page.resources.vault.key_ids[0]}.",
            effects=[
                "The service goes on meanwhile, and it may be interrupted and started again.",
                "Do it when every process has the new key as its first.",
            ],
            button="Seal again",
            back="/vault",
            command=acts.command("secrets", "rotate"),
        )
    )


@router.post("/vault/rotate")
async def rotate(page: ActingPage) -> Response:
    """Begin to seal everything under the first key; it goes on when this request is answered."""
    page.resources.go_on(rotation.rotate(page.resources, lambda _: None, page.who))
    return page.done(
        "Begun", "The secrets are being sealed again; the vault's page shows how far it is.", back="/vault"
    )


async def _keys(page: PageDep) -> list[KeyInUse]:
    in_use, configured = await rotation.keys_in_use(page.resources), page.resources.vault.key_ids
    ids = [*configured, *sorted(set(in_use) - set(configured))]
    return [KeyInUse(key, in_use.get(key, 0), key == configured[0], key in configured) for key in ids]


def _sentence(keys: list[KeyInUse], old: int) -> str:
    first = next(key.id for key in keys if key.seals)
    if not old:
        idle = [key.id for key in keys if not key.seals and not key.secrets]
        said = f"Every secret is sealed under the key {first}."
        return f"{said} {', '.join(idle)} can be removed from the settings." if idle else said
    return f"{words.count(old, 'secret')} {'is' if old == 1 else 'are'} still sealed under an older key than {first}."


def _share(keys: list[KeyInUse], old: int) -> int:
    in_all = sum(key.secrets for key in keys)
    return 100 if not in_all else 100 * (in_all - old) // in_all
