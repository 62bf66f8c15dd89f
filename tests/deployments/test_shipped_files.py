"""Files that users hand to other programs: checked by those programs' own schemas."""

from __future__ import annotations

import copy
import importlib
import json
import runpy
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

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
