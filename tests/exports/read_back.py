"""Consumers' own code over a file that we wrote; run as ``python read_back.py WHICH PEERS FILE``.

Prints what the consumer understood as JSON. PEERS holds single files of each consumer (see
``benchmarks/opponents/exports.txt``). What these files import besides torch and the standard
library is given as empty stand-ins, as none of it takes part in reading.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch


def load(path: Path, name: str, *, stand_ins: tuple[str, ...]) -> Any:
    for missing in stand_ins:
        sys.modules[missing] = MagicMock()
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def sglang(peers: Path, file: str) -> Any:
    """SGLang's start-up with ``--init-expert-location FILE``."""
    module = load(
        peers / "sglang" / "expert_location.py",
        "sglang.srt.eplb.expert_location",
        stand_ins=("sglang", "sglang.srt", "sglang.srt.eplb", "sglang.srt.runtime_context"),
    )
    rows = json.loads(Path(file).read_text())["physical_to_logical_map"]
    experts = max(rows[0]) + 1
    ranks = int(sys.argv[4])
    moe = types.SimpleNamespace(
        init_expert_location=file,
        ep_num_redundant_experts=len(rows[0]) - experts,
        ep_join_mode="",
        ep_dispatch_algorithm="dynamic",
        moe_a2a_backend="none",
    )
    module.get_exec = lambda: types.SimpleNamespace(moe=moe)
    module.get_device = lambda: types.SimpleNamespace(device="cpu")
    module.get_parallel = lambda: types.SimpleNamespace(
        ep_size=ranks, nnodes=1, elastic_ep_initial_size=None
    )
    model = module.ModelConfigForExpertLocation(num_layers=len(rows), num_logical_experts=experts)
    module.ModelConfigForExpertLocation.from_model_config = staticmethod(lambda _: model)
    found = module.compute_initial_expert_location_metadata(None, 0)
    return {
        "physical": found.physical_to_logical_map.tolist(),
        "copies": found.logical_to_all_physical_map_num_valid.tolist(),
        "per_rank": found.num_local_physical_experts,
    }


def vllm(peers: Path, file: str) -> Any:
    """The maps that vLLM's EPLB state derives from a physical map."""
    names = (
        "vllm", "vllm.config", "vllm.config.utils", "vllm.distributed",
        "vllm.distributed.parallel_state", "vllm.distributed.stateless_coordinator",
        "vllm.distributed.utils", "vllm.logger", "vllm.model_executor",
        "vllm.model_executor.models", "vllm.model_executor.models.interfaces", "vllm.platforms",
        "vllm.utils", "vllm.utils.gpu_sync_debug", "vllm.utils.torch_utils",
    )  # fmt: skip
    eplb = "vllm.distributed.eplb"
    beside = ("async_worker", "eplb_communicator", "eplb_utils", "policy", "rebalance_execute")
    module = load(
        peers / "vllm" / "eplb_state.py",
        f"{eplb}.eplb_state",
        stand_ins=(*names, eplb, *(f"{eplb}.{name}" for name in beside)),
    )
    given = json.loads(Path(file).read_text())
    physical = torch.tensor(given["physical_to_logical_map"])
    experts = len(given["logical_replica_count"][0])
    logical, count = module.compute_logical_maps(physical, experts)
    return {"logical": logical.tolist(), "count": count.tolist()}


def ascend(peers: Path, file: str) -> Any:
    """vLLM-Ascend's reader of ``expert_map_path``, layer by layer."""
    module = load(
        peers / "vllm_ascend" / "eplb_utils.py",
        "vllm_ascend.eplb.core.eplb_utils",
        stand_ins=(
            "vllm", "vllm.logger", "vllm.model_executor", "vllm.model_executor.layers",
            "vllm.model_executor.layers.fused_moe",
            "vllm.model_executor.layers.fused_moe.expert_map_manager",
        ),
    )  # fmt: skip
    layers = json.loads(Path(file).read_text())["moe_layer_count"]
    read = [module.expert_file_to_tensor(file, layer) for layer in range(layers)]
    return [{"placement": tensor.tolist(), "slots": slots} for tensor, slots in read]


if __name__ == "__main__":
    reader = {"sglang": sglang, "vllm": vllm, "ascend": ascend}[sys.argv[1]]
    sys.stdout.write(json.dumps(reader(Path(sys.argv[2]), sys.argv[3])))
