"""The control plane's programs: built once from the modules that go.mod and go.sum lock, and kept outside the tree."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
PLACE = "AIRCALL_OAUTH_KUBERNETES"
VERSION = "v1.37.0"
BUILT = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
}
# The kinds that the chart makes and Kubernetes does not have: where their authors' own definitions are.
DEFINITIONS = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": [
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ],
    "sigs.k8s.io/gateway-api@v1.6.1": ["config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"],
    "github.com/kedacore/keda/v2@v2.21.0": ["config/crd/bases/keda.sh_scaledobjects.yaml"],
}


class ComponentsMissing(Exception):
    """The programs are not there, or could not be built."""


def folder() -> Path:
    """Return where the programs are kept: $AIRCALL_OAUTH_KUBERNETES, or a folder in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(PLACE) or cache / "aircall-oauth" / "kubernetes")


def are_there() -> bool:
    """Whether what is locked here was built on this machine."""
    mark = folder() / "built-from"
    return mark.is_file() and mark.read_text() == _locked()


def build(tell: Callable[[str], None]) -> None:
    """Build the programs, and fetch the definitions; raises `ComponentsMissing`."""
    if not shutil.which("go"):
        raise ComponentsMissing("Go is needed to build the control plane (1.26, or one that fetches it by itself)")
    tell(f"building etcd and Kubernetes {VERSION} in {folder()}: once; 10 to 30 minutes on two cores")
    began = time.monotonic()
    folder().mkdir(parents=True, exist_ok=True)
    for name, package in BUILT.items():
        _go("build", "-p", "2", "-trimpath", "-ldflags", _version_flags(), "-o", str(folder() / name), package)
        tell(f"{name} is built, {time.monotonic() - began:.0f} s after the start")
    _fetch_definitions()
    (folder() / "built-from").write_text(_locked())


def _fetch_definitions() -> None:
    definitions = folder() / "definitions"
    shutil.rmtree(definitions, ignore_errors=True)
    definitions.mkdir()
    for module, files in DEFINITIONS.items():
        unpacked = Path(json.loads(_go("mod", "download", "-json", module, at=definitions))["Dir"])
        for file in files:
            shutil.copyfile(unpacked / file, definitions / Path(file).name)


def _go(*arguments: str, at: Path = HERE) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    command = ["nice", "-n", "19", "go", *arguments]
    done = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ComponentsMissing(f"go {arguments[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


def _version_flags() -> str:
    major, minor, _ = VERSION.removeprefix("v").split(".")
    names = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor}
    return " ".join(
        ["-s", "-w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in names.items())]
    )


def _locked() -> str:
    """What the programs are made from, as one hash."""
    text = (HERE / "go.sum").read_bytes() + json.dumps([VERSION, DEFINITIONS, BUILT]).encode()
    return hashlib.sha256(text).hexdigest()
