"""Where the opponents come from.

SGLang's EPLB is one file that needs torch alone: taken from the folder (or file) that
QCLUSTER_SGLANG names, else from its wheel, installed without dependencies under
``benchmarks/.cache/opponents``. DeepSeek's EPLB is taken from the checkout that
QCLUSTER_DEEPSEEK_EPLB names, and left out without one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import harness
import numpy as np

TARGET = harness.HERE / ".cache" / "opponents" / "sglang"


def sglang() -> Callable[..., np.ndarray] | None:
    """``f(weight, slots, groups, nodes, gpus, hierarchical) -> phy2log`` or None."""
    named = os.environ.get("QCLUSTER_SGLANG")
    places = [Path(named)] if named else []
    found = next((file for place in [*places, TARGET] for file in _files(place)), None)
    if found is None:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target"]
        if subprocess.run([*command, str(TARGET), "sglang"], check=False).returncode:
            print("SGLang could not be installed: its rows are left out")
            return None
        found = next(iter(_files(TARGET)))
    return _called(_load(found, "sglang_eplb"), hierarchical_flag=True)


def deepseek() -> Callable[..., np.ndarray] | None:
    """The same of DeepSeek's EPLB where a checkout is given."""
    named = os.environ.get("QCLUSTER_DEEPSEEK_EPLB")
    if not named:
        return None
    path = Path(named)
    module = _load(path / "eplb.py" if path.is_dir() else path, "deepseek_eplb")
    return _called(module, hierarchical_flag=False)


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(place.glob("**/eplb_algorithms/deepseek.py"))


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _called(module: ModuleType, *, hierarchical_flag: bool) -> Callable[..., np.ndarray]:
    import torch

    torch.set_num_threads(1)

    def call(
        weight: Any, slots: int, groups: int, nodes: int, gpus: int, hierarchical: bool
    ) -> np.ndarray:
        given = (torch.as_tensor(np.asarray(weight)), slots, groups, nodes, gpus)
        if hierarchical_flag:
            return module.rebalance_experts(*given, hierarchical)[0].numpy()
        if not hierarchical:
            given = (given[0], slots, 1, 1, gpus)
        return module.rebalance_experts(*given)[0].numpy()

    return call
