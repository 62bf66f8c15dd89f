"""The contention classifier: features, fit, both kernels, saving, and suggestions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import FormatError, Infeasible, InputError
from qcluster.q_nvlink import History, fit_contention, parse_node_link, plan_fabric
from qcluster.q_nvlink.contention import (
    FEATURES,
    ContentionModel,
    default_model,
    layout_features,
    simulate_history,
    suggest_layout,
)
from qcluster.q_nvlink.contention.cases import THRESHOLD, random_layout, usual_fabrics
from qcluster.q_nvlink.placement import verify_placement
from qcluster.q_nvlink.problem import PlacementProblem, admit
from qcluster.telemetry import Job


@pytest.fixture(scope="module")
def history() -> History:
    return simulate_history(usual_fabrics(), 300, seed=3)


def problem_of(fabric, jobs, **extra):
    admission = admit(fabric, jobs)
    return PlacementProblem(fabric, admission.jobs, admission.home, {}, **extra)


def test_features_of_layouts_that_can_be_read_off(dgx1):
    job = Job(id="a", gpus=2, kind="all_to_all", bytes=1e9)
    problem = problem_of(dgx1, [job])
    near = dict(zip(FEATURES, layout_features(problem, {"a": [0, 1]}), strict=True))
    far = dict(zip(FEATURES, layout_features(problem, {"a": [0, 7]}), strict=True))
    assert near["indirect"] == 0
    assert near["hops"] == 0
    assert near["relayed"] == 0
    assert far["indirect"] == 1
    assert far["hops"] == 1
    assert far["relayed"] == 1


def test_gpus_that_pass_traffic_on_are_busier_for_it(dgx1):
    # GPUs 0 and 5 share no link; GPU 1 has one to both.
    job = Job(id="a", gpus=3, kind="all_to_all", bytes=1e9)
    found = dict(
        zip(FEATURES, layout_features(problem_of(dgx1, [job]), {"a": [0, 1, 5]}), strict=True)
    )
    assert found["relayed"] == 0
    assert found["forward"] > found["port"]


def test_switches_join_gpus_directly(star):
    problem = problem_of(star, [Job(id="a", gpus=8, kind="all_to_all", bytes=1e9)])
    found = dict(zip(FEATURES, layout_features(problem, {"a": list(range(8))}), strict=True))
    assert found["indirect"] == 0
    assert found["relayed"] == 0
    assert found["port"] == pytest.approx(0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_features_are_finite_and_scale_free(seed, which):
    fabric = usual_fabrics()[which]
    layout = random_layout(fabric, np.random.default_rng(seed))
    assert layout is not None
    problem, placement = layout
    found = layout_features(problem, placement)
    assert np.isfinite(found).all()
    scaled = [Job(id=j.id, gpus=j.gpus, kind=j.kind, bytes=10 * j.bytes) for j in problem.jobs]
    again = PlacementProblem(fabric, tuple(scaled), problem.home, {})
    assert layout_features(again, placement) == pytest.approx(found, abs=1e-9)


def test_idle_jobs_have_features_too(dgx1):
    problem = problem_of(dgx1, [Job(id="a", gpus=1)])
    assert np.isfinite(layout_features(problem, {"a": [3]})).all()


def test_history_repeats_with_its_seed_and_labels_what_was_routed(history):
    again = simulate_history(usual_fabrics(), 300, seed=3)
    assert (again.features == history.features).all()
    assert (again.contended == history.contended).all()
    assert 0.2 < history.contended.mean() < 0.9


def test_history_needs_gpus_that_links_join():
    fabric = parse_node_link({"nodes": [{"id": "g0"}, {"id": "g1"}], "edges": []})
    with pytest.raises(Infeasible, match="no fabric"):
        simulate_history([fabric], 10)


@pytest.mark.parametrize("kernel", ["rbf", "quantum"])
def test_a_fit_tells_layouts_apart_that_it_has_not_seen(history, kernel):
    train = History(history.features[:200], history.contended[:200])
    model = fit_contention(train, kernel=kernel)
    said, truth = model.contended(history.features[200:]), history.contended[200:]
    assert (said[truth].mean() + (~said[~truth]).mean()) / 2 > 0.8


def test_decisions_are_those_of_the_library_that_fitted(history):
    from sklearn.svm import SVC

    model = fit_contention(history, penalty=3.0, width=0.2)
    x = (history.features - model.mean) / model.scale
    theirs = SVC(C=3.0, gamma=0.2, class_weight="balanced").fit(x, history.contended)
    assert model.decision(history.features) == pytest.approx(theirs.decision_function(x), abs=0.01)


@pytest.mark.parametrize("kernel", ["rbf", "quantum"])
def test_saved_and_loaded_it_decides_alike(history, tmp_path, kernel):
    model = fit_contention(history, kernel=kernel)
    path = tmp_path / "m.safetensors"
    model.save(path)
    again = ContentionModel.load(path)
    assert (again.decision(history.features) == model.decision(history.features)).all()
    assert again.kernel == kernel
    assert again.rows == 300


@pytest.mark.parametrize("damage", ["missing", "kind", "features", "kernel", "bytes", "json"])
def test_damaged_files_are_refused_by_name(history, tmp_path, damage):
    path = tmp_path / "m.safetensors"
    if damage != "missing":
        fit_contention(history).save(path)
        about = json.loads((tmp_path / "m.safetensors.json").read_text())
        if damage == "bytes":
            path.write_bytes(b"no")
        elif damage == "json":
            (tmp_path / "m.safetensors.json").write_text("{")
        else:
            about[damage] = ["x"] if damage == "features" else "x"
            (tmp_path / "m.safetensors.json").write_text(json.dumps(about))
    with pytest.raises(FormatError, match=r"m\.safetensors"):
        ContentionModel.load(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kernel": "poly"}, "kernel"),
        ({"history": History(np.zeros((4, 8)), np.ones(4, dtype=bool))}, "contended"),
        ({"history": History(np.zeros((4, 7)), np.ones(4, dtype=bool))}, "features"),
        ({"history": History(np.full((4, 8), np.nan), np.ones(4, dtype=bool))}, "features"),
        ({"history": History(np.zeros((4, 8)), np.ones(3, dtype=bool))}, "contended"),
    ],
)
def test_bad_histories_and_kernels_are_refused(history, change, text):
    arguments = {"history": history, **change}
    with pytest.raises(InputError, match=text):
        fit_contention(arguments.pop("history"), **arguments)


@pytest.mark.parametrize("kernel", ["rbf", "quantum"])
def test_the_shipped_models_know_fabrics_that_they_have_not_seen(kernel, dgx1):
    model = default_model(kernel)
    assert model.threshold == THRESHOLD
    other = dgx1.degraded(factor={"gpu4->gpu6": 0.0, "gpu6->gpu4": 0.0})
    fresh = simulate_history([other], 200, seed=99)
    said = model.contended(fresh.features)
    assert (said[fresh.contended].mean() + (~said[~fresh.contended]).mean()) / 2 > 0.8


def test_a_suggestion_is_valid_and_never_slower(dgx1):
    rng, flagged, better = np.random.default_rng(5), 0, 0
    for seed in range(14):
        problem, placement = random_layout(dgx1, rng)
        found = suggest_layout(problem, placement, default_model(), seed=seed)
        verify_placement(problem, found.layout)
        assert found.seconds == problem.cost(found.layout)
        assert found.seconds <= problem.cost(placement)
        assert found.better == (found.seconds < problem.cost(placement))
        flagged += found.flagged
        better += found.flagged and found.better
    assert flagged > 2
    assert better > flagged / 3


def test_a_suggestion_keeps_pins_and_the_move_budget(dgx1):
    job = Job(id="a", gpus=4, kind="all_to_all", bytes=1e9, pinned=("gpu0", "gpu7"))
    admission = admit(dgx1, [job])
    placement = {"a": [0, 7, 2, 5]}
    problem = PlacementProblem(dgx1, admission.jobs, admission.home, {"a": (0, 7, 2, 5)}, limit=1)
    for seed in range(10):
        found = suggest_layout(problem, placement, default_model(), seed=seed)
        verify_placement(problem, found.layout)


def test_plans_with_the_classifier_are_no_worse_than_their_fallback(dgx1):
    jobs = [{"id": "a", "gpus": 4, "traffic": {"kind": "all_to_all", "bytes": 1e9}},
            {"id": "b", "gpus": 3, "traffic": {"kind": "ring", "bytes": 2e9}}]  # fmt: skip
    for extra in ({}, {"quantum_kernel": True}):
        plan = plan_fabric(dgx1, jobs, config={"classifier": True, **extra}, deadline_s=3.0)
        assert plan.objective <= plan.baselines["first-fit"]
        assert plan.solver.requested == "classifier"
        assert plan.params["classifier"]["kernel"] == ("quantum" if extra else "rbf")
        assert (
            plan.params["classifier"]["seconds_suggested"]
            <= (plan.params["classifier"]["seconds_before"])
        )


def test_a_kernel_without_its_classifier_is_said_to_do_nothing(dgx1):
    plan = plan_fabric(dgx1, [{"id": "a", "gpus": 2}], config={"quantum_kernel": True})
    assert any("quantum_kernel" in text for text in plan.warnings)


def test_plans_are_rows_to_refit_from(dgx1):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(12):
        sizes = rng.integers(1, 4, 2)
        jobs = [{"id": f"j{i}", "gpus": int(k), "traffic": {"kind": "ring", "bytes": 1e9}}
                for i, k in enumerate(sizes)]  # fmt: skip
        rows.append(plan_fabric(dgx1, jobs).to_dict()["params"]["layout"])
    found = History.from_rows(rows)
    assert found.features.shape == (12, 8)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"features": [0.0] * 7, "contended": True}, "8 numbers"),
        ({"features": [0.0] * 7 + ["x"], "contended": True}, "skew"),
        ({"features": [float("nan")] + [0.0] * 7, "contended": True}, "indirect"),
        ({"features": [True] * 8, "contended": True}, "indirect"),
        ({"features": dict.fromkeys(FEATURES[:-1], 0.0), "contended": True}, "skew"),
        ({"features": [0.0] * 8, "contended": 1}, "contended"),
        ({"features": [0.0] * 8}, "contended"),
    ],
)
def test_bad_rows_of_history_name_row_and_field(row, text):
    good = {"features": [0.0] * 8, "contended": False}
    with pytest.raises(InputError, match=text) as caught:
        History.from_rows([good, row])
    assert caught.value.row == 1
