"""etcd, API server, controller manager and scheduler, each a process of this drill."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.authority import Authority

from cluster import components
from cluster.api import Api
from cluster.network import HOST

URL = "https://127.0.0.1:6443"
ETCD = "http://127.0.0.1:2379"
SERVICE_RANGE = "10.96.0.0/16"
START_SECONDS = 120
# Which programs are started together, and which path answers 200 once they work: each pod needs its account.
STEPS = (
    (("etcd", "kube-apiserver"), "/readyz"),
    (("kube-controller-manager", "kube-scheduler"), "/api/v1/namespaces/default/serviceaccounts/default"),
)
# What has nothing to do here costs processor time that the service needs.
CONTROLLERS = (
    "deployment-controller,replicaset-controller,job-controller,endpointslice-controller,disruption-controller,"
    "serviceaccount-controller,namespace-controller,garbage-collector-controller,node-lifecycle-controller,"
    "pod-garbage-collector-controller,ttl-after-finished-controller,horizontal-pod-autoscaler-controller,"
    "root-ca-certificate-publisher-controller"
)


class ControlPlaneFailed(Exception):
    """A program of the control plane ended, or does not answer."""


@dataclass(frozen=True)
class ControlPlane:
    """Where it answers, and what its clients need."""

    api: Api
    kubeconfig: Path


@asynccontextmanager
async def running(folder: Path, authority: Authority) -> AsyncIterator[ControlPlane]:
    """Run all four until the end, with their data and logs in `folder`."""
    token = secrets.token_urlsafe(24)
    (folder / "tokens.csv").write_text(f"{token},drill,drill,system:masters\n")
    kubeconfig = _write_kubeconfig(folder, authority, token)
    arguments = _arguments(folder, authority, kubeconfig)
    started: list[asyncio.subprocess.Process] = []
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api.connect(URL, authority.certificate, token))
        # The last two end where the API server does not answer soon.
        for names, sign in STEPS:
            processes = [_process(folder, name, arguments[name]) for name in names]
            started += [await stack.enter_async_context(each) for each in processes]
            await _wait_until(api, sign, started, folder)
        yield ControlPlane(api, kubeconfig)


def _arguments(folder: Path, authority: Authority, kubeconfig: Path) -> dict[str, list[str]]:
    certificate, key = authority.issue("kube-apiserver", ["127.0.0.1", "localhost", "kubernetes.default.svc"])
    accounts = authority.make_key("service-accounts")
    client = [f"--kubeconfig={kubeconfig}", "--leader-elect=false", f"--cert-dir={folder}"]
    return {
        "etcd": [
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
        "kube-apiserver": [
            f"--etcd-servers={ETCD}",
            "--bind-address=127.0.0.1",
            f"--advertise-address={HOST}",
            "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={accounts}",
            f"--service-account-signing-key-file={accounts}",
            "--authorization-mode=RBAC",
        ],
        "kube-controller-manager": [
            *client,
            f"--controllers={CONTROLLERS}",
            f"--service-account-private-key-file={accounts}",
            f"--root-ca-file={authority.certificate}",
        ],
        "kube-scheduler": client,
    }


def _write_kubeconfig(folder: Path, authority: Authority, token: str) -> Path:
    cluster = {"server": URL, "certificate-authority": str(authority.certificate)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "drill", "cluster": cluster}],
        "users": [{"name": "drill", "user": {"token": token}}],
        "contexts": [{"name": "drill", "context": {"cluster": "drill", "user": "drill"}}],
        "current-context": "drill",
    }
    file = folder / "kubeconfig"
    file.touch(mode=0o600)
    file.write_text(json.dumps(content))
    return file


@asynccontextmanager
async def _process(folder: Path, name: str, arguments: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            components.folder() / name, *arguments, stdout=log, stderr=log, cwd=folder, env={"HOME": str(folder)}
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _wait_until(api: Api, path: str, started: list[asyncio.subprocess.Process], folder: Path) -> None:
    """Wait until a path of the API is answered."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await api.answers(path):
                if ended := [each for each in started if each.returncode is not None]:
                    raise ControlPlaneFailed(f"{len(ended)} of its programs ended; their logs are in {folder}")
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise ControlPlaneFailed(f"it does not answer; its logs are in {folder}") from None
