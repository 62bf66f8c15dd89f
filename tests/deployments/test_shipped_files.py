"""Files that users hand to other programs: checked by those programs' own schemas."""

from __future__ import annotations

import copy
import importlib
import json
import re
import runpy
import typing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from actors.environment import SETTINGS
from deployments.views import metrics_text
from qcluster.json_schema import record_schema

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_cluster_yaml_is_what_ray_up_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load("cluster.yaml")
    validate_config(prepare_config(copy.deepcopy(config)))
    assert config["provider"]["type"] == "local"
    started = " ".join(config["head_start_ray_commands"])
    assert "qcluster serve --telemetry auto --address auto" in started
    # Without it `ray up` starts no workers under the local provider.
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_enable_autoscaler_v2=0" in " ".join(config[commands])


def test_serve_yaml_is_what_serve_deploy_takes() -> None:
    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(load("deployments/qcluster.yaml"))
    assert {app.route_prefix for app in config.applications} == {"/", "/v1/telemetry/stream"}
    for app in config.applications:
        module, _, name = app.import_path.partition(":")
        builder = getattr(importlib.import_module(module), name)
        if app.args:
            assert isinstance(builder(_argument(builder)(**app.args)), Application)
        else:
            assert isinstance(builder(), Application)


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deployments" / "kuberay.yaml").read_text()))


def test_kuberay_manifest_is_a_ray_service() -> None:
    claim, service = manifests()
    schema = json.loads((Path(__file__).parent / "rayservice.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(service, schema)
    groups = [
        service["spec"]["rayClusterConfig"]["headGroupSpec"],
        *service["spec"]["rayClusterConfig"]["workerGroupSpecs"],
    ]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    head = groups[0]["template"]["spec"]
    assert head["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["rayClusterConfig"]["headGroupSpec"]["rayStartParams"].update(x=1),
        lambda s: s.update(serveConfig={}),
        lambda s: s["rayClusterConfig"]["workerGroupSpecs"][0].pop("groupName"),
    ],
)
def test_the_schema_finds_mistakes(change: Any) -> None:
    service = manifests()[1]
    change(service["spec"])
    schema = json.loads((Path(__file__).parent / "rayservice.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(service, schema)


def test_kuberay_applications_are_what_serve_deploys() -> None:
    from ray.serve.schema import ServeDeploySchema

    text = manifests()[1]["spec"]["serveConfigV2"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    for app in config.applications:
        module, _, name = app.import_path.partition(":")
        builder = getattr(importlib.import_module(module), name)
        options = _argument(builder)(**app.args)
        # Beyond loopback nobody gets in with the file as it is shipped.
        assert getattr(options, "token_sha256", "0" * 64) == "0" * 64
        builder(options)


SHIPPED = {
    name: value
    for name, value in SETTINGS.items()
    if any(part in name for part in ("HEALTH_CHECK", "health_check", "direct_call", "niceness"))
}


def test_kuberay_sets_the_variables_that_the_code_names() -> None:
    config = manifests()[1]["spec"]["rayClusterConfig"]
    for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
        for container in group["template"]["spec"]["containers"]:
            env = {entry["name"]: entry["value"] for entry in container["env"]}
            assert SHIPPED.items() <= env.items()


def test_cluster_yaml_sets_the_variables_that_the_code_names() -> None:
    started = " ".join(load("cluster.yaml")["head_start_ray_commands"])
    for name, value in SHIPPED.items():
        assert f"{name}={value}" in started


def dashboard() -> dict[str, Any]:
    text = (ROOT / "deployments" / "grafana" / "qcluster.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def real_metrics() -> tuple[dict[str, set[str]], set[str]]:
    """Labels of every series in our real metrics text, by a Prometheus parser; planners' names."""
    plan = {
        "age_s": 1.0, "objective": 2.0, "gap": 0.1, "wall_s": 0.2, "stale": False,
        "balancedness_after": 0.9, "balancedness_before": 0.7, "moved_slots": 3,
    }  # fmt: skip
    text = metrics_text({"routing": {"plan": plan}}, {"silent_s": 0.1, "samples": 10})
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found, {"routing"}


def test_the_dashboard_asks_only_for_metrics_that_there_are() -> None:
    series, _ = real_metrics()
    asked: set[str] = set()
    for panel in dashboard()["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            names = re.findall(r"qcluster_\w+", target["expr"])
            assert names, target["expr"]
            asked.update(names)
            for name in names:
                assert name in series
                labels = re.findall(name + r"\{(\w+)", target["expr"])
                assert set(labels) <= series[name]
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert all(label in series[name] for name in names)
    assert asked == set(series), "every series is on the dashboard"


def test_the_dashboard_has_no_overlaps_and_one_id_a_panel() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def _argument(builder: Any) -> Any:
    hints = typing.get_type_hints(builder)
    return next(kind for name, kind in hints.items() if name != "return")


def _made_schemas() -> dict[str, str]:
    found: dict[str, str] = runpy.run_path(str(ROOT / "docs" / "make_schemas.py"))["TYPES"]
    return found


SCHEMAS = _made_schemas()


@pytest.mark.parametrize("name", SCHEMAS)
def test_published_schemas_are_those_of_the_code(name: str) -> None:
    module, _, kind = SCHEMAS[name].partition(":")
    wanted = record_schema(getattr(importlib.import_module(module), kind))
    path = ROOT / "docs" / "schemas" / f"{name}.json"
    assert json.loads(path.read_text()) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **wanted,
    }, "run: python docs/make_schemas.py"
