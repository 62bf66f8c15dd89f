"""Slurm's topology files: read back what is written, and one line for what is wrong."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.cli import main
from qcluster.errors import FormatError
from qcluster.q_nvlink import load_fabric, load_tree, parse_fabric
from qcluster.q_nvlink.cluster_tree import Block, ClusterTree
from qcluster.q_nvlink.directives import slurm_block, slurm_tree, slurm_yaml
from qcluster.q_nvlink.slurm import read_slurm, read_slurm_yaml

TREE = """# a comment
SwitchName=core Switches=spine[0-1]
SwitchName=spine0 Switches=leaf0
SwitchName=spine1 Switches=leaf1  LinkSpeed=400
switchname=leaf0 nodes=n[00-03],x7
SwitchName=leaf1 \\
    Nodes=n[04-05]
"""
BLOCKS = """# r1=nvl-1
BlockName=r1 Nodes=n[1-4]
BlockName=r2 Nodes=n[5-6],n8,n7
BlockSizes=4,8
"""


def test_a_tree_is_read():
    tree = read_slurm(TREE)
    assert tree.switches["core"] == ("spine0", "spine1")
    assert [block.switch for block in tree.blocks] == ["leaf0", "leaf1"]
    assert tree.blocks[0].nodes == ("n00", "n01", "n02", "n03", "x7")
    assert tree.above("leaf1") == ["spine1", "core"]


def test_blocks_are_nvlink_domains():
    tree = read_slurm(BLOCKS)
    assert [(b.domain, b.sub_domain) for b in tree.blocks] == [("nvl-1", "r1"), ("r2", "")]
    assert tree.block_sizes == (4, 8)
    assert slurm_block(tree).splitlines()[-1] == "BlockSizes=4,8"
    fabric = parse_fabric(BLOCKS)
    assert len(fabric.gpus) == 8
    assert {node.domain for node in fabric.nodes if node.kind == "gpu"} == {"nvl-1", "r2"}


def test_the_expected_block_file_goes_round(data_dir):
    path = data_dir / "nvlink" / "topograph" / "expected.slinky-dra-block.conf"
    assert slurm_block(load_tree(path)) == path.read_text()
    assert len(load_fabric(path).gpus) == 96


@pytest.mark.parametrize("name", ["medium", "small-tree", "nvl72", "dual-xclr-regular"])
@pytest.mark.parametrize("write", [slurm_tree, slurm_block, slurm_yaml])
def test_what_is_written_of_real_models_is_read_back(data_dir, tmp_path, name, write):
    model = load_tree(data_dir / "nvlink" / "topograph" / f"{name}.yaml")
    text = write(model)
    path = tmp_path / ("topology.yaml" if write is slurm_yaml else "topology.conf")
    path.write_text(text)
    again = load_tree(path)
    assert write(again) == text
    names = sorted(node for block in model.blocks for node in block.nodes)
    assert sorted(node for block in again.blocks for node in block.nodes) == names


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.integers(0, 2),
    st.booleans(),
)
def test_any_tree_goes_round(sizes, levels, domains):
    blocks, at = [], 0
    for i, size in enumerate(sizes):
        nodes = tuple(f"n{at + j:03d}" for j in range(size))
        blocks.append(Block(switch=f"leaf{i}", nodes=nodes, domain=f"d{i}" if domains else ""))
        at += size
    switches, top = {}, [block.switch for block in blocks]
    for level in range(levels):
        switches[f"up{level}"] = tuple(top)
        top = [f"up{level}"]
    tree = ClusterTree(switches=dict(reversed(switches.items())), blocks=tuple(blocks))
    assert slurm_tree(read_slurm(slurm_tree(tree))) == slurm_tree(tree)
    assert slurm_block(read_slurm(slurm_block(tree))) == slurm_block(tree)
    both = slurm_yaml(tree)
    assert slurm_yaml(read_slurm_yaml(yaml.safe_load(both))) == both


@pytest.mark.parametrize(
    ("text", "row", "wanted"),
    [
        ("SwitchName=a Nodes=n[1-3\n", 1, "Nodes"),
        ("SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2\n", 2, "stands twice"),
        ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n1\n", 2, "behind 'a' already"),
        ("SwitchName=a\n", 1, "either Switches or Nodes"),
        ("SwitchName=a Nodes=n1 Switches=b\n", 1, "either Switches or Nodes"),
        ("SwitchName=a Nodes=\n", 1, "no value"),
        ("SwitchName=a Nodes=n1 Nodes=n2\n", 1, "twice"),
        ("SwitchName=a Nodes=n1\nColour=red\n", 2, "not known"),
        ("SwitchName=a Nodes=n1\nhello\n", 2, "not known"),
        ("SwitchName=a Nodes=n1\nNodes=n2\n", 2, "wants SwitchName"),
        ("BlockName=a\n", 1, "no nodes"),
        ("BlockName=a Nodes=n1\nBlockName=b Nodes=n1\n", 2, "in 'a' already"),
        ("BlockName=a Nodes=n1\nBlockSizes=0\n", 2, "counts"),
        ("BlockName=a Nodes=n1\nBlockSizes=4,x\n", 2, "counts"),
        ("BlockName=a Nodes=n[3-1]\n", 1, "low to high"),
    ],
)
def test_a_damaged_conf_is_refused_with_file_row_and_field(tmp_path, text, row, wanted):
    path = tmp_path / "topology.conf"
    path.write_text(text)
    with pytest.raises(FormatError, match=wanted) as caught:
        load_tree(path)
    line = str(caught.value)
    assert "\n" not in line
    assert "topology.conf" in line
    assert caught.value.row == row


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SwitchName=a Switches=b\nSwitchName=c Nodes=n1\n", "no switch of the file"),
        ("SwitchName=a Switches=b\nSwitchName=b Switches=a\nSwitchName=c Nodes=n\n", "itself"),
        ("SwitchName=a Switches=a\nSwitchName=c Nodes=n\n", "itself"),
        ("BlockSizes=4\n", "names no nodes"),
        ("SwitchName=a Switches=b,b\nSwitchName=b Nodes=n\n", "as well"),
    ],
)
def test_a_tree_that_is_none(text, wanted):
    with pytest.raises(FormatError, match=wanted):
        read_slurm(text)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ({}, "list of topologies"),
        ([], "list of topologies"),
        ([3], r"\[0\]"),
        ([{"tree": 3}], r"\[0\]\.tree\.switches"),
        ([{"tree": {"switches": [3]}}], r"switches\[0\]"),
        ([{"tree": {"switches": [{"switch": "a", "nodes": True}]}}], "wants text"),
        ([{"tree": {"switches": [{"nodes": "n1"}]}}], "no name"),
        ([{"block": {"blocks": [{"block": "a"}]}}], "no nodes"),
        ([{"block": {"blocks": [{"block": "a", "nodes": "n[1"}]}}], "Nodes"),
        ([{"block": {"block_sizes": 4, "blocks": []}}], "wants a list"),
        ([{"block": {"block_sizes": [True], "blocks": []}}], "counts"),
        ([{"topology": "flat", "flat": True}], "names no nodes"),
    ],
)
def test_a_damaged_yaml_is_refused_with_its_field(data, wanted):
    with pytest.raises(FormatError, match=wanted):
        read_slurm_yaml(data)


def test_the_command_turns_one_into_the_other(tmp_path, capsys):
    path = tmp_path / "topology.conf"
    path.write_text(TREE)
    assert main(["nvlink", str(path), "--write", "slurm-yaml"]) == 0
    written = yaml.safe_load(capsys.readouterr().out)
    assert {entry["topology"] for entry in written} == {"tree", "block"}
