"""The pages that operators follow lead to what is there: sections, metrics, commands."""

import re
from pathlib import Path

import pytest

from aircall_oauth.cli import reference

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["upgrading.md", "runbooks.md", "high-availability.md"]
WITHOUT_METRICS = ["keys.md", "brokers.md", "containers.md"]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def sections(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*PAGES, *WITHOUT_METRICS])
def test_each_link_of_a_page_leads_to_a_section_that_is_there(name: str) -> None:
    links = LINK.findall((DOCS / name).read_text())

    assert links
    for path, anchor in links:
        target = (DOCS / path) if path else DOCS / name
        assert target.exists(), path
        assert not anchor or anchor in sections(target), f"{path}#{anchor}"


@pytest.mark.parametrize("name", PAGES)
def test_each_metric_of_a_page_is_one_that_is_told(name: str) -> None:
    named = set(re.findall(r"`(aircall_oauth_\w+)", (DOCS / name).read_text()))

    assert named <= set(re.findall(r"`(aircall_oauth_\w+)`", reference.metrics_table()))
    assert named


def test_nothing_says_to_install_the_service_from_an_index_and_a_page_says_where_its_wheel_is() -> None:
    root, page = DOCS.parent, (DOCS / "upgrading.md").read_text()
    files = [root / "README.md", *DOCS.glob("*.md"), *(root / "src").rglob("*.py")]
    from_an_index = re.compile(r"pip install (?:-\S+ )*['\"]?aircall-oauth")
    block = re.search(r"<!-- machine -->\n```sh\n(.*?)```", page, re.DOTALL)

    assert [file.name for file in files if from_an_index.search(" ".join(file.read_text().split()))] == []
    assert block
    assert re.search(r" aircall_oauth-[0-9.]+-py3-none-any\.whl$", block[1], re.MULTILINE)
    assert "(releasing.md#what-a-release-has)" in page
