"""The nodes of the Kubernetes drill read a manifest as kubelet would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import balancer, container, environment, probes, volumes

STORED = {
    ("ConfigMap", "settings"): {"MODE": "web", "BOTH": "settings"},
    ("Secret", "keys"): {"first": "one", "second": "two"},
}


async def read(kind: str, name: str) -> dict[str, str] | None:
    return STORED.get((kind, name))


async def test_a_variable_of_its_own_wins_over_those_of_a_config_map_and_may_name_another() -> None:
    manifest = {
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "none", "optional": True}}],
        "env": [
            {"name": "BOTH", "value": "own"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "second"}}},
            {"name": "LEFT_OUT", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "third", "optional": True}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "TEXT", "value": "$(MODE) at $(NOWHERE), $$(MODE)"},
        ],
    }
    pod = {"metadata": {"labels": {"app": "service"}}}

    found = await environment.resolve(manifest, pod, read)

    expected = {"MODE": "web", "BOTH": "own", "KEY": "two", "POD": "service"}
    assert {**expected, "TEXT": "web at $(NOWHERE), $(MODE)"} == found


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"envFrom": [{"secretRef": {"name": "none"}}]}, "Secret none"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "third"}}}]}, "third"),
        ({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}, "resourceFieldRef"),
    ],
)
async def test_a_container_waits_for_what_is_missing_and_says_its_name(source: dict[str, Any], named: str) -> None:
    with pytest.raises(environment.NotInTheManifest, match=named):
        await environment.resolve(source, {}, read)


async def test_a_projected_volume_has_the_files_of_all_its_sources(tmp_path: Path) -> None:
    sources = [
        {"secret": {"name": "keys", "items": [{"key": "first", "path": "RENAMED"}]}},
        {"configMap": {"name": "settings"}},
    ]
    spec = {"volumes": [{"name": "all", "projected": {"defaultMode": 0o440, "sources": sources}}]}

    made = await volumes.lay_out({"spec": spec}, tmp_path, read)

    files = {file.name: file.read_text() for file in made["all"].iterdir() if file.is_file()}
    assert {"RENAMED": "one", "MODE": "web", "BOTH": "settings"} == files
    assert 0o440 == (made["all"] / "MODE").stat().st_mode & 0o777


def test_a_probe_turns_after_as_many_answers_in_a_row_as_it_says() -> None:
    count = probes.Count.of({"failureThreshold": 2})

    told = [count.add(answer) for answer in (True, False, True, False, False, False)]

    assert [True, None, True, None, False, False] == told


def test_a_probe_asks_the_port_that_is_named() -> None:
    manifest = {"ports": [{"name": "http", "containerPort": 8000}]}

    url = probes.url_of({"httpGet": {"path": "/readyz", "port": "http"}}, manifest, "10.244.1.2")

    assert url == "http://10.244.1.2:8000/readyz"


def test_connections_go_to_ready_endpoints_and_to_ending_ones_where_none_is_ready() -> None:
    def at(address: str, *, ready: bool, serving: bool) -> dict[str, Any]:
        return {"addresses": [address], "conditions": {"ready": ready, "serving": serving}}

    ending = at("10.0.0.1", ready=False, serving=True)
    ports = [{"name": "http", "port": 8000}]

    both = [{"endpoints": [ending, at("10.0.0.2", ready=True, serving=True)], "ports": ports}]
    last = [{"endpoints": [ending, at("10.0.0.3", ready=False, serving=False)], "ports": ports}]

    assert [("10.0.0.2", 8000)] == balancer.ready(both)
    assert [("10.0.0.1", 8000)] == balancer.ready(last)


def test_arguments_stand_behind_the_images_entry_point() -> None:
    assert ["-m", "aircall_oauth", "work"] == container.command({"args": ["work"]})[1:]
    assert ["-m", "aircall_oauth", *container.COMMAND] == container.command({})[1:]
    assert ["sh", "-c", "true"] == container.command({"command": ["sh", "-c", "true"]})


def test_the_image_of_the_drill_is_that_of_the_dockerfile() -> None:
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text()

    assert f'ENTRYPOINT ["{container.ENTRYPOINT}"]' in dockerfile
    assert f"USER {container.IMAGE_USER}:{container.IMAGE_USER}" in dockerfile
    assert "CMD [" + ", ".join(f'"{word}"' for word in container.COMMAND) + "]" in dockerfile


def test_a_machine_without_a_control_plane_is_told_so_and_nothing_is_built(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "deploy" / "drills" / "kubernetes"
    where = {**os.environ, "AIRCALL_OAUTH_KUBERNETES": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, script, "--only-if-built"], env=where, capture_output=True, text=True, check=False
    )

    assert (0, f"kubernetes: not run: {tmp_path} has no control plane (see --build)\n") == (
        done.returncode,
        done.stdout,
    )
    assert not list(tmp_path.iterdir())
