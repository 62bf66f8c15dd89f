"""Readers: every real file, every kind of malformed one."""

from __future__ import annotations

import contextlib
import json
import math

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvlink_cases import DGX1, dgx1_data, star_data

from qcluster.errors import FormatError, InputError
from qcluster.q_nvlink import (
    Fabric,
    FabricLink,
    FabricNode,
    load_fabric,
    parse_fabric,
    parse_node_link,
    plan_fabric,
)

MATRIX = """\
\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity
GPU0\t X \tNV4\tPIX\t0-31\t0
GPU1\tNV4\t X \tSYS\t0-31\t0
NIC0\tPIX\tSYS\t X
"""


def out_gb_s(fabric: Fabric, gpu: str, kind: str = "nvlink") -> float:
    return sum(k.bandwidth_gb_s for k in fabric.links if k.source == gpu and k.kind == kind)


def test_node_link_gives_both_directions_and_keeps_order():
    fabric = parse_fabric(json.dumps(dgx1_data()))
    assert fabric.gpus == tuple(f"gpu{i}" for i in range(8))
    assert len(fabric.links) == 2 * len(DGX1)
    assert fabric.graph["gpu0"]["gpu1"]["bandwidth_gb_s"] == 50.0
    assert fabric.graph["gpu1"]["gpu0"]["links"] == 2
    assert fabric.graph["gpu0"]["gpu1"]["effective_gb_s"] == pytest.approx(40.0)


def test_edges_and_links_keys_read_alike():
    data = dgx1_data()
    other = {k: v for k, v in data.items() if k != "edges"} | {"links": data["edges"]}
    assert parse_fabric(json.dumps(data)) == parse_fabric(json.dumps(other))


def test_parallel_links_add_up_and_directed_stays_directed():
    data = {
        "directed": True,
        "multigraph": True,
        "nodes": [{"id": 0}, {"id": 1}],
        "links": [
            {"source": 0, "target": 1, "key": 0, "bandwidth": 25},
            {"source": 0, "target": 1, "key": 1, "bandwidth": 50},
        ],
    }
    fabric = parse_fabric(json.dumps(data))
    assert fabric.gpus == (0, 1)
    assert fabric.graph[0][1]["bandwidth_gb_s"] == 75.0
    assert fabric.graph[0][1]["links"] == 2
    assert not fabric.graph.has_edge(1, 0)


@pytest.mark.parametrize("edges", ["edges", "links"])
def test_networkx_round_trip(edges):
    graph = nx.random_regular_graph(3, 8, seed=1)
    nx.set_edge_attributes(graph, 25.0, "bandwidth")
    fabric = parse_fabric(json.dumps(nx.node_link_data(graph, edges=edges)))
    assert set(fabric.graph.edges) == set(graph.to_directed().edges)


def test_switches_are_known_by_kind_or_by_name():
    data = star_data(4)
    for node in data["nodes"]:
        node.pop("kind")
        node["id"] = node["id"].replace("s", "nvswitch")
    for link in data["links"]:
        link["target"] = link["target"].replace("s", "nvswitch")
    assert parse_fabric(json.dumps(data)).gpus == ("g0", "g1", "g2", "g3")


def test_record_round_trip(dgx1):
    assert Fabric.from_dict(json.loads(json.dumps(dgx1.to_dict()))) == dgx1


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        (lambda d: d["edges"][3].update(bandwidth_GBps=-1), "edges[3].bandwidth_GBps", "above 0"),
        (lambda d: d["edges"][3].update(bandwidth_GBps=0), "edges[3].bandwidth_GBps", "above 0"),
        (lambda d: d["edges"][3].update(bandwidth_GBps="fast"), "edges[3]", "number"),
        (lambda d: d["edges"][3].update(bandwidth_GBps=True), "edges[3]", "number"),
        (lambda d: d["edges"][3].update(bandwidth_GBps=10**400), "edges[3]", "finite"),
        (lambda d: d["edges"][3].pop("bandwidth_GBps"), "edges[3]", "bandwidth"),
        (lambda d: d["edges"][3].update(type="pigeon"), "edges[3].type", "wants one of"),
        (lambda d: d["edges"][3].update(links=-1), "edges[3].links", "at least 0"),
        (lambda d: d["edges"][3].update(links=1.5), "edges[3].links", "count"),
        (lambda d: d["edges"][2].update(target="gpu9"), "edges[2].target", "no node 'gpu9'"),
        (lambda d: d["edges"][2].update(target="gpu0"), "edges[2]", "itself"),
        (lambda d: d["edges"].append(7), "edges[16]", "object"),
        (lambda d: d["nodes"].append({"id": "gpu0"}), "nodes[8].id", "twice"),
        (lambda d: d["nodes"].append({"id": None}), "nodes[8].id", "name"),
        (lambda d: d["nodes"].append({"id": ["a"]}), "nodes[8].id", "name"),
        (lambda d: d.update(nodes=[]), "nodes", "list of nodes"),
        (lambda d: d.update(edges={}), "edges", "list"),
        (lambda d: d.update(directed="no"), "directed", "true or false"),
        (lambda d: [n.update(kind="nvswitch") for n in d["nodes"]], "nodes", "no GPU"),
    ],
)
def test_bad_node_link_names_file_and_field(tmp_path, change, field, text):
    data = dgx1_data()
    change(data)
    path = tmp_path / "fabric.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError) as caught:
        load_fabric(path)
    message = str(caught.value)
    assert str(path) in message
    assert field in message
    assert text in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "is empty"),
        ("   \n ", "is empty"),
        ("hello", "neither"),
        ('{"nodes": [', "row 1"),
        ('{"nodes": [{"id": 1}], "edges": [], "x": NaN}', "NaN"),
        ("[" * 200_000, "nested too deeply"),
        ("[]", "wants an object"),
        ("null", "neither"),
    ],
)
def test_text_that_is_no_fabric(tmp_path, text, wanted):
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(FormatError, match=wanted) as caught:
        load_fabric(path)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        load_fabric(tmp_path / "absent.json")
    path = tmp_path / "bin"
    path.write_bytes(b"\x80\x81\xff")
    with pytest.raises(FormatError, match="not UTF-8 text"):
        load_fabric(path)


def test_matrix_reads_nvlink_and_pcie():
    fabric = parse_fabric(MATRIX)
    assert fabric.gpus == ("GPU0", "GPU1")
    assert fabric.graph["GPU0"]["GPU1"]["bandwidth_gb_s"] == 100.0
    assert {n.id: n.kind for n in fabric.nodes}["NIC0"] == "nic"
    path = nx.shortest_path(fabric.graph, "GPU0", "NIC0")
    assert len(path) == 3  # through one PCIe switch


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("GPU1\tNV4\t X ", "GPU1\tNV3\t X "), "GPU1"),
        (("NV4\tPIX", "FOO\tPIX"), "row 2, field 'GPU1'"),
        (("NV4\tPIX", "NV0\tPIX"), "row 2, field 'GPU1'"),
        (("GPU0\t X \tNV4", "GPU0\tNV4\tNV4"), "row 2, field 'GPU0'"),
        (("GPU1\tNV4\t X \tSYS\t0-31\t0\n", ""), "no row for GPU1"),
        (("GPU1\tNV4\t X \tSYS\t0-31\t0", "GPU1\tNV4"), "row 3, field 'GPU1'"),
        (("GPU1\tNV4", "GPU0\tNV4"), "row 3"),
        (("GPU1\tNV4", "GPU7\tNV4"), "row 3"),
        (("\tGPU0\tGPU1", "\tGPU0\tGPU0"), "row 1"),
    ],
)
def test_bad_matrix_names_row_and_field(change, wanted):
    assert change[0] in MATRIX
    with pytest.raises(FormatError, match="(?s)" + wanted.replace("'", ".")):
        parse_fabric(MATRIX.replace(*change), file="topo.txt")


def test_switched_group_is_a_star_and_a_mesh_stays_a_mesh():
    def square(n: int, word: str) -> str:
        names = [f"GPU{i}" for i in range(n)]
        rows = ["\t".join([a, *(" X " if a == b else word for b in names), "0-3"]) for a in names]
        return "\n".join(["\t" + "\t".join(names) + "\tCPU Affinity", *rows])

    switched = parse_fabric(square(8, "NV18"))
    assert [n.kind for n in switched.nodes].count("nvswitch") == 1
    assert out_gb_s(switched, "GPU3") == 18 * 25.0
    mesh = parse_fabric(square(4, "NV6"))
    assert not any(n.kind == "nvswitch" for n in mesh.nodes)
    assert out_gb_s(mesh, "GPU3") == 18 * 25.0


def test_edges_that_stand_twice_add_up_and_are_told():
    data = dgx1_data()
    data["edges"].append(dict(data["edges"][0]))
    fabric = parse_node_link(data)
    assert fabric.graph["gpu0"]["gpu1"]["bandwidth_gb_s"] == 100.0
    assert "edges[16]" in fabric.notes[0]
    assert "joined twice" in fabric.notes[0]
    assert parse_node_link({**data, "multigraph": True}).notes == ()


def test_colours_of_a_terminal_and_a_missing_legend_do_not_matter():
    coloured = MATRIX.replace("NV4", "\x1b[1;32mNV4\x1b[0m").replace("\tGPU0", "\x1b[4m\tGPU0", 1)
    assert parse_fabric(coloured).links == parse_fabric(MATRIX).links


def test_a_link_that_stands_twice_is_refused():
    text = "GPU 0: V100 (UUID: x)\n\t Link 0: 25 GB/s\n\t Link 0: 25 GB/s\n"
    with pytest.raises(FormatError, match=r"row 3, field 'Link 0'.*twice"):
        parse_fabric(text, file="links.txt")


def test_jobs_whose_gpus_nothing_joins_name_the_pair():
    data = {
        "nodes": [{"id": f"g{i}", "kind": "gpu"} for i in range(3)],
        "edges": [{"source": "g0", "target": "g1", "bandwidth": 50.0}],
    }
    with pytest.raises(InputError, match=r"jobs\[0\].*nothing joins g0 and g2"):
        plan_fabric(parse_node_link(data), [{"id": "j", "gpus": 3}])


def test_link_status_leaves_out_inactive_links():
    text = "GPU 3: Tesla (UUID: x)\n\t Link 0: 25.781 GB/s\n\t Link 1: <inactive>\n"
    fabric = parse_fabric(text)
    assert fabric.gpus == ("GPU3",)
    assert out_gb_s(fabric, "GPU3") == 25.0
    assert "1 of 2" in fabric.notes[0]


@pytest.mark.parametrize("line", ["Link 0: fast", "Link 0: 0 GB/s", "hello", "Link 1: 5 Gb"])
def test_bad_link_status(line):
    with pytest.raises(FormatError, match="row 2"):
        parse_fabric(f"GPU 0: X\n{line}\n")


def test_every_real_capture_is_read(data_dir):
    nvlinks = {
        "a100_4gpu_one_bridge_missing": (4, 300.0),
        "a100_8gpu_nvlink_pairs": (8, 300.0),
        "dgx1_v100_hybrid_cube_mesh": (8, 150.0),
        "gb200_nvlink_status_gpu0": (1, 900.0),
        "gb200_tray_4gpu": (4, 900.0),
        "h100_4gpu_nv6_nics": (4, 450.0),
        "old_legend_soc_4gpu": (4, 0.0),
        "pcie_8gpu_pix_phb_sys": (8, 0.0),
        "rtxpro6000_8gpu_ansi": (8, 0.0),
        "v100_nvlink_status_inactive_links": (1, 100.0),
    }
    files = sorted((data_dir / "nvlink" / "topo_smi").glob("*.txt"))
    assert {f.stem for f in files} >= set(nvlinks)
    for file in files:
        fabric = load_fabric(file)
        gpus, bandwidth = nvlinks[file.stem]
        assert len(fabric.gpus) == gpus, file.stem
        assert out_gb_s(fabric, str(fabric.gpus[0])) == pytest.approx(bandwidth), file.stem
        assert nx.is_strongly_connected(fabric.graph), file.stem
        assert Fabric.from_dict(fabric.to_dict()) == fabric


def test_owner_believed_in_a_bridge_that_is_not_there(data_dir):
    fabric = load_fabric(data_dir / "nvlink" / "topo_smi" / "a100_4gpu_one_bridge_missing.txt")
    assert fabric.graph.has_edge("GPU0", "GPU1")
    assert not fabric.graph.has_edge("GPU2", "GPU3")


def test_captured_matrix_agrees_with_the_public_fabric(data_dir):
    text = load_fabric(data_dir / "nvlink" / "topo_smi" / "dgx1_v100_hybrid_cube_mesh.txt")
    public = load_fabric(data_dir / "nvlink" / "fabrics" / "dgx1_v100.json")
    for a in range(8):
        for b in range(8):
            one = text.graph.get_edge_data(f"GPU{a}", f"GPU{b}", {}).get("bandwidth_gb_s")
            # The capture's machine is wired differently from the public table: same counts.
            assert one is None or one in (25.0, 50.0)
    assert sorted(out_gb_s(text, g) for g in text.gpus) == sorted(
        out_gb_s(public, g) for g in public.gpus
    )


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_build_refuses_bad_bandwidth(value):
    nodes = [FabricNode(id="a"), FabricNode(id="b")]
    link = FabricLink(source="a", target="b", bandwidth_gb_s=value, effective_gb_s=0.0)
    with pytest.raises(InputError, match="above 0"):
        Fabric.build(nodes, [link])


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_in_one_line(text):
    with contextlib.suppress(InputError):
        parse_fabric(text, file="f")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_cut_or_garbled_matrix_is_read_or_refused(data):
    position = data.draw(st.integers(0, len(MATRIX) - 1))
    if data.draw(st.booleans()):
        text = MATRIX[:position]
    else:
        text = MATRIX[:position] + data.draw(st.characters()) + MATRIX[position + 1 :]
    with contextlib.suppress(InputError):
        parse_fabric(text)
