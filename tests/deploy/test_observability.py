"""The dashboard and the alerts ask for what there is, under the names and labels it has."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from aircall_oauth.errors import AppError
from aircall_oauth.events.receiver.statement import TakenIn
from aircall_oauth.operations.measure import measure
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.server import worker
from aircall_oauth.server.metrics_port import metrics_served
from tests.support.processes import eventually
from tests.support.receivers import LOOPBACK, receiver, subscribe, tell
from tests.support.service import Service, run_service, settings_for
from tests.support.tools import run, tool

FOLDER = Path(__file__).parents[2] / "deploy" / "observability"
KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks.md"
SOURCE = Path(__file__).parents[2] / "src" / "aircall_oauth"
SELECTOR = re.compile(r"\b((?:aircall_oauth|process)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on) \(([^)]*)\)")
# What Prometheus adds to every sample of a process.
TARGET_LABELS = {"instance"}
# Labels with all their values present once each chore has run.
ENUMERATED = {"step", "outcome", "chore", "role"}
GROWTH = re.compile(r"\b(?:increase|rate)\(((?:aircall_oauth_)\w+_total)(?:\{([^}]*)\})?\[")


def panels() -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return every


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def questions() -> list[str]:
    """Every expression of the dashboard and the alerts."""
    asked = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    return asked + [rule["expr"] for rule in alerts()]


@asynccontextmanager
async def busy_service(database_url: str, **changes: str) -> AsyncIterator[Service]:
    """A service with a worker, in which everything has happened once."""
    settings = settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK, **changes)
    async with run_service(settings) as service, receiver() as to:
        await service.install()
        await service.return_with(state=await service.begin(), error="access_denied")
        await subscribe(service, to.url, name="crm")
        await tell(service, 1)
        registry = service.resources.metrics.registry
        async with worker.working(service.resources):

            async def all_happened() -> bool:
                name = "aircall_oauth_chore_seconds_count"
                ran = all(registry.get_sample_value(name, {"chore": chore.name}) for chore in worker.CHORES)
                return ran and bool(to.taken)

            await eventually(all_happened)
            await measure(service.resources)
            yield service


@pytest.fixture
async def samples(database_url: str) -> dict[str, dict[str, set[str]]]:
    """What a process tells after everything has happened once: name, its labels, their values."""
    async with busy_service(database_url) as service:
        told: dict[str, dict[str, set[str]]] = {}
        for family in service.resources.metrics.registry.collect():
            for sample in family.samples:
                labels = told.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
    return told


@pytest.mark.slow
async def test_what_is_asked_for_is_told(samples: dict[str, dict[str, set[str]]]) -> None:
    for question in questions():
        asked = SELECTOR.findall(question)
        assert asked, question
        labels = set().union(*(samples.get(name, {}) for name, _ in asked), TARGET_LABELS)
        for name, matchers in asked:
            assert name in samples, question
            for label, _, _ in MATCHER.findall(matchers):
                assert label in samples[name].keys() | TARGET_LABELS, question
        for grouping in GROUPING.findall(question):
            assert {label.strip() for label in grouping.split(",")} <= labels, question


@pytest.mark.slow
async def test_a_value_that_is_asked_for_can_be_told(samples: dict[str, dict[str, set[str]]]) -> None:
    codes = {kind.code() for kind in every_error(AppError)}
    answers = codes | {str(kind.name).lower() for kind in TakenIn}
    for question in questions():
        for name, matchers in SELECTOR.findall(question):
            for label, how, value in MATCHER.findall(matchers):
                if how not in {"=", "!="}:
                    continue
                if label in ENUMERATED or name in {"aircall_oauth_installations", "aircall_oauth_webhooks"}:
                    assert value in samples[name][label], question
                elif label in {"answer", "ending"}:
                    assert value in answers, question


@pytest.mark.slow
async def test_everything_that_is_told_is_looked_at(samples: dict[str, dict[str, set[str]]]) -> None:
    suffixes = re.compile(r"_(?:bucket|sum|count|created)$")
    told = {suffixes.sub("", name) for name in samples if name.startswith("aircall_oauth_")}
    told -= {name.removesuffix("_total") for name in told if name.endswith("_total")}

    looked_at = {suffixes.sub("", name) for question in questions() for name, _ in SELECTOR.findall(question)}

    assert told - looked_at == set()


async def test_a_counter_that_an_alert_watches_is_there_before_its_first_count(database_url: str) -> None:
    async with run_service(settings_for(database_url)) as service:
        service.resources.metrics.expect_chores(chore.name for chore in worker.CHORES)
        families = list(service.resources.metrics.registry.collect())

    watched = [found for rule in alerts() for found in GROWTH.findall(rule["expr"])]
    assert watched
    for name, matchers in watched:
        wanted = {label: value for label, _, value in MATCHER.findall(matchers)}
        counters = [s for family in families for s in family.samples if s.name == name]
        found = [s for s in counters if wanted.items() <= s.labels.items()]
        assert found, (name, wanted)
        assert {0.0} == {s.value for s in found}, (name, wanted)


async def test_every_door_has_its_counter_of_failures_from_the_start(database_url: str) -> None:
    async with run_service(settings_for(database_url)) as service:
        families = list(service.resources.metrics.registry.collect())
        document = service.app.openapi()

    failures = {
        (sample.labels["path"].replace(":path}", "}"), sample.labels["method"])
        for family in families
        for sample in family.samples
        if sample.name == "aircall_oauth_http_requests_total" and sample.labels["status"] == "500"
    }
    doors = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert doors - failures == set()


@pytest.mark.slow
@pytest.mark.deploy
async def test_prometheus_has_an_answer_for_every_panel_and_evaluates_every_rule(
    database_url: str, tmp_path: Path
) -> None:
    program, scraped, port = tool("prometheus", found_in="Debian's package prometheus"), free_port(), free_port()
    configuration = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(FOLDER / "alerts.yaml")],
        "scrape_configs": [{"job_name": "one", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    command = [
        program,
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with (
        busy_service(database_url, METRICS_PORT=str(scraped), METRICS_HOST="127.0.0.1") as service,
        metrics_served(service.resources),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False) as prometheus,
    ):
        with (tmp_path / "prometheus.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            # A rate needs two samples of what has been there from the first on.
            await eventually(lambda: asked(prometheus, "count_over_time(up[1m]) >= 3"))
            targets = [(panel["title"], target["expr"]) for panel in panels() for target in panel.get("targets", [])]
            silent = [(title, expr) for title, expr in targets if not await asked(prometheus, of_grafana(expr))]
            groups = (await prometheus.get("/rules")).json()["data"]["groups"]
        finally:
            process.terminate()
            await process.wait()

    assert silent == []

    rules = [rule for group in groups for rule in group["rules"]]
    assert sorted(rule["name"] for rule in rules) == sorted(rule["alert"] for rule in alerts())
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


async def asked(prometheus: httpx.AsyncClient, question: str) -> list[Any]:
    """The series that Prometheus answers a question with."""
    response = await prometheus.get("/query", params={"query": question})
    if response.status_code == 503:  # still starting
        return []
    answer = response.json()
    assert answer["status"] == "success", f"{question}: {answer['error']}"
    series: list[Any] = answer["data"]["result"]
    return series


def of_grafana(question: str) -> str:
    """A panel's expression as Grafana sends it."""
    for variable, value in (("$__rate_interval", "30s"), ("$__range", "1h"), ("$instance", ".*")):
        question = question.replace(variable, value)
    return question


@pytest.mark.slow
@pytest.mark.deploy
def test_each_alert_fires_when_it_should_and_not_before() -> None:
    cases = yaml.safe_load((FOLDER / "alerts.test.yaml").read_text())["tests"]

    assert [rule["alert"] for rule in alerts()] == [case["name"] for case in cases]
    run(tool("promtool", found_in="Debian's package prometheus"), "test", "rules", FOLDER / "alerts.test.yaml")


def test_every_alert_leads_to_its_runbook_and_every_runbook_has_its_alert() -> None:
    rules = {rule["alert"]: rule for rule in alerts()}
    books = runbooks()

    assert list(rules) == list(books), "each alert once, in the same order"
    for name, rule in rules.items():
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert books[name].startswith(f"\n`{rule['labels']['severity']}`\n"), name


def test_every_runbook_says_what_it_means_what_to_look_at_what_to_do_and_when_it_is_over() -> None:
    for name, book in runbooks().items():
        parts = re.findall(r"^- \*\*(.+?):\*\*\s+\S", book, re.MULTILINE)
        assert parts == ["It means", "Look at", "Do", "It is over when"], name


def test_what_runbooks_and_alerts_quote_is_what_the_service_says() -> None:
    source = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    page, panels_shown = RUNBOOKS.read_text(), {panel["title"] for panel in panels()}
    quoted = re.findall(r"`([a-z]+(?: [a-z]+)+)`", page)
    quoted += [line for rule in alerts() for line in re.findall(r'\("([a-z ]+)"\)', rule["annotations"]["description"])]

    assert len(quoted) > 10, "the pattern is wrong"
    for line in quoted:
        assert f'"{line}"' in source, line
    for title in re.findall(r"dashboard's \*([^*]+)\*", page):
        assert title in panels_shown
    sections = {name.lower() for name in runbooks()}
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= sections
    for code in re.findall(r"`(\w+(?:_\w+)+)`:", page):
        assert code in {kind.code() for kind in every_error(AppError)}, code


def runbooks() -> dict[str, str]:
    """The sections of the runbooks by their alert, each a text."""
    parts = re.split(r"^### (\w+)\n", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_panels_have_a_place_each() -> None:
    ids = [panel["id"] for panel in panels()]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]

    assert (len(ids), len(places)) == (len(set(ids)), len(set(places)))
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels())


@pytest.mark.parametrize("workload", ["web", "worker"])
def test_kubernetes_lets_the_metrics_of_each_pod_be_scraped(workload: str) -> None:
    base = yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())
    port = dict(line.split("=", 1) for line in base["configMapGenerator"][0]["literals"])["AIRCALL_OAUTH_METRICS_PORT"]
    template = yaml.safe_load((KUBERNETES / f"base/{workload}.yaml").read_text())["spec"]["template"]
    policy = yaml.safe_load((KUBERNETES / "base/networkpolicy.yaml").read_text())["spec"]["ingress"]

    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": port,
        "prometheus.io/path": "/metrics",
    }
    (container,) = template["spec"]["containers"]
    assert {"name": "metrics", "containerPort": int(port)} in container["ports"]
    assert int(port) in [rule["ports"][0]["port"] for rule in policy if "from" in rule]


def every_error(kind: type[AppError]) -> list[type[AppError]]:
    return [kind, *(deeper for each in kind.__subclasses__() for deeper in every_error(each))]
