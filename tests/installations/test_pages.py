"""The pages of the install flow as the partner wants them: languages, look, policy, the page in front of consent."""

import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from pydantic import ValidationError

from aircall_oauth.errors import SettingsInvalid
from aircall_oauth.installations.oauth import languages, look
from aircall_oauth.installations.oauth.languages import LANGUAGES, chosen, words
from aircall_oauth.installations.oauth.pages import ENDINGS
from tests.support.service import PUBLIC_URL, Service, run_service, settings_for

CALLBACK, INSTALL = "/aircall/oauth/callback", "/aircall/oauth/install"
PARTNER = {
    "APP_NAME": "Müller & <Söhne>",
    "LOGO_URL": "https://cdn.example.com:8443/logo.svg?v=2",
    "SUPPORT": "help@example.com",
    "ACCENT": "#ffcc00",
}
DECLINED = {
    "en": "You declined",
    "fr": "Vous avez refusé",
    "de": "Sie haben abgelehnt",
    "es": "Ha rechazado",
    "pt": "recusada",
}


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
        return
    for key, one in value.items():
        yield from flat(one, f"{path}.{key}")


def said(language: str) -> dict[str, str]:
    spoken = words(language)
    return dict(flat({name: getattr(spoken, name) for name in ("this_app", "your_account", "label", "next", "page")}))


def places(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in Formatter().parse(text) if name)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_language_lacks_a_string_or_has_one_that_is_not_translated(language: str) -> None:
    english, spoken = said("en"), said(language)

    assert set(english) == set(spoken)
    assert all(text.strip() == text and text for text in spoken.values())
    assert {key: places(text) for key, text in spoken.items()} == {key: places(text) for key, text in english.items()}
    assert language == "en" or [key for key in english if english[key] == spoken[key]] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_ending_has_its_words_in_every_language(language: str) -> None:
    spoken = words(language)

    for kind, shown in ENDINGS.items():
        texts = spoken.page[kind.code()]
        assert texts["title"]
        assert texts["happened"]
        assert texts["next"] if shown.next_step is None else spoken.next[shown.next_step]


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("de", "de"),
        ("DE-at", "de"),
        ("pt-BR,pt;q=0.9,en;q=0.8", "pt"),
        ("nl,fr;q=0.5,de;q=0.7", "de"),
        ("en;q=0.1,es;q=0.2", "es"),
        ("fr;q=0,de;q=0.001", "de"),
        ("fr;q=0", "en"),
        ("nl, ja", "en"),
        ("*", "en"),
        ("*;q=0.5,fr;q=0.4", "en"),
        ("zh-Hant-TW, es-419 ; q=0.8", "es"),
        ("de;q=2,fr", "fr"),
        ("de;q=NaN,fr;q=0.3", "fr"),
        ("../de", "en"),
        ("de/../../x", "en"),
        ("x" * 10_000, "en"),
        ("nl," * 5000 + "de", "en"),
        ("fr,de", "fr"),
    ],
)
def test_the_language_is_the_one_the_browser_likes_most(accepted: str | None, language: str) -> None:
    assert chosen(accepted) == language


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_page_is_in_the_browsers_language_and_says_so(service: Service, language: str) -> None:
    state = await service.begin()

    got = await service.browser.get(
        CALLBACK,
        params={"state": state, "error": "access_denied"},
        headers={"accept-language": f"xx, {language}-CH;q=0.7"},
    )

    assert DECLINED[language] in got.text
    assert f'<html lang="{language}">' in got.text
    assert got.headers["content-language"] == language
    assert "accept-language" in got.headers["vary"].lower()
    assert 'class="calm"' in got.text, "to decline is no alarm"


async def test_all_that_is_the_partners_is_on_the_page_escaped_and_allowed_by_the_policy(database_url: str) -> None:
    async with run_service(settings_for(database_url, **PARTNER)) as service:
        got = await service.browser.get(CALLBACK)

    assert "Müller &amp; &lt;Söhne&gt;" in got.text
    assert 'src="https://cdn.example.com:8443/logo.svg?v=2"' in got.text
    assert 'href="mailto:help@example.com"' in got.text
    assert "--accent: #ffcc00; --on-accent: #000000" in got.text
    policy = got.headers["content-security-policy"].split("; ")
    assert "img-src https://cdn.example.com:8443" in policy
    assert not any(part.startswith("script-src") for part in policy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCENT", "red"),
        ("ACCENT", "#fff"),
        ("ACCENT", "#ffffff;}body{display:none"),
        ("LOGO_URL", "http://cdn.example.com/x.png"),
        ("LOGO_URL", "https://x; script-src *"),
        ("LOGO_URL", "https://x;script-src/a.png"),
        ("LOGO_URL", "https://*.example.com/a.png"),
        ("LOGO_URL", "https://[::1]/a.png"),
        ("LOGO_URL", "data:image/png;base64,AAAA"),
        ("LOGO_URL", "https://exämple.com/a.png"),
        ("SUPPORT", "javascript:alert(1)"),
        ("SUPPORT", "help@example.com?subject=x"),
        ("SUPPORT", "call us"),
        ("APP_NAME", "a\nb"),
        ("APP_NAME", "x" * 61),
        ("INSTALL_PAGE", "/nowhere/install.html"),
    ],
)
def test_a_look_that_is_not_right_is_refused_at_start(database_url: str, name: str, value: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings_for(database_url, **{name: value})

    assert {error["loc"][0] for error in refused.value.errors()} == {name.lower()}


@pytest.mark.parametrize("colour", ["#000000", "#ffffff", "#777777", "#ffcc00", "#1d4ed8", "#ff0000", "#00a86b"])
def test_what_stands_on_the_accent_can_be_read(colour: str) -> None:
    behind, ink = look._luminance(colour), look._luminance(look.ink_on(colour))

    assert (max(behind, ink) + 0.05) / (min(behind, ink) + 0.05) >= 4.5


async def test_a_claim_code_can_be_read_without_the_script_and_the_policy_allows_this_script_only(
    database_url: str,
) -> None:
    async with run_service(settings_for(database_url, CLAIM="required")) as service:
        got = await service.return_with(state=await service.begin(), code=service.aircall.grant())

    assert re.search(r'<code id="claim">\S{20,}</code>', got.text)
    assert re.search(r'<button[^>]* id="copy"[^>]* hidden>Copy', got.text)
    assert f"script-src {look._hash(look.script())}" in got.headers["content-security-policy"]
    assert f"<script>{look.script()}</script>" in got.text
    assert 'id="reference"' in got.text


async def test_the_page_of_success_shows_the_reference(database_url: str) -> None:
    async with run_service(settings_for(database_url, SUCCESS_URL="")) as service:
        got = await service.return_with(state=await service.begin(), code=service.aircall.grant())
        (row,) = await service.sql("SELECT reference FROM install_attempt")

    assert f'<code id="reference">{row["reference"]}</code>' in got.text


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    page = tmp_path / "install.html"
    page.write_text("<ol><li>You need {{ app }}.</li></ol>{% if reference %}<b>{{ reference }}</b>{% endif %}")
    (tmp_path / "install.de.html").write_text("<p>Sie brauchen {{ app }} ({{ language }}).</p>")
    return page


async def test_a_page_of_the_partners_stands_in_front_of_consent(database_url: str, instructions: Path) -> None:
    async with run_service(settings_for(database_url, INSTALL_PAGE=str(instructions), **PARTNER)) as service:
        first = await service.browser.get(INSTALL)
        german = await service.browser.get(INSTALL, headers={"accept-language": "de"})
        (way,) = re.findall(r'id="continue" href="(.*?)"', first.text)
        then = await service.browser.get(way)

    assert (first.status_code, german.status_code) == (200, 200)
    assert "<ol><li>You need Müller &amp; &lt;Söhne&gt;.</li></ol>" in first.text
    assert "<p>Sie brauchen Müller &amp; &lt;Söhne&gt; (de).</p>" in german.text
    assert "set-cookie" not in first.headers, "the ten minutes begin with the button"
    assert "default-src 'none'" in first.headers["content-security-policy"]
    assert "script-src" not in first.headers["content-security-policy"]
    assert way == f"{PUBLIC_URL}{INSTALL}?proceed=1"
    assert then.headers["location"].startswith(service.settings.authorize_url)


async def test_the_page_in_front_keeps_the_link_and_refuses_what_consent_would(
    database_url: str, instructions: Path
) -> None:
    async with run_service(settings_for(database_url, INSTALL_PAGE=str(instructions))) as service:
        partner = await service.partner()
        made = (await partner.post("/v1/install-links", json={"owner": "acme"})).json()
        shown = await service.browser.get(made["url"])
        (way,) = re.findall(r'id="continue" href="(.*?)"', shown.text)
        then = await service.browser.get(way.replace("&amp;", "&"))
        bad = [
            await service.browser.get(INSTALL, params=query)
            for query in ({"return_to": "https://evil.example.com"}, {"link": "x.y"}, {"proceed": "2"})
        ]

    assert f"<b>{made['reference']}</b>" in shown.text
    assert then.status_code == 303
    assert [got.status_code for got in bad] == [400, 400, 400]
    assert not any('id="continue"' in got.text for got in bad)


@pytest.mark.parametrize(
    "text", ["{% if %}", "{{ nothing_known }}", "{{ ''.__class__.__mro__ }}", "{% include '/etc/passwd' %}"]
)
def test_a_template_that_does_not_work_is_refused_at_start(database_url: str, tmp_path: Path, text: str) -> None:
    page = tmp_path / "install.html"
    page.write_text(text)

    with pytest.raises(SettingsInvalid) as refused:
        look.require_install_page(settings_for(database_url, INSTALL_PAGE=str(page)))

    assert "AIRCALL_OAUTH_INSTALL_PAGE" in refused.value.problems[0]


async def test_a_browser_is_told_what_the_service_is_and_programs_get_json_as_ever(service: Service) -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    page = await service.browser.get("/", headers={"accept": browser, "accept-language": "es"})
    json = [await service.browser.get("/", headers={"accept": accept}) for accept in ("*/*", "application/json")]
    posted = await service.browser.post("/", headers={"accept": browser})

    assert (page.status_code, page.headers["content-language"]) == (200, "es")
    assert "Conexiones con Aircall" in page.text
    assert {"accept", "accept-language"} <= {part.strip().lower() for part in page.headers["vary"].split(",")}
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for got in (*json, posted):
        assert (got.status_code, got.json()["code"]) == (404, "not_found")


def test_the_files_of_words_are_those_of_the_languages() -> None:
    folder = Path(languages.__file__).parent / "words"

    assert sorted(path.stem for path in folder.iterdir()) == sorted(LANGUAGES)
