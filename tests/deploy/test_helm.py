"""The Helm chart renders what the kustomize base has, fits Kubernetes' schemas, and refuses wrong values by name."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from aircall_oauth.settings import Settings
from tests.support.kubernetes import require_fit
from tests.support.tools import run, tool

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "aircall-oauth"
EXAMPLES = sorted((ROOT / "deploy" / "helm" / "values").glob("*.yaml"))
MINIMAL = ROOT / "deploy" / "helm" / "values" / "minimal.yaml"
KUSTOMIZE_BASE = ROOT / "deploy" / "kubernetes" / "base"
OBSERVABILITY = ROOT / "deploy" / "observability"
VERSION = version("aircall-oauth")
SECRETS = "/run/secrets/aircall-oauth"
CHOSEN_BY_THE_CHART = {"METRICS_PORT", "METRICS_HOST", "CONSOLE_PORT", "CONSOLE_HOST"}

Documents = dict[tuple[str, str], dict[str, Any]]


def rendered(*more: str, values: Path = MINIMAL) -> Documents:
    """What the chart makes, by kind and name."""
    text = run(tool("helm"), "template", "aircall-oauth", CHART, "--values", values, *more)
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text) if each}


def refused(*more: str) -> str:
    done = subprocess.run(
        [tool("helm"), "template", "aircall-oauth", str(CHART), *more], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0, done.stdout
    return done.stderr


@pytest.mark.deploy
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_is_linted_and_fits_the_kubernetes_schemas(values: Path) -> None:
    helm = tool("helm")

    run(helm, "lint", "--strict", CHART, "--values", values)

    assert require_fit(run(helm, "template", "aircall-oauth", CHART, "--values", values)) >= {"Deployment", "Job"}


@pytest.mark.deploy
def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [], "restart": "no"}}

    with pytest.raises(Exception, match="'restart' was unexpected"):
        require_fit(json.dumps(pod))


@pytest.mark.deploy
@pytest.mark.parametrize("name", ["web", "worker", "migrate"])
def test_its_pods_are_those_of_the_kustomize_base(name: str) -> None:
    by_kustomize = yaml.safe_load_all(run(tool("kubectl"), "kustomize", KUSTOMIZE_BASE))
    kind = "Job" if name == "migrate" else "Deployment"
    whole = next(
        each for each in by_kustomize if (each["kind"], each["metadata"]["name"]) == (kind, f"aircall-oauth-{name}")
    )
    ours = rendered()[kind, f"aircall-oauth-{name}"]

    assert _comparable(ours["spec"]) == _comparable(whole["spec"])


def _comparable(spec: dict[str, Any]) -> dict[str, Any]:
    """Without labels, the checksum of the settings and the way in which they come."""
    spec = json.loads(json.dumps(spec))
    pod = spec["template"]["spec"]
    spec["template"]["metadata"].pop("labels")
    spec["template"]["metadata"].get("annotations", {}).pop("aircall-oauth/settings", None)
    spec.pop("selector", None)
    pod.pop("serviceAccountName", None)
    for constraint in pod.get("topologySpreadConstraints", ()):
        constraint.pop("labelSelector")
    for container in pod["containers"]:
        container["ports"] = sorted(json.dumps(port, sort_keys=True) for port in container.get("ports", ()))
        for differs in ("env", "envFrom", "imagePullPolicy"):
            container.pop(differs, None)
    return {name: value for name, value in spec.items() if value}


@pytest.mark.deploy
def test_its_settings_are_those_of_the_kustomize_base() -> None:
    base = yaml.safe_load((KUSTOMIZE_BASE / "kustomization.yaml").read_text())["configMapGenerator"][0]["literals"]
    given = yaml.safe_load(MINIMAL.read_text())["settings"]
    expected = dict(literal.split("=", 1) for literal in base) | {f"AIRCALL_OAUTH_{k}": v for k, v in given.items()}
    documents = rendered()
    job = documents["Job", "aircall-oauth-migrate"]["spec"]["template"]["spec"]["containers"][0]

    assert documents["ConfigMap", "aircall-oauth"]["data"] == expected
    assert {each["name"]: each["value"] for each in job["env"]} == expected


@pytest.mark.deploy
def test_the_migration_needs_nothing_that_the_release_makes() -> None:
    documents = rendered()
    job = documents["Job", "aircall-oauth-migrate"]
    made = {name for kind, name in documents if kind in {"ConfigMap", "Secret", "ServiceAccount"}}
    pod = job["spec"]["template"]["spec"]

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"
    assert "serviceAccountName" not in pod
    assert "envFrom" not in pod["containers"][0]
    assert [volume["name"] for volume in pod["volumes"] if volume.get("configMap", {}).get("name") in made] == []


@pytest.mark.deploy
def test_a_changed_setting_rolls_the_pods_and_a_large_number_stays_one() -> None:
    name = ("Deployment", "aircall-oauth-worker")
    before, after = rendered(), rendered("--set", "settings.MAX_SUBSCRIPTIONS=12345678,settings.BACKFILL=false")
    data = after["ConfigMap", "aircall-oauth"]["data"]

    assert before[name] != after[name]
    assert data["AIRCALL_OAUTH_MAX_SUBSCRIPTIONS"] == "12345678"
    assert data["AIRCALL_OAUTH_BACKFILL"] == "false"


@pytest.mark.deploy
def test_its_disruption_budgets_are_those_of_the_kustomize_base_and_never_keep_a_node() -> None:
    by_kustomize = yaml.safe_load_all((KUSTOMIZE_BASE / "poddisruptionbudget.yaml").read_text())
    base = {each["metadata"]["name"]: each["spec"] for each in by_kustomize}
    ours = {name: each["spec"] for (kind, name), each in rendered().items() if kind == "PodDisruptionBudget"}

    assert set(base) == {"aircall-oauth-web", "aircall-oauth-worker"}
    for name, spec in base.items():
        labels = ours[name].pop("selector")["matchLabels"]
        assert spec.pop("selector")["matchLabels"].items() <= labels.items()
    assert base == ours
    assert all(spec == {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"} for spec in ours.values())


@pytest.mark.deploy
def test_each_secret_may_be_in_a_secret_of_its_own() -> None:
    documents = rendered(values=ROOT / "deploy" / "helm" / "values" / "separate-secrets.yaml")
    pods = [each["spec"]["template"]["spec"] for (kind, _), each in documents.items() if kind in {"Deployment", "Job"}]
    files = [
        {item["path"] for source in pod["volumes"][0]["projected"]["sources"] for item in source["secret"]["items"]}
        for pod in pods
    ]

    names = {"DATABASE_URL", "CLIENT_SECRET", "SECRET_KEYS", "FINGERPRINT_KEY"}
    assert files == [{f"AIRCALL_OAUTH_{name}" for name in names}] * 3
    assert {pod["containers"][0]["image"].partition("@")[2][:7] for pod in pods} == {"sha256:"}


@pytest.mark.deploy
def test_every_pod_may_have_further_volumes_and_its_secrets_from_one() -> None:
    instead = rendered(values=ROOT / "deploy" / "helm" / "values" / "csi-secrets.yaml")
    console = ["--set", "console.separate=true,extraVolumes[0].name=own,extraVolumes[0].emptyDir.medium=Memory"]
    beside = rendered(*console, "--set", "extraVolumeMounts[0].name=own,extraVolumeMounts[0].mountPath=/own")

    def volumes_and_mounts(documents: Documents) -> list[tuple[set[str], dict[str, str]]]:
        """The volumes of each kind of pod, and what its container mounts where."""
        pods = [of["spec"]["template"]["spec"] for (kind, _), of in documents.items() if kind in {"Deployment", "Job"}]
        mounts = [{each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]} for pod in pods]
        return [({each["name"] for each in pod["volumes"]}, mounted) for pod, mounted in zip(pods, mounts, strict=True)]

    assert volumes_and_mounts(instead) == [({"tmp", "vault-secrets"}, {"tmp": "/tmp", "vault-secrets": SECRETS})] * 3
    assert (
        volumes_and_mounts(beside)
        == [({"secrets", "tmp", "own"}, {"secrets": SECRETS, "tmp": "/tmp", "own": "/own"})] * 4
    )


@pytest.mark.deploy
def test_only_the_migration_has_the_owners_url() -> None:
    documents = rendered(values=ROOT / "deploy" / "helm" / "values" / "two-roles.yaml")
    job = documents["Job", "aircall-oauth-migrate"]["spec"]["template"]["spec"]["containers"][0]
    given = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in job["env"] if "valueFrom" in each}
    has_it = {kind for (kind, _), each in documents.items() if "aircall-db-owner" in json.dumps(each)}

    owners = {"name": "aircall-db-owner", "key": "uri"}
    assert given == {"AIRCALL_OAUTH_DATABASE_URL": owners, "AIRCALL_OAUTH_DATABASE_DIRECT_URL": owners}
    assert has_it == {"Job"}


@pytest.mark.deploy
def test_pods_that_log_in_to_vault_have_a_token_for_it_and_its_authority() -> None:
    documents = rendered(values=ROOT / "deploy" / "helm" / "values" / "openbao.yaml")
    pods = [each["spec"]["template"]["spec"] for (kind, _), each in documents.items() if kind in {"Deployment", "Job"}]
    token, authority = pods[0]["volumes"][-1]["projected"]["sources"]
    settings = documents["ConfigMap", "aircall-oauth"]["data"]
    mounts = [pod["containers"][0]["volumeMounts"][-1]["mountPath"] for pod in pods]

    assert (token["serviceAccountToken"]["audience"], token["serviceAccountToken"]["path"]) == ("vault", "token")
    assert authority["configMap"]["items"] == [{"key": "ca.crt", "path": "ca.pem"}]
    assert mounts == ["/run/vault"] * 3
    assert all(pod["automountServiceAccountToken"] is False for pod in pods)
    assert settings["AIRCALL_OAUTH_VAULT_JWT_FILE"] == "/run/vault/token"
    assert settings["AIRCALL_OAUTH_VAULT_CACERT"] == "/run/vault/ca.pem"


@pytest.mark.deploy
def test_no_way_in_leads_to_the_console() -> None:
    documents = rendered(
        "--set",
        "ingress.enabled=true,ingress.host=a.example.com,httpRoute.enabled=true,httpRoute.parentRefs[0].name=a,service.port=80",
    )
    services = {name: each["spec"] for (kind, name), each in documents.items() if kind == "Service"}
    ways = [each for (kind, _), each in documents.items() if kind in {"Ingress", "HTTPRoute"}]

    assert len(ways) == 2
    assert all("console" not in json.dumps(way) and "/aircall/" in json.dumps(way) for way in ways)
    assert [port["targetPort"] for port in services["aircall-oauth"]["ports"]] == ["http"]
    assert services["aircall-oauth-console"].get("type", "ClusterIP") == "ClusterIP"


@pytest.mark.deploy
def test_a_console_on_a_deployment_of_its_own_gets_no_webhook_and_the_web_pods_have_none() -> None:
    documents = rendered(values=ROOT / "deploy" / "helm" / "values" / "separate-console.yaml")
    services = {name: each["spec"]["selector"] for (kind, name), each in documents.items() if kind == "Service"}
    pods = {
        name.removeprefix("aircall-oauth-"): each["spec"]["template"]["spec"]["containers"][0]
        for (kind, name), each in documents.items()
        if kind == "Deployment"
    }
    ports = {name: {port["name"] for port in container["ports"]} for name, container in pods.items()}

    assert services["aircall-oauth-console"]["app.kubernetes.io/component"] == "console"
    assert services["aircall-oauth"]["app.kubernetes.io/component"] == "web"
    assert ports == {"web": {"http", "metrics"}, "worker": {"metrics"}, "console": {"console", "metrics"}}
    assert pods["console"]["args"] == ["serve"], "its other doors are open to its own pod only"
    assert {each["name"]: each["value"] for each in pods["console"]["env"]} == {
        "AIRCALL_OAUTH_CONSOLE_PORT": "8300",
        "AIRCALL_OAUTH_CONSOLE_HOST": "*",
    }
    assert "AIRCALL_OAUTH_CONSOLE_PORT" not in documents["ConfigMap", "aircall-oauth"]["data"]


@pytest.mark.deploy
def test_alerts_and_dashboard_are_those_of_this_repository() -> None:
    documents = rendered("--set", "metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true")
    alerts = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())
    dashboard = documents["ConfigMap", "aircall-oauth-dashboard"]["data"]["aircall-oauth.json"]

    assert documents["PrometheusRule", "aircall-oauth"]["spec"] == alerts
    assert json.loads(dashboard) == json.loads((OBSERVABILITY / "dashboard.json").read_text())


@pytest.mark.deploy
@pytest.mark.parametrize(("drain", "seconds"), [("0s", 37), ("8s", 45), ("60s", 97), ("2m", 157)])
def test_a_pod_is_not_killed_before_its_drain_and_its_requests_end(drain: str, seconds: int) -> None:
    documents = rendered("--set", f"settings.DRAIN={drain}")
    pods = [each["spec"]["template"]["spec"] for (kind, _), each in documents.items() if kind == "Deployment"]

    assert [pod["terminationGracePeriodSeconds"] for pod in pods] == [seconds] * 2


@pytest.mark.deploy
def test_an_alert_links_to_where_the_runbooks_are() -> None:
    address = "https://git.example.com/aircall-oauth"
    documents = rendered("--set", f"metrics.prometheusRule.enabled=true,metrics.prometheusRule.runbooks={address}/")
    rules = [
        rule for group in documents["PrometheusRule", "aircall-oauth"]["spec"]["groups"] for rule in group["rules"]
    ]

    assert rules
    assert all(rule["annotations"]["runbook_url"].startswith(f"{address}/docs/runbooks.md#") for rule in rules)


WRONG = {
    "no address": (["--set", "settings.CLIENT_ID=a,secrets.existingSecret=b"], "PUBLIC_URL"),
    "no secret": (["--set", "settings.CLIENT_ID=a,settings.PUBLIC_URL=https://b"], "secrets.existingSecret"),
    "a secret among the settings": (["--values", str(MINIMAL), "--set", "settings.CLIENT_SECRET=a"], "CLIENT_SECRET"),
    "a port that the chart chooses": (["--values", str(MINIMAL), "--set", "settings.CONSOLE_PORT=1"], "CONSOLE_PORT"),
    "an unknown value": (["--values", str(MINIMAL), "--set", "web.replica=3"], "replica"),
    "an ingress without a host": (["--values", str(MINIMAL), "--set", "ingress.enabled=true"], "ingress.host"),
    "a misspelled setting": (["--values", str(MINIMAL), "--set", "settings.LOG_LEVLE=info"], "LOG_LEVLE"),
    "a setting by its full name": (
        ["--values", str(MINIMAL), "--set", "settings.AIRCALL_OAUTH_LOG_LEVEL=info"],
        "AIRCALL_OAUTH_LOG_LEVEL",
    ),
    "a drain that is no time": (["--values", str(MINIMAL), "--set", "settings.DRAIN=soon"], "settings.DRAIN"),
    "a route to no gateway": (["--values", str(MINIMAL), "--set", "httpRoute.enabled=true"], "httpRoute.parentRefs"),
    "two authorities of the database": (
        ["--values", str(MINIMAL), "--set", "databaseCa.secret=a,databaseCa.configMap=b"],
        "databaseCa.secret and databaseCa.configMap",
    ),
    "a role without Vault's address": (["--values", str(MINIMAL), "--set", "vault.role=a"], "settings.VAULT_ADDR"),
    "two folders of secrets": (
        ["--values", str(MINIMAL), "--set", f"extraVolumeMounts[0].name=a,extraVolumeMounts[0].mountPath={SECRETS}/"],
        "extraVolumeMount is at",
    ),
    "a mount without a place": (["--values", str(MINIMAL), "--set", "extraVolumeMounts[0].name=a"], "mountPath"),
    "scaling without a Prometheus": (
        ["--values", str(MINIMAL), "--set", "worker.autoscaling.enabled=true"],
        "worker.autoscaling.prometheus",
    ),
}


@pytest.mark.deploy
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_by_its_name(name: str) -> None:
    arguments, named = WRONG[name]

    assert named in refused(*arguments)


def test_the_schema_knows_which_settings_are_secret() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    secret = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}

    assert set(schema["secrets"]["properties"]["keys"]["propertyNames"]["enum"]) == secret
    assert secret.isdisjoint(schema["settings"]["propertyNames"]["enum"])


def test_the_schema_knows_every_setting_and_where_a_secrets_file_is() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    secret = schema["secrets"]["properties"]["keys"]["propertyNames"]["enum"]
    plain = {name.upper() for name in Settings.model_fields}.difference(secret, CHOSEN_BY_THE_CHART)

    assert schema["settings"]["propertyNames"]["enum"] == sorted(plain | {f"{name}_FILE" for name in secret})


def test_every_value_is_described_and_the_readme_lists_them() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert set(values) == set(schema["properties"]) - {"global"}
    for name, value in values.items():
        inner = schema["properties"][name]
        assert inner["description"], name
        if inner.get("additionalProperties") is False:
            assert set(value) == set(inner["properties"]), name
    assert run(sys.executable, ROOT / "scripts" / "describe-chart") == (CHART / "README.md").read_text()


def test_its_version_is_the_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert {chart["version"], chart["appVersion"]} == {VERSION}
