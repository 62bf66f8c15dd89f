"""Plans for Kubernetes and Kueue: one YAML stream that ``kubectl apply --server-side`` takes.

Nodes get labels with their NVLink domain (the keys that topograph sets) and, of an energy plan, an
annotation with their power limits. Kueue gets a Topology of these labels and a ResourceFlavor that
uses it (kueue.x-k8s.io/v1beta2). Each job becomes PodTemplates: pods with the GPUs of a node, bound
to the plan's nodes, and kept in one domain by Kueue's annotations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qcluster.errors import InputError
from qcluster.exports.parts import Export, Settings, assignment, caps, nodes_of, parts
from qcluster.exports.slurm import domains, tree_of
from qcluster.q_nvlink.directives import kubernetes_labels
from qcluster.telemetry.topology import Topology

__all__ = ["kubernetes", "pod_templates"]

DOMAIN = "network.topology.nvidia.com/accelerator"
HOSTNAME = "kubernetes.io/hostname"
_KUEUE = "kueue.x-k8s.io"
_FLAVOR = "nvlink"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def kubernetes(plan: Mapping[str, Any], settings: Settings) -> Export:
    """Everything that Kubernetes can take of a plan.

    Raises InputError for a plan without a fabric or an energy part, and for names that Kubernetes
    cannot have.
    """
    import yaml

    found = parts(plan)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    home: dict[str, str] = {}
    limits = caps(found["energy"]) if "energy" in found else {}
    if settings.topology is not None:
        groups = domains(settings.topology)
        home = {node: name for name, nodes in groups.items() for node in nodes}
        rows += _kueue(settings.topology)
    else:
        notes.append(
            "no topology given: nodes get no labels, and pods are bound by host name alone"
        )
    rows += _nodes(settings.topology, limits, found.get("energy", {}))
    if "nvlink" in found:
        for job, gpus in assignment(found["nvlink"], settings.job).items():
            rows += pod_templates(job, gpus, home, settings)
    if not rows:
        raise InputError("kubernetes wants a plan of nvlink or energy, or a topology")
    text = yaml.safe_dump_all(rows, sort_keys=False, default_flow_style=False, width=1000)
    return Export(files={"plan.yaml": str(text)}, notes=notes)


def _nodes(
    topology: Topology | None, limits: Mapping[str, Mapping[int, float]], plan: Mapping[str, Any]
) -> list[dict[str, Any]]:
    labels = {} if topology is None else kubernetes_labels(tree_of(topology))
    rows = []
    for name in dict.fromkeys([*labels, *limits]):
        about: dict[str, Any] = {"name": _name(name, "nodes")}
        if name in labels:
            # Kueue's flavor takes nodes by one label that all of them share.
            about["labels"] = {"qcluster/flavor": _FLAVOR, **labels[name]}
        if name in limits:
            watts = ",".join(
                f"{gpu}={math.floor(value)}" for gpu, value in sorted(limits[name].items())
            )
            about["annotations"] = {
                "qcluster/power-limits-w": watts,
                "qcluster/plan": str(plan.get("plan_id", "")),
            }
        rows.append({"apiVersion": "v1", "kind": "Node", "metadata": about})
    return rows


def _kueue(topology: Topology) -> list[dict[str, Any]]:
    """The levels from the domain down to the host, and the flavor of the nodes that have them."""
    wide = max(len(nodes) for nodes in domains(topology).values()) > 1
    levels = [DOMAIN, HOSTNAME] if wide else [HOSTNAME]
    return [
        {
            "apiVersion": f"{_KUEUE}/v1beta2",
            "kind": "Topology",
            "metadata": {"name": _FLAVOR},
            "spec": {"levels": [{"nodeLabel": key} for key in levels]},
        },
        {
            "apiVersion": f"{_KUEUE}/v1beta2",
            "kind": "ResourceFlavor",
            "metadata": {"name": _FLAVOR},
            "spec": {"nodeLabels": {"qcluster/flavor": _FLAVOR}, "topologyName": _FLAVOR},
        },
    ]


def pod_templates(
    job: str, gpus: Sequence[str], home: Mapping[str, str], settings: Settings
) -> list[dict[str, Any]]:
    """A PodTemplate for each number of GPUs that the job has on a node.

    ``home``: node to its domain; a job within one domain must stay there, another one should.
    """
    nodes = nodes_of(gpus)
    unknown = [node for node in nodes if home and node not in home]
    if unknown:
        raise InputError(f"the topology has no node '{unknown[0]}'", field=f"assignment.{job}")
    sizes = sorted({len(indices) for indices in nodes.values()}, reverse=True)
    name = _name(job, "job")
    rows = []
    for size in sizes:
        hosts = [_name(node, "nodes") for node, held in nodes.items() if len(held) == size]
        own = name if len(sizes) == 1 else f"{name}-{size}"
        about = {"labels": {"job-name": name}, "annotations": _annotations(nodes, hosts, home)}
        if settings.queue:
            about["labels"][f"{_KUEUE}/queue-name"] = _name(settings.queue, "queue")
        rows.append(
            {
                "apiVersion": "v1",
                "kind": "PodTemplate",
                "metadata": {"name": own, "labels": {"job-name": name}},
                "template": {"metadata": about, "spec": _pod(hosts, size, name, settings)},
            }
        )
    return rows


def _annotations(
    nodes: Mapping[str, Sequence[int]], hosts: Sequence[str], home: Mapping[str, str]
) -> dict[str, str]:
    found = {"qcluster/gpus": ";".join(f"{h}={','.join(map(str, nodes[h]))}" for h in hosts)}
    if home:
        within = len({home[node] for node in nodes}) == 1
        several = len({*home.values()}) < len(home)
        level = DOMAIN if several else HOSTNAME
        # Hosts are domains of their own where no domain has two: one host must hold a pod anyway.
        how = "required" if within and several else "preferred"
        found[f"{_KUEUE}/podset-{how}-topology"] = level
    return found


def _pod(hosts: Sequence[str], gpus: int, job: str, settings: Settings) -> dict[str, Any]:
    amount = {"nvidia.com/gpu": str(gpus)}
    container: dict[str, Any] = {
        "name": "main",
        "resources": {"requests": dict(amount), "limits": amount},
    }
    if settings.image:
        container["image"] = settings.image
    term = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": list(hosts)}]}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    apart = {"labelSelector": {"matchLabels": {"job-name": job}}, "topologyKey": HOSTNAME}
    affinity = {
        "nodeAffinity": {required: {"nodeSelectorTerms": [term]}},
        "podAntiAffinity": {required: [apart]},
    }
    return {"restartPolicy": "Never", "affinity": affinity, "containers": [container]}


def _name(name: str, field: str) -> str:
    """The name, if Kubernetes takes it (RFC 1123 subdomain)."""
    parts_ok = all(len(label) <= 63 for label in name.split("."))
    if len(name) > 253 or not parts_ok or not _NAME.fullmatch(name) or ".." in name:
        message = f"'{name:.60}' cannot be a name in Kubernetes: a-z, 0-9, '-', '.'"
        raise InputError(message, field=field)
    return name
