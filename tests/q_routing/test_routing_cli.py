"""``qcluster place`` and ``qcluster route`` as typed, requests as pasted, the table as printed."""

import json

import numpy as np
import pytest

from qcluster.cli import main
from qcluster.errors import InputError
from qcluster.q_routing import RoutingConfig, place_experts, recommend
from qcluster.q_routing.requests import PlacementRequest, RouteRequest
from qcluster.request import parse_request, run_request


@pytest.fixture
def load_file(tmp_path):
    path = tmp_path / "load.csv"
    path.write_text("9,5,3,1\n2,2,8,4\n")
    return str(path)


@pytest.fixture
def token_files(tmp_path):
    tokens, graph = tmp_path / "tokens.jsonl", tmp_path / "graph.json"
    tokens.write_text("".join(json.dumps({"id": i, "complexity": 1 + i}) + "\n" for i in range(6)))
    nodes = [{"id": f"e{i}", "capacity": 3} for i in range(2)]
    graph.write_text(json.dumps({"nodes": nodes, "links": []}))
    return str(tokens), str(graph)


def test_place_prints_json_writes_a_file_and_reads_it_back(load_file, tmp_path, capsys):
    output = str(tmp_path / "plan.json")
    assert main(["place", load_file, "--gpus", "2", "--slots", "6", "--json", "-o", output]) == 0
    shown = json.loads(capsys.readouterr().out)
    wanted = place_experts([[9, 5, 3, 1], [2, 2, 8, 4]], num_slots=6, num_gpus=2)
    assert shown["slots"] == wanted.slots.tolist()
    again = ["place", load_file, "--gpus", "2", "--slots", "6", "--previous", output]
    assert main([*again, "--max-moved", "0"]) == 0
    assert "0 (0.00%)" in capsys.readouterr().out


def test_place_on_a_real_trace(data_dir, capsys):
    trace = str(data_dir / "routing" / "dsv2lite_law.npz")
    assert main(["place", trace, "--gpus", "16", "--slots", "96", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["balancedness"] > 0.998


def test_place_with_a_trace_and_for_an_engine(tmp_path, capsys):
    ids = np.random.default_rng(0).permuted(np.tile(np.arange(8), (60, 2, 1)), axis=2)[:, :, :2]
    trace, engine = tmp_path / "trace.npz", tmp_path / "engine.json"
    np.savez(trace, expert_ids=ids)
    call = ["place", str(trace), "--gpus", "2", "--slots", "12", "--trace", str(trace)]
    assert main([*call, "--engine", str(engine)]) == 0
    assert "balancedness" in capsys.readouterr().out
    assert np.array(json.loads(engine.read_text())["physical_to_logical_map"]).shape == (2, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "2", "--slots", "3"], "num_slots"),
        (["--gpus", "0", "--slots", "6"], "num_gpus"),
        (["--gpus", "2"], "--slots"),
        (["--gpus", "2", "--slots", "6", "--hierarchical", "--nodes", "3"], "num_groups"),
        (["--gpus", "2", "--slots", "6", "--previous", "absent.json"], "absent.json"),
    ],
)
def test_place_refuses_in_one_line(load_file, capsys, arguments, message):
    assert main(["place", load_file, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_route_prints_logs_and_explains(token_files, tmp_path, capsys):
    tokens, graph = token_files
    log = tmp_path / "log.jsonl"
    common = ["route", tokens, "--graph", graph, "--log", str(log), "--deadline-s", "10"]
    assert main([*common, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert sorted(map(len, plan["queues"].values())) == [3, 3]
    assert main([*common, "--qaoa", "--hqc", "--layers", "1"]) == 0
    captured = capsys.readouterr()
    assert "objective" in captured.err
    assert "hqc+qaoa" in captured.err
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["solver"]["used"] for line in lines] == ["prices", "hqc+qaoa"]
    assert lines[1]["config"]["layers"] == 1
    assert np.array(lines[1]["angles"]).shape[:2] == (2, 1)
    assert lines[1]["iterations"] > 0
    assert len(lines[1]["energies"]) >= 2


def test_route_takes_a_configuration_file(token_files, tmp_path, capsys):
    tokens, graph = token_files
    config, output = tmp_path / "config.json", tmp_path / "plan.json"
    config.write_text('{"deterministic": true}')
    call = ["route", tokens, "--graph", graph, "--config", str(config), "-o", str(output)]
    assert main(call) == 0
    assert json.loads(output.read_text())["solver"]["used"] == "hash"
    config.write_text('{"layers": 99}')
    assert main(call) == 2
    assert "config.layers" in capsys.readouterr().err
    config.write_text("[]")
    assert main(call) == 2
    assert "wants a mapping" in capsys.readouterr().err


def test_examples_run_as_pasted():
    for kind in (RouteRequest, PlacementRequest):
        result = run_request(kind.kind, json.dumps(kind.example).encode())
        json.dumps(result, allow_nan=False)
        assert kind.result.from_dict(result)


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("routing.placement", {"load": [[1, 2], [3]]}, "differ in length"),
        ("routing.placement", {"load": []}, "load"),
        ("routing.placement", {"load": [["x"]]}, "load.0.0"),
        ("routing.placement", {"load": [[1, 2]], "num_slots": 1}, "num_slots"),
        ("routing.placement", {"load": [[1, 2]], "colour": 1}, "colour"),
        ("routing.plan", {"tokens": []}, "tokens"),
        ("routing.plan", {"tokens": [{}]}, "'id'"),
        ("routing.plan", {"model_graph": {}}, "nodes"),
        ("routing.plan", {"config": {"layers": 0}}, "config.layers"),
    ],
)
def test_bad_bodies_name_the_field(kind, body, message):
    model = {"routing.placement": PlacementRequest, "routing.plan": RouteRequest}[kind]
    example = {k: v for k, v in model.example.items() if k in ("load", "num_slots", "num_gpus",
               "tokens", "model_graph")}  # fmt: skip
    with pytest.raises(InputError, match=message):
        parse_request(kind, json.dumps({**example, **body}).encode()).run()


def test_a_replan_over_http_moves_little():
    example = PlacementRequest.example
    first = PlacementRequest.model_validate(example).run()
    body = {**example, "load": example["load"][::-1], "previous": first.slots.tolist()}
    second = PlacementRequest.model_validate({**body, "max_moved": 0.1}).run()
    assert second.moved_share <= 0.1


@pytest.mark.parametrize(
    ("size", "hardware", "goal", "config", "word"),
    [
        (10, "quantum", "latency", {"qaoa": True, "hqc": True}, "QAOA with HQC"),
        (999, "none", "latency", {"deterministic": True}, "Deterministic fallback"),
        (1000, "quantum", "balanced throughput", {"qaoa": True}, "QAOA with 2 layers"),
        (10_000, "overloaded", "throughput", {"hqc": True}, "HQC only"),
        (
            10_001,
            "quantum + classical",
            "robustness",
            {"qaoa": True, "hqc": True, "deterministic": True},
            "QAOA + HQC + deterministic",
        ),
        ("<1k tokens", "No quantum device", "Latency", {"deterministic": True}, "Deterministic"),
    ],
)
def test_recommendation_rows(size, hardware, goal, config, word):
    found = recommend(size=size, hardware=hardware, goal=goal)
    assert word in found.row["Recommended Config"]
    assert found.config == RoutingConfig(**config)
    json.dumps(found.to_dict())


def test_outside_the_table_lists_the_choices():
    with pytest.raises(ValueError, match="there are: <1k tokens, quantum, latency; "):
        recommend(size=5, hardware="none", goal="robustness")
    for bad in (-1, True):
        with pytest.raises(ValueError, match="number of tokens"):
            recommend(size=bad, hardware="none", goal="latency")
