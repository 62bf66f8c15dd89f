"""Cluster trees in, directives out: the consumer's own files, grammars and round trips."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import FormatError, InputError
from qcluster.q_nvlink import directives as out
from qcluster.q_nvlink import load_fabric, parse_fabric, select_gpus
from qcluster.q_nvlink.cluster_tree import (
    Block,
    ClusterTree,
    expand_hosts,
    fold_hosts,
    read_tree,
)
from qcluster.q_nvlink.formats import load_tree


def conf(text: str) -> list[dict[str, str]]:
    return [
        dict(item.split("=", 1) for item in line.split())
        for line in text.splitlines()
        if not line.startswith("#")
    ]


def hosts(text: str) -> list[str]:
    parts, depth, last = [], 0, 0
    for i, c in enumerate(text + ","):
        depth += {"[": 1, "]": -1}.get(c, 0)
        if c == "," and not depth:
            parts.append(text[last:i])
            last = i + 1
    return [name for part in parts for name in expand_hosts(part)]


def test_the_block_file_equals_the_expected_one(data_dir):
    want = (data_dir / "nvlink" / "topograph" / "expected.slinky-dra-block.conf").read_text()
    blocks = tuple(
        Block(
            switch=f"leaf{r}{i}",
            nodes=tuple(f"srv{r}{i}{n:02d}" for n in range(1, 9)),
            domain=f"nvl-{r}-{i}",
            sub_domain=f"rack{r}{i}",
        )
        for r in range(1, 7)
        for i in (1, 2)
    )
    assert out.slurm_block(ClusterTree(blocks=blocks), sizes=[8, 16, 32]).strip() == want.strip()


@pytest.mark.parametrize("name", ["medium", "small-tree", "nvl72", "dual-xclr-regular"])
def test_every_model_is_written_whole(data_dir, name):
    tree = load_tree(data_dir / "nvlink" / "topograph" / f"{name}.yaml")
    nodes = sorted(node for block in tree.blocks for node in block.nodes)
    rows = conf(out.slurm_tree(tree))
    assert sorted(n for row in rows if "Nodes" in row for n in hosts(row["Nodes"])) == nodes
    named = [row["SwitchName"] for row in rows]
    assert len(set(named)) == len(named)
    below = [c for row in rows if "Switches" in row for c in hosts(row["Switches"])]
    # A tree: every switch but the root is below exactly one other.
    assert sorted(below) == sorted(set(named) - {named[0]})
    rows = conf(out.slurm_block(tree))
    assert sorted(n for row in rows if "Nodes" in row for n in hosts(row["Nodes"])) == nodes
    document = yaml.safe_load(out.slurm_yaml(tree))
    assert [row["topology"] for row in document] == ["block", "tree"]
    assert sum(row["cluster_default"] for row in document) == 1
    blocks = document[0]["block"]["blocks"]
    assert sorted(n for row in blocks for n in hosts(row["nodes"])) == nodes
    assert ClusterTree.from_dict(tree.to_dict()).to_dict() == tree.to_dict()


def test_medium_tree_line_by_line(data_dir):
    tree = load_tree(data_dir / "nvlink" / "topograph" / "medium.yaml")
    assert out.slurm_tree(tree).splitlines() == [
        "SwitchName=sw3 Switches=sw[21-22]",
        "SwitchName=sw21 Switches=sw[11-12]",
        "SwitchName=sw22 Switches=sw[13-14]",
        *(f"SwitchName=sw1{i} Nodes=[1{i}01-1{i}02]" for i in range(1, 5)),
    ]
    labels = out.kubernetes_labels(tree)["1301"]
    assert labels == {
        "network.topology.nvidia.com/accelerator": "nvl3",
        "network.topology.nvidia.com/leaf": "sw13",
        "network.topology.nvidia.com/spine": "sw22",
        "network.topology.nvidia.com/core": "sw3",
    }


def test_block_sizes_are_those_of_the_model(data_dir):
    tree = load_tree(data_dir / "nvlink" / "topograph" / "nvl72.yaml")
    assert out.block_sizes(tree) == [18, 36, 72]
    assert out.block_sizes(tree, [9, 18]) == [9, 18]
    for wrong in ([36], [18, 54], [18, 18], [0], [True], []):
        with pytest.raises(InputError, match="block_sizes"):
            out.block_sizes(tree, wrong)


def test_a_model_is_a_fabric_of_nodes(data_dir):
    fabric = load_fabric(data_dir / "nvlink" / "topograph" / "nvl72.yaml")
    assert len(fabric.gpus) == 72
    assert "one GPU a node" in fabric.notes[0]
    chosen = select_gpus(fabric, 18)
    assert chosen.nvlink
    assert len({str(g)[:-2] for g in chosen.gpus}) == 1
    assert len(fabric.components) == 1
    small = '{"switches": {}, "blocks": [{"switch": "s", "nodes": ["a", "b"]}]}'
    assert parse_fabric(small).gpus == ("a", "b")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("blocks: 3", "list of blocks"),
        ("blocks:\n- 3", r"blocks\[0\]"),
        ("blocks:\n- {switch: s}", "nodes"),
        ("blocks:\n- {switch: s, nodes: []}", "has no nodes"),
        ("blocks:\n- {switch: s, nodes: ['n[3-1]']}", "from low to high"),
        ("blocks:\n- {switch: s, nodes: ['n[1-']}", "no list of hosts"),
        ("blocks:\n- {switch: s, nodes: [a, a]}", "stands twice"),
        ("blocks:\n- {switch: s, nodes: [s]}", "switch and a node"),
        ("blocks:\n- {switch: [1], nodes: [a]}", "switch's name"),
        ("blocks:\n- {switch: s, nodes: [a]}\nswitches: 3", "mapping of switches"),
        (
            (
                "blocks:\n- {switch: s, nodes: [a]}\n"
                "switches: {s: {switches: [t]}, t: {switches: [s]}}"
            ),
            "below itself",
        ),
        (
            (
                "blocks:\n- {switch: s, nodes: [a]}\n"
                "switches: {p: {switches: [s]}, q: {switches: [s]}}"
            ),
            "below 'p' as well",
        ),
        ("blocks: [", "is not YAML"),
        ("blocks: &a [*a]", "aliases"),
    ],
)
def test_bad_models(text, complaint, tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text(text)
    with pytest.raises(FormatError, match=complaint) as error:
        load_fabric(file)
    assert "model.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.from_regex(r"[a-z]{0,3}[0-9]{1,3}", fullmatch=True), min_size=1, max_size=20))
def test_lists_of_hosts_round_trip(names):
    assert sorted(hosts(fold_hosts(names))) == sorted(names)


def test_lists_of_hosts():
    assert expand_hosts("n[08-11,3]x") == ["n08x", "n09x", "n10x", "n11x", "n3x"]
    assert fold_hosts(["n08", "n09", "n10", "n3", "gw"]) == "n[08-10],n3,gw"
    for wrong in ("n[1-2", "n]1[", "n[a-b]", "n[1-999999999]", "n[]", ""):
        with pytest.raises(InputError):
            expand_hosts(wrong)


def test_order_of_ranks_for_cuda_and_mpi():
    gpus = ["a/3", "a/1", "b/0", "a/2"]
    assert out.visible_devices(gpus) == {"a": "3,1,2", "b": "0"}
    assert out.rank_file(gpus).splitlines() == [
        "rank 0=a slot=0",
        "rank 1=a slot=1",
        "rank 2=b slot=0",
        "rank 3=a slot=2",
    ]
    assert out.visible_devices(["GPU4", "GPU0"]) == {"localhost": "4,0"}
    assert out.visible_devices([2, 0]) == {"localhost": "2,0"}
    with pytest.raises(InputError, match="twice"):
        out.visible_devices(["a/1", "a/1"])
    with pytest.raises(InputError, match="index"):
        out.rank_file(["gpu"])


def test_graph_file_has_the_shape_of_a_real_one(data_dir):
    real = ET.parse(data_dir / "nvlink" / "topo_xml" / "azure-ncv4-graph.xml").getroot()
    rings = [[int(g.get("dev")) for g in c] for c in real[0]]
    mine = ET.fromstring(out.nccl_graph(rings, speed=12, kind="SYS"))
    assert mine.tag == real.tag
    assert mine.attrib == real.attrib
    assert mine[0].attrib == real[0].attrib
    assert [[g.attrib for g in c] for c in mine[0]] == [[g.attrib for g in c] for c in real[0]]
    for wrong in ([], [[]], [[0, 1], [0, 2]], [[0, 0]]):
        with pytest.raises(InputError, match="rings"):
            out.nccl_graph(wrong, speed=20)


def test_affinity_names_the_layer():
    hard = out.kubernetes_affinity("train")["podAffinity"]
    term = hard["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert term["topologyKey"] == "network.topology.nvidia.com/accelerator"
    soft = out.kubernetes_affinity("train", required=False, layer="leaf")["podAffinity"]
    rows = soft["preferredDuringSchedulingIgnoredDuringExecution"]
    assert rows[0]["podAffinityTerm"]["topologyKey"].endswith("/leaf")
    with pytest.raises(InputError, match="layer"):
        out.kubernetes_affinity("train", layer="rack")
    bad = read_tree({"blocks": [{"switch": "a b", "nodes": ["n"]}]})
    with pytest.raises(InputError, match="label"):
        out.kubernetes_labels(bad)
