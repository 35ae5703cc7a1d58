"""What ships in containers is what the service understands, and no tool that judges it has a complaint."""

import os
import re
import ssl
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.kubernetes import require_fit
from tests.support.tools import run, tool

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
KUBERNETES = ROOT / "deploy" / "kubernetes"
KUSTOMIZATIONS = ["base", "overlays/example"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
WORKLOADS = {"Deployment", "Job"}
NO_RIGHTS = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# In two parts, because this file is looked through as well.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("gcr", "io"),
        ("quay", "io"),
        ("registry", "k8s", "io"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
    ]
]


@pytest.mark.deploy
def test_hadolint_has_no_complaint_about_the_dockerfile() -> None:
    run(tool("hadolint"), DOCKERFILE)


@pytest.mark.deploy
def test_the_compose_file_fits_the_compose_schema() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


@pytest.mark.deploy
@pytest.mark.parametrize("folder", KUSTOMIZATIONS)
def test_the_manifests_render_and_fit_the_kubernetes_schemas(folder: str) -> None:
    rendered = run(tool("kubectl"), "kustomize", KUBERNETES / folder)

    assert require_fit(rendered) >= {"Deployment", "Job"}


@pytest.mark.deploy
def test_rendering_keeps_the_network_policy_to_our_pods() -> None:
    documents = yaml.safe_load_all(run(tool("kubectl"), "kustomize", KUBERNETES / "overlays/example"))
    policy = next(d for d in documents if d["kind"] == "NetworkPolicy")

    assert policy["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "aircall-oauth"}}
    assert policy["spec"]["ingress"][1]["from"] == [{"podSelector": {}}]


def test_every_variable_that_is_set_is_a_setting() -> None:
    from aircall_oauth.settings import Settings
    from aircall_oauth.storage.secret_files import SECRETS_DIR, environment_name

    known = {environment_name(field) for field in Settings.model_fields} | {SECRETS_DIR}
    files = [DOCKERFILE, COMPOSE, *_manifest_files()]
    used = {name for file in files for name in re.findall(r"\bAIRCALL_OAUTH_[A-Z_]*[A-Z]\b", file.read_text())}

    assert used, "nothing was found: the pattern or the files are wrong"
    assert set() == used - known


def test_the_example_deployment_sets_every_required_setting() -> None:
    from aircall_oauth.settings import Settings
    from aircall_oauth.storage.secret_files import environment_name

    required = {environment_name(name) for name, f in Settings.model_fields.items() if f.is_required()}
    secret = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text())["stringData"]
    literals = yaml.safe_load((KUBERNETES / "overlays/example/kustomization.yaml").read_text())["configMapGenerator"][
        0
    ]["literals"]

    assert required == set(secret) | {literal.split("=", 1)[0] for literal in literals}


def test_the_example_secrets_database_url_works_once_it_is_filled_in() -> None:
    from aircall_oauth.storage import database_url

    secret = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text())["stringData"]
    url = secret["AIRCALL_OAUTH_DATABASE_URL"].removeprefix("REPLACE: ")
    address = database_url.read(url)

    assert "sslmode=verify-full" in address.dsn
    assert address.tls is not None, "verify-full needs certificates to trust, and the image's user has no home"
    assert address.tls().verify_mode == ssl.CERT_REQUIRED
    assert address.tls().check_hostname


def test_no_manifest_carries_a_secret() -> None:
    listed = [
        resource
        for folder in KUSTOMIZATIONS
        for resource in yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
    ]

    assert not [resource for resource in listed if "secret" in resource]
    secret = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text())["stringData"]
    assert all(value.startswith("REPLACE") for value in secret.values())


def test_every_image_of_ours_has_this_version() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())["services"].values()
    images = [service["image"] for service in compose] + [c["image"] for _, _, c in _containers()]
    overlay = yaml.safe_load((KUBERNETES / "overlays/example/kustomization.yaml").read_text())["images"]

    assert all(":" in image and not image.endswith(":latest") for image in images)
    ours = {image.partition(":")[2] for image in images if image.startswith("aircall-oauth:")}
    assert {VERSION} == ours | {image["newTag"] for image in overlay}
    assert f"ARG VERSION={VERSION}\n" in DOCKERFILE.read_text()


def test_no_container_in_kubernetes_has_a_right_it_does_not_need() -> None:
    for workload, pod, container in _containers():
        assert container["securityContext"] == NO_RIGHTS, workload
        assert pod["automountServiceAccountToken"] is False, workload
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }, workload
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], workload
        assert "memory" in container["resources"]["limits"], workload


def test_no_container_in_compose_has_a_right_it_does_not_need() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]

    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name in ("migrate", "service"):
        assert services[name]["read_only"] is True, name
        assert services[name]["user"] == "10001:10001", name
        assert "cap_add" not in services[name], name


def test_no_pod_is_given_service_link_variables() -> None:
    """They would be called AIRCALL_OAUTH_SERVICE_HOST and so on: names the service refuses to start with."""
    assert all(pod["enableServiceLinks"] is False for _, pod, _ in _containers())


def test_a_web_pod_is_given_time_to_finish() -> None:
    from aircall_oauth.server.web import GRACEFUL_SECONDS
    from aircall_oauth.settings import parse_duration

    pod, container = next((p, c) for name, p, c in _containers() if name == "aircall-oauth-web")
    base = yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())
    set_for_all = dict(literal.split("=", 1) for literal in base["configMapGenerator"][0]["literals"])
    drain = parse_duration(set_for_all["AIRCALL_OAUTH_DRAIN"]).total_seconds()

    assert pod["terminationGracePeriodSeconds"] >= drain + GRACEFUL_SECONDS + 10
    assert "lifecycle" not in container, "the service drains by itself"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"


def test_a_worker_is_probed_on_the_port_of_its_metrics() -> None:
    container = next(c for name, _, c in _containers() if name == "aircall-oauth-worker")
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}

    assert probes == {
        "startup": {"path": "/readyz", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
        "liveness": {"path": "/livez", "port": "metrics"},
    }


def test_one_that_exits_soon_after_its_start_replaces_none() -> None:
    deployments = [
        document["spec"]
        for file in _manifest_files()
        for document in yaml.safe_load_all(file.read_text())
        if document["kind"] == "Deployment" and "template" in document["spec"]
    ]

    assert len(deployments) == 2
    for spec in deployments:
        assert spec["minReadySeconds"] >= 10
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.deploy
def test_no_way_from_outside_leads_to_the_console() -> None:
    rendered = list(yaml.safe_load_all(run(tool("kubectl"), "kustomize", KUBERNETES / "overlays/example")))
    services = {each["metadata"]["name"]: each["spec"] for each in rendered if each["kind"] == "Service"}
    console = next(
        port["containerPort"]
        for name, _, container in _containers()
        if name == "aircall-oauth-web"
        for port in container["ports"]
        if port["name"] == "console"
    )

    assert [port["targetPort"] for port in services["aircall-oauth"]["ports"]] == ["http"]
    assert [port["targetPort"] for port in services["aircall-oauth-console"]["ports"]] == ["console"]
    assert services["aircall-oauth-console"].get("type", "ClusterIP") == "ClusterIP"
    (ingress,) = [each for each in rendered if each["kind"] == "Ingress"]
    assert "aircall-oauth-console" not in yaml.safe_dump(ingress)
    (policy,) = [each for each in rendered if each["kind"] == "NetworkPolicy"]
    (rule,) = [each for each in policy["spec"]["ingress"] if console in [port["port"] for port in each["ports"]]]
    proxy = {"matchExpressions": [{"key": "aircall-oauth/console", "operator": "Exists"}]}
    assert rule["from"] == [{"podSelector": proxy}]


def test_compose_publishes_the_console_to_this_machine_only() -> None:
    service = yaml.safe_load(COMPOSE.read_text())["services"]["service"]

    assert service["environment"]["AIRCALL_OAUTH_CONSOLE_PORT"] == "8300"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_dockerfile_takes_the_whole_build_backend_from_the_lock() -> None:
    wanted = re.search(r"keep = /\^\(([a-z0-9|-]+)\)==/", DOCKERFILE.read_text())

    assert wanted
    assert _with_dependencies("hatchling") == set(wanted[1].split("|"))


def test_the_image_check_is_a_program_that_bash_can_read() -> None:
    script = ROOT / "deploy" / "check-image"

    assert os.access(script, os.X_OK)
    run("bash", "-n", script)


def test_no_tracked_file_names_a_registry_host() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    tracked = run("git", "-C", ROOT, "ls-files", "-z").split("\0")

    found = [
        f"{name}: {host}"
        for name in tracked
        if (ROOT / name).is_file()
        for host in REGISTRY_HOSTS
        if host.encode() in (ROOT / name).read_bytes()
    ]

    assert found == []


def _manifest_files() -> list[Path]:
    return sorted(KUBERNETES.rglob("*.yaml"))


def _containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Workload name, pod and container, of every container there is."""
    for file in _manifest_files():
        for document in yaml.safe_load_all(file.read_text()):
            if document["kind"] in WORKLOADS:
                pod = document["spec"]["template"]["spec"]
                for container in pod["containers"] + pod.get("initContainers", []):
                    yield document["metadata"]["name"], pod, container


def _with_dependencies(name: str) -> set[str]:
    needed = [Requirement(text) for text in requires(name) or []]
    names = [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return {name}.union(*(_with_dependencies(each) for each in names))
