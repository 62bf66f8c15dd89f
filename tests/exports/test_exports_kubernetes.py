"""Kubernetes and Kueue objects: read back as YAML, by kubectl where it is, and by their schemas."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from qcluster.errors import InputError
from qcluster.exports import Settings, export
from qcluster.telemetry import Node, Topology

Plans = dict[str, dict[str, Any]]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def objects(plan: dict[str, Any], **settings: Any) -> dict[str, list[dict[str, Any]]]:
    (text,) = export(plan, "kubernetes", Settings(**settings)).files.values()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in yaml.safe_load_all(text):
        found.setdefault(row["kind"], []).append(row)
    return found


def hosts_of(template: dict[str, Any]) -> list[str]:
    terms = template["template"]["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    (expression,) = terms[0]["matchExpressions"]
    assert expression["key"] == "kubernetes.io/hostname"
    assert expression["operator"] == "In"
    return list(expression["values"])


def racks(names: dict[str, str], gpus: int = 4) -> Topology:
    nodes = tuple(Node(id=n, gpus=gpus, max_w=1000.0, domain=d) for n, d in names.items())
    return Topology(nodes=nodes)


def test_pods_ask_for_the_plans_gpus_on_its_nodes(plans: Plans) -> None:
    templates = objects(plans["nvlink"])["PodTemplate"]
    for job, gpus in plans["nvlink"]["assignment"].items():
        mine = [row for row in templates if row["metadata"]["labels"]["job-name"] == job]
        asked: dict[str, int] = {}
        for row in mine:
            (container,) = row["template"]["spec"]["containers"]
            limits = container["resources"]["limits"]
            assert limits == container["resources"]["requests"]
            asked |= dict.fromkeys(hosts_of(row), int(limits["nvidia.com/gpu"]))
        want = [gpu.split("/")[0] for gpu in gpus]
        assert asked == {host: want.count(host) for host in want}


def test_a_job_that_is_uneven_over_nodes_gets_a_template_for_each_size() -> None:
    plan = {"planner": "nvlink", "assignment": {"j": ["a/0", "a/1", "b/3", "c/0"]}}
    found = {row["metadata"]["name"]: row for row in objects(plan)["PodTemplate"]}
    assert set(found) == {"j-2", "j-1"}
    assert hosts_of(found["j-2"]) == ["a"]
    assert hosts_of(found["j-1"]) == ["b", "c"]
    assert found["j-1"]["template"]["metadata"]["annotations"]["qcluster/gpus"] == "b=3;c=0"


def test_a_job_in_one_domain_must_stay_there_one_over_two_should() -> None:
    cluster = racks({"a": "r0", "b": "r0", "c": "r1", "d": "r1"})
    plan = {"planner": "nvlink", "assignment": {"in": ["a/0", "b/0"], "over": ["a/1", "c/0"]}}
    found = objects(plan, topology=cluster, queue="gpus", image="train:1")
    by_name = {row["metadata"]["name"]: row["template"] for row in found["PodTemplate"]}
    domain = "network.topology.nvidia.com/accelerator"
    inside, over = (by_name[name]["metadata"] for name in ("in", "over"))
    assert inside["annotations"]["kueue.x-k8s.io/podset-required-topology"] == domain
    assert over["annotations"]["kueue.x-k8s.io/podset-preferred-topology"] == domain
    assert inside["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert by_name["in"]["spec"]["containers"][0]["image"] == "train:1"


def test_nodes_carry_their_domain_and_kueue_its_levels() -> None:
    found = objects({"planner": "routing"}, topology=racks({"a": "r0", "b": "r0", "c": "r1"}))
    domain = "network.topology.nvidia.com/accelerator"
    labels = {row["metadata"]["name"]: row["metadata"]["labels"] for row in found["Node"]}
    assert {name: row[domain] for name, row in labels.items()} == {"a": "r0", "b": "r0", "c": "r1"}
    (kueue,), (flavor,) = found["Topology"], found["ResourceFlavor"]
    levels = [row["nodeLabel"] for row in kueue["spec"]["levels"]]
    assert levels == [domain, "kubernetes.io/hostname"]
    assert flavor["spec"]["topologyName"] == kueue["metadata"]["name"]
    for row in labels.values():
        assert flavor["spec"]["nodeLabels"].items() <= row.items()


def test_power_limits_are_annotations_that_never_exceed_the_plan(plans: Plans) -> None:
    watts = dict(zip(plans["energy"]["gpus"], plans["energy"]["caps_w"], strict=True))
    seen = {}
    for node in objects(plans["energy"])["Node"]:
        notes = node["metadata"]["annotations"]
        assert notes["qcluster/plan"] == plans["energy"]["plan_id"]
        for pair in notes["qcluster/power-limits-w"].split(","):
            index, _, value = pair.partition("=")
            seen[f"{node['metadata']['name']}/{index}"] = float(value)
    assert seen.keys() == watts.keys()
    assert all(0 <= watts[gpu] - value < 1 for gpu, value in seen.items())


def test_a_joint_plan_gives_nodes_and_pods_in_one_stream(plans: Plans, topology: Topology) -> None:
    found = objects(plans["joint"], topology=topology)
    assert set(found) == {"Topology", "ResourceFlavor", "Node", "PodTemplate"}
    assert all({"labels", "annotations"} <= row["metadata"].keys() for row in found["Node"])


def test_bad_names_and_unknown_nodes_are_refused(plans: Plans, topology: Topology) -> None:
    for job in ("Job_1", "a..b", "-a", "a" * 64, ""):
        with pytest.raises(InputError, match="cannot be a name in Kubernetes"):
            objects({"planner": "nvlink", "assignment": {job: ["a/0"]}})
    with pytest.raises(InputError, match="the topology has no node 'elsewhere'"):
        objects({"planner": "nvlink", "assignment": {"j": ["elsewhere/0"]}}, topology=topology)
    with pytest.raises(InputError, match="kubernetes wants a plan of nvlink or energy"):
        objects(plans["routing"])


def test_kubectl_reads_every_object_of_kubernetes_itself(
    plans: Plans, topology: Topology, tmp_path: Path
) -> None:
    """``--local`` decodes into kubectl's own types and needs no server."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    (text,) = export(plans["joint"], "kubernetes", Settings(topology=topology)).files.values()
    own = [row for row in yaml.safe_load_all(text) if "kueue" not in row["apiVersion"]]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump_all(own))
    command = ["kubectl", "label", "--local", "-f", path, "seen=yes", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    decoder, rest, read = json.JSONDecoder(), done.stdout.strip(), []
    while rest:
        row, end = decoder.raw_decode(rest)
        read += row["items"] if row["kind"] == "List" else [row]
        rest = rest[end:].strip()
    assert len(read) == len(own)
    for mine, theirs in zip(own, read, strict=True):
        assert theirs["metadata"]["labels"].pop("seen") == "yes"
        if "labels" in mine["metadata"]:
            assert theirs["metadata"]["labels"] == mine["metadata"]["labels"]
        if mine["kind"] == "PodTemplate":
            spec, back = mine["template"]["spec"], theirs["template"]["spec"]
            assert back["affinity"] == spec["affinity"]
            assert back["containers"][0]["resources"] == spec["containers"][0]["resources"]
