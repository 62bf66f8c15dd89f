"""The names that users import are there, without loading what they do not use."""

from __future__ import annotations

import importlib

import pytest

NAMES = {
    "qcluster.quantum": "IsingProblem solve Solution QAOASimulator noise mps kernels hhl_solve "
    "qsvt_apply qft_decode Backend",
    "qcluster.q_routing": "route place_experts rebalance_experts split_load dispatch assign_tokens "
    "RoutingConfig simulator recommend",
    "qcluster.q_energy": "plan_energy forecast_power fit_forecaster allocate_budget select_nodes "
    "level_peak pipeline_frontier EnergyConfig Task Curve recommend",
    "qcluster.q_nvlink": "load_fabric plan_fabric select_gpus place_ranks schedule_all_to_all "
    "plan_collective collective_bound simulate color_groups color_edges NVLinkConfig recommend",
    "qcluster.q_compressor": "compress compress_state_dict CompressorConfig recommend",
    "qcluster.q_decompressor": "decompress inspect DecompressorConfig recommend",
    "qcluster.q_hpo": "Study GPSearch VQCSearch HybridSearch load_space load_prior tune recommend",
    "qcluster.q_attention": "attention attend QAOASparseAttention QPEPositionEncoder "
    "ContrastiveTrainer QSVDHeadPruner register_hf AttentionConfig recommend",
    "qcluster.qtransformers": "QuantumMultiheadAttention QuantumTransformerBlock "
    "ScalableQuantumTransformer QuantumTrainer QuantumAttentionSimulator "
    "MatrixProductStateSimulator AdvancedMemoryProfiler zoo",
    "qcluster.joint": "JointPlanner JointPlan JointConfig Conflict",
    "qcluster.client": "Client",
    "actors": "TelemetryHub RoutingPlanner EnergyPlanner NVLinkPlanner JointPlanner QuantumGateway "
    "NodeAgent PlanStore CodecPool StudyHost AttentionWorker",
}


@pytest.mark.parametrize("package", NAMES)
def test_public_names_are_there(package: str) -> None:
    module = importlib.import_module(package)
    missing = [name for name in NAMES[package].split() if not hasattr(module, name)]
    assert not missing
    assert set(module.__all__) >= set(NAMES[package].split()) - {"simulator", "zoo"}


@pytest.mark.parametrize("package", NAMES)
def test_all_names_can_be_imported_and_others_cannot(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        module.nothing_like_this  # noqa: B018
