"""Kubernetes' own schemas, read in this process: the program reads YAML for seconds of CPU."""

import yaml

from tests.support.tools import tool


def require_fit(rendered: str) -> set[str]:
    """Require that each document fits the newest schema of its kind, without a field that it does not know.

    Returns the kinds that were checked: those of Kubernetes itself, not of operators that a cluster may have.
    """
    tool("kubernetes-validate")
    from kubernetes_validate import utils

    newest, documents = utils.latest_version(), [each for each in yaml.safe_load_all(rendered) if each]
    of_kubernetes = [each for each in documents if _is_of_kubernetes(each["apiVersion"])]
    for each in of_kubernetes:
        utils.validate(each, newest, strict=True)
    return {each["kind"] for each in of_kubernetes}


def _is_of_kubernetes(api_version: str) -> bool:
    group = api_version.rpartition("/")[0]
    # The Gateway API is installed beside it, though it is by the same people.
    return "." not in group or (group.endswith(".k8s.io") and group != "gateway.networking.k8s.io")
