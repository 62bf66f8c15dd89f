"""Write ``docs/schemas/*.json`` from the result types; a test holds them against the code."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from qcluster.json_schema import record_schema

HERE = Path(__file__).resolve().parent
TYPES = {
    "routing_plan": "qcluster.q_routing:RoutingPlan",
    "placement_plan": "qcluster.q_routing.planner:PlacementPlan",
    "energy_plan": "qcluster.q_energy:EnergyPlan",
    "nvlink_plan": "qcluster.q_nvlink:NVLinkPlan",
    "joint_plan": "qcluster.joint:JointPlan",
    "solution": "qcluster.quantum:Solution",
    "topology": "qcluster.telemetry:Topology",
    "job": "qcluster.telemetry:Job",
    "snapshot": "qcluster.telemetry:Snapshot",
}


def main() -> None:
    """Write every schema."""
    folder = HERE / "schemas"
    folder.mkdir(exist_ok=True)
    for name, place in TYPES.items():
        module, _, kind = place.partition(":")
        schema = record_schema(getattr(importlib.import_module(module), kind))
        text = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        (folder / f"{name}.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
