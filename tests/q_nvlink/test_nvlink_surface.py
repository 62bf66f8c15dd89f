"""Requests, command line and recommendation table."""

from __future__ import annotations

import json

import pytest

from qcluster.cli import main
from qcluster.errors import InputError
from qcluster.q_nvlink import NVLinkConfig, NVLinkPlan, recommend
from qcluster.q_nvlink import requests as questions
from qcluster.request import REQUESTS, parse_request, run_request


@pytest.mark.parametrize("name", questions.__all__)
def test_examples_work_when_pasted(name):
    request = getattr(questions, name)
    assert REQUESTS.get(request.kind) is request
    answer = run_request(request.kind, json.dumps(request.example).encode())
    assert request.result.from_dict(json.loads(json.dumps(answer))).to_dict() == answer


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fabric": {"nodes": []}}, "fabric.nodes"),
        ({"fabric": "hello"}, "fabric"),
        ({"jobs": [{"id": "a"}]}, "gpus"),
        ({"config": {"qaoa": 3}}, "config.qaoa"),
        ({"extra": 1}, "extra"),
        ({"deadline_s": -1}, "deadline_s"),
    ],
)
def test_bad_bodies_name_the_field(change, text):
    body = {**questions.NVLinkPlanRequest.example, **change}
    with pytest.raises(InputError) as caught:
        parse_request("nvlink.plan", json.dumps(body).encode()).run()
    assert text in str(caught.value)


def test_text_of_nvidia_smi_is_a_fabric_too():
    text = "\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV4\t0\nGPU1\tNV4\t X \t0\n"
    body = {"fabric": text, "jobs": [{"id": "a", "gpus": 2}]}
    answer = run_request("nvlink.plan", json.dumps(body).encode())
    assert answer["assignment"] == {"a": ["GPU0", "GPU1"]}


@pytest.mark.parametrize(
    ("size", "row", "qaoa"),
    [
        (1, "Fewer than 8 GPUs", False),
        (7, "Fewer than 8 GPUs", False),
        (8, "8-32 GPUs", True),
        (32, "8-32 GPUs", True),
        (33, "32+ GPUs", True),
        (100_000, "32+ GPUs", True),
    ],
)
def test_recommendation_rows_and_boundaries(size, row, qaoa):
    found = recommend(num_gpus=size, static=False)
    assert found.row["Cluster Size"] == row
    assert found.config.qaoa is qaoa
    assert isinstance(found.config, NVLinkConfig)


def test_static_clusters_have_their_own_row():
    assert recommend(num_gpus=16, static=True).row["Recommended Toggles"] == "Classifier + RL"
    assert recommend(static=True).row["Cluster Size"] == "Static training cluster"


@pytest.mark.parametrize("arguments", [{}, {"num_gpus": 0}, {"num_gpus": "8"}, {"num_gpus": True}])
def test_outside_the_table(arguments):
    with pytest.raises(ValueError, match="choices"):
        recommend(**arguments)


def test_cli_prints_every_real_capture(data_dir, capsys):
    for file in sorted((data_dir / "nvlink" / "topo_smi").glob("*.txt")):
        assert main(["nvlink", str(file)]) == 0, file
        assert "Best subsets" in capsys.readouterr().out
        assert main(["nvlink", str(file), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["fabric"]["gpus"]
        assert all(s["bandwidth_gb_s"] <= s["upper_bound_gb_s"] for s in found["selections"])


def test_cli_plans_jobs(tmp_path, capsys, data_dir):
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps([{"id": "a", "gpus": 4, "traffic": {"bytes": 1e9}}]))
    fabric = str(data_dir / "nvlink" / "fabrics" / "dgx1_v100.json")
    assert main(["nvlink", fabric, "--jobs", str(jobs), "--json"]) == 0
    plan = NVLinkPlan.from_dict(json.loads(capsys.readouterr().out))
    assert len(plan.assignment["a"]) == 4
    assert main(["nvlink", fabric, "--jobs", str(jobs)]) == 0
    assert "Busiest links" in capsys.readouterr().out
    assert main(["nvlink", fabric, "-k", "4", "--busy", "gpu0"]) == 0
    assert "gpu0" not in capsys.readouterr().out.split("Best subsets")[1]


def test_cli_writes_what_cluster_managers_read(data_dir, capsys):
    model = str(data_dir / "nvlink" / "topograph" / "small-tree.yaml")
    for form, line in (
        ("slurm-tree", "SwitchName=S3 Nodes=I[34-36]"),
        ("slurm-block", "BlockName=nvl2 Nodes=I[21-22,25]"),
        ("slurm-yaml", "topology: tree"),
        ("k8s-labels", "network.topology.nvidia.com/leaf"),
    ):
        assert main(["nvlink", model, "--write", form]) == 0
        assert line in capsys.readouterr().out
    assert main(["nvlink", model, "--write", "dot"]) == 2
    assert "slurm-tree" in capsys.readouterr().err
    assert main(["nvlink", model, "-k", "3"]) == 0
    assert "NVLink" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["absent.json"], "absent.json"),
        (["FABRIC", "--jobs", "absent.json"], "absent.json"),
        (["FABRIC", "--jobs", "BAD"], "[0].gpus"),
        (["FABRIC", "-k", "9"], "'k'"),
        (["FABRIC", "-k", "x"], "-k"),
        (["FABRIC", "--busy", "gpu77"], "gpu77"),
        (["FABRIC", "--jobs", "GOOD", "--deadline-s", "-1"], "deadline_s"),
    ],
)
def test_cli_refuses_bad_input_in_one_line(tmp_path, capsys, arguments, text):
    fabric, bad, good = (tmp_path / name for name in ("f.json", "bad.json", "good.json"))
    fabric.write_text(json.dumps(questions.NVLinkPlanRequest.example["fabric"]))
    bad.write_text('[{"id": "a"}]')
    good.write_text('[{"id": "a", "gpus": 1}]')
    names = {"FABRIC": str(fabric), "BAD": str(bad), "GOOD": str(good)}
    assert main(["nvlink", *(names.get(a, a) for a in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert text in error
    assert "\n" not in error
    assert "Traceback" not in error


def test_gangs_over_http_take_racks_or_a_fabric():
    body = {"gangs": [{"id": "g", "pods": 2, "gpus": 2}]}
    racks = {"a": {"n0": 2, "n1": 2}, "b": {"m": 4}}
    answer = run_request("nvlink.gangs", json.dumps({**body, "racks": racks}).encode())
    assert answer["racks"]["g"] in ({"a": 2}, {"b": 2})
    nodes = [{"id": f"g{i}", "kind": "gpu", "host": f"h{i // 2}", "domain": "d"} for i in range(4)]
    edges = [{"source": f"g{i}", "target": "nvswitch", "bandwidth": 450.0} for i in range(4)]
    fabric = {"nodes": [*nodes, {"id": "nvswitch"}], "edges": edges}
    answer = run_request("nvlink.gangs", json.dumps({**body, "fabric": fabric}).encode())
    assert answer["racks"] == {"g": {"d": 2}}
    taken = {**body, "fabric": fabric, "busy": ["g0"]}
    answer = run_request("nvlink.gangs", json.dumps(taken).encode())
    assert answer["unplaced"]["g"] == "needs 4 GPUs, 3 are free"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"racks": None}, "either racks or a fabric"),
        ({"fabric": "x"}, "either racks or a fabric"),
        ({"racks": {"a": {"n": -1}}}, "racks"),
        ({"gangs": [{"id": "g"}]}, "gangs\\[0\\].pods"),
        ({"gangs": [{"pods": 1}]}, "gangs\\[0\\].id"),
        ({"gangs": [{"id": "g", "pods": 1, "colour": 2}]}, "gangs\\[0\\].colour"),
        ({"gangs": [{"id": "g", "pods": 1, "clique": 1}]}, "true or false"),
        ({"gangs": [{"id": "g", "pods": 1.5}]}, "at least 1"),
        ({"gangs": 3}, "gangs"),
    ],
)
def test_bad_gangs_name_the_field(change, text):
    body = {**questions.GangRequest.example, **change}
    with pytest.raises(InputError, match=text):
        parse_request("nvlink.gangs", json.dumps(body).encode()).run()


def test_a_busy_gpu_must_exist():
    body = {"fabric": questions._EXAMPLE_FABRIC, "busy": ["gpu9"], "gangs": []}
    with pytest.raises(InputError, match="gpu9"):
        parse_request("nvlink.gangs", json.dumps(body).encode()).run()


def test_the_command_places_gangs(tmp_path, capsys):
    fabric, gangs = tmp_path / "f.json", tmp_path / "g.json"
    fabric.write_text(json.dumps(questions._EXAMPLE_FABRIC))
    gangs.write_text(json.dumps([{"id": "a", "pods": 2}, {"id": "b", "pods": 1, "gpus": 9}]))
    assert main(["nvlink", str(fabric), "--gangs", str(gangs)]) == 0
    shown = capsys.readouterr()
    assert "b is not placed" in shown.out + shown.err
    assert main(["nvlink", str(fabric), "--gangs", str(gangs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["racks"]["a"]
    gangs.write_text("[3]")
    assert main(["nvlink", str(fabric), "--gangs", str(gangs)]) != 0
    assert "gangs[0]" in capsys.readouterr().err
