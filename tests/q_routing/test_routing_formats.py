"""Files in: every form gives the same arrays; what is wrong is named with file and row."""

import json

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from qcluster.errors import FormatError, InputError
from qcluster.q_routing import place_experts
from qcluster.q_routing.formats import (
    count_picks,
    read_load_file,
    read_model_graph,
    read_placement,
    read_tokens,
    read_trace,
    windows_of,
)

LOAD = np.array([[1.0, 2, 3], [4, 5, 6]])


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_every_form_of_a_load_reads_alike(tmp_path):
    np.save(tmp_path / "a.npy", LOAD)
    np.savez(tmp_path / "b.npz", load=LOAD)
    np.savez(tmp_path / "c.npz", LOAD)
    files = [
        tmp_path / "a.npy",
        tmp_path / "b.npz",
        tmp_path / "c.npz",
        write(tmp_path / "d.csv", "e0,e1,e2\n1,2,3\n4,5,6\n"),
        write(tmp_path / "e.csv", "1,2,3\n\n4,5,6\n"),
        write(tmp_path / "f.csv", "e0;e1;e2\n1,0;2;3\n4;5,0;6\n"),
        write(tmp_path / "g.csv", "1,0;2,0;3,0\n4,0;5,0;6,0\n"),
        write(tmp_path / "h.csv", "# e0 e1 e2\n1\t2\t3\n4\t5\t6\n"),
        write(tmp_path / "f.json", json.dumps(LOAD.tolist())),
        write(tmp_path / "g.json", json.dumps({"logical_count": LOAD.tolist()})),
    ]
    for file in files:
        assert np.array_equal(read_load_file(file), LOAD), file


def test_a_trace_is_counted(tmp_path):
    ids = np.array([[[0, 1], [2, 3]], [[0, 2], [1, 3]]], dtype=np.uint8)
    np.savez(tmp_path / "t.npz", expert_ids=ids)
    assert read_load_file(tmp_path / "t.npz").tolist() == [[2, 1, 1, 0], [0, 1, 1, 2]]
    assert np.array_equal(read_trace(tmp_path / "t.npz"), ids)
    windows = windows_of(ids, 1)
    assert windows.shape == (2, 2, 4)
    assert np.array_equal(windows.sum(axis=0), count_picks(ids))
    with pytest.raises(InputError, match="fewer than a window"):
        windows_of(ids, 3)


def test_real_traces_match_their_published_loads(data_dir):
    folder = data_dir / "routing"
    for task in ("intent", "law"):
        trace = read_load_file(folder / f"dsv2lite_{task}.npz")
        assert np.array_equal(trace, read_load_file(folder / f"dsv2lite_{task}_load.csv"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "1,2\n3\n", r"a\.csv, row 2: has 1 columns"),
        ("a.csv", "x,y\n1,z\n", r"row 2, field 'column 2': wants a number, got 'z'"),
        ("a.csv", "x,y\n", "holds no rows"),
        ("a.csv", "", "holds no rows"),
        ("a.csv", "1,nan\n", "not a finite load"),
        ("a.csv", "1,-2\n", "not a finite load"),
        ("a.json", "[[1, 2], [3]]", "differ in length"),
        ("a.json", "[[1, 2", r"a\.json, row 1: is not JSON"),
        ("a.json", "[[1, NaN]]", "not a number that JSON has"),
        ("a.json", "[[1, 1e400]]", "not a finite load"),
        ("a.json", '[["a"]]', "wants rows of numbers"),
        ("a.json", '{"x": 1}', "wants one of load"),
        ("a.json", "[" * 200_000, "nested too deeply"),
        ("a.npz", "no zip", "is not an npz"),
    ],
)
def test_bad_loads_are_named(tmp_path, name, text, message):
    with pytest.raises(FormatError if "finite" not in message else InputError, match=message):
        read_load_file(write(tmp_path / name, text))


def test_bad_arrays_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=LOAD, y=LOAD)
    with pytest.raises(FormatError, match="holds none of expert_ids"):
        read_load_file(tmp_path / "a.npz")
    with pytest.raises(FormatError, match="no expert_ids"):
        read_trace(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", expert_ids=np.zeros((2, 2)))
    with pytest.raises(FormatError, match="whole numbers"):
        read_trace(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", expert_ids=np.full((1, 1, 1), -1))
    with pytest.raises(FormatError, match="out of range"):
        read_trace(tmp_path / "c.npz")
    np.save(tmp_path / "d.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="not an npz or npy"):
        read_load_file(tmp_path / "d.npy")
    with pytest.raises(FormatError, match="No such file"):
        read_load_file(tmp_path / "absent.csv")
    (tmp_path / "e.csv").write_bytes(b"\xff\x00")
    with pytest.raises(FormatError, match="not UTF-8 text"):
        read_load_file(tmp_path / "e.csv")


def test_every_form_of_tokens_reads_alike(tmp_path):
    rows = [{"id": "a", "complexity": 2.0, "interacts": ["b"]}, {"id": "b"}]
    lines = "\n".join(json.dumps(row) for row in rows)
    for source in (
        rows,
        tuple(rows),
        write(tmp_path / "t.json", json.dumps(rows)),
        write(tmp_path / "t.jsonl", lines + "\n\n"),
        str(write(tmp_path / "t.csv", "id,complexity,interacts\na,2,b\nb,,\n")),
        str(write(tmp_path / "u.csv", "id;complexity;interacts\na;2,0;b\nb;;\n")),
        str(write(tmp_path / "t.tsv", "id\tcomplexity\tinteracts\na\t2\tb\nb\t\t\n")),
        pd.DataFrame(rows),
    ):
        assert read_tokens(source) == rows


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", '{"id": 1}\n{"id"\n', r"t\.jsonl, row 2: is not JSON"),
        ("t.json", "[1]", "row 1: wants a mapping"),
        ("t.json", "[", "is not JSON"),
        ("t.csv", "id,complexity\na,1,2\n", "row 2: has another number"),
        ("t.csv", "id,complexity\na,much\n", "row 2, field 'complexity': wants a number"),
    ],
)
def test_bad_tokens_are_named(tmp_path, name, text, message):
    with pytest.raises(FormatError, match=message):
        read_tokens(write(tmp_path / name, text))


def test_tokens_must_be_a_list():
    for bad in ({"id": 1}, b"x", 7):
        with pytest.raises(FormatError, match="list of tokens"):
            read_tokens(bad)


def test_every_form_of_a_model_graph_reads_alike(tmp_path):
    nodes = [{"id": "a", "gpu": "g0"}, {"id": "b", "gpu": "g1"}]
    edges = [{"source": "a", "target": "b", "bandwidth_gb_s": 9}]
    wanted = {"directed": False, "nodes": nodes, "edges": edges}
    net = nx.Graph()
    net.add_nodes_from([("a", {"gpu": "g0"}), ("b", {"gpu": "g1"})])
    net.add_edge("a", "b", bandwidth_gb_s=9)
    file = write(tmp_path / "g.json", json.dumps({"nodes": nodes, "links": edges}))
    for source in ({"nodes": nodes, "edges": edges}, {"nodes": nodes, "links": edges}, file, net):
        found = read_model_graph(source)
        assert found["directed"] is False
        assert [dict(sorted(n.items())) for n in found["nodes"]] == wanted["nodes"]
        assert [dict(sorted(e.items())) for e in found["edges"]] == [
            dict(sorted(e.items())) for e in edges
        ]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ([], "wants node-link JSON"),
        ({}, "wants node-link JSON"),
        ({"nodes": {}}, "wants node-link JSON"),
        ({"nodes": [1]}, r"nodes\[0\]"),
        ({"nodes": [], "edges": {}}, "'edges': wants a list"),
        ({"nodes": [], "links": [3]}, r"edges\[0\]"),
    ],
)
def test_bad_graphs_are_named(graph, message):
    with pytest.raises(FormatError, match=message):
        read_model_graph(graph)


def test_placements_read_back(tmp_path):
    placement = place_experts(LOAD, num_slots=4, num_gpus=2)
    plain = write(tmp_path / "p.json", json.dumps(placement.to_dict()))
    inside = write(tmp_path / "q.json", json.dumps({"placement": placement.to_dict()}))
    assert read_placement(plain) == read_placement(inside) == placement
    with pytest.raises(FormatError, match=r"r\.json.*Placement"):
        read_placement(write(tmp_path / "r.json", "{}"))
    with pytest.raises(FormatError, match="wants a placement"):
        read_placement(write(tmp_path / "s.json", "[]"))
