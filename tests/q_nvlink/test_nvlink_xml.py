"""NCCL and RCCL topology files."""

from __future__ import annotations

import contextlib

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import FormatError, InputError
from qcluster.q_nvlink import load_fabric, parse_fabric, select_gpus

TWO = """<system version="1">
  <cpu numaid="0">
    <pci busid="0000:10:00.0" class="0x060400" link_speed="16 GT/s" link_width="16">
      <pci busid="0000:11:00.0" class="0x030200" link_speed="16 GT/s" link_width="16">
        <gpu dev="0" sm="80"><nvlink target="0000:12:00.0" count="4" tclass="0x030200"/></gpu>
      </pci>
      <pci busid="0000:12:00.0" class="0x030200" link_speed="16 GT/s" link_width="8">
        <gpu dev="1" sm="80"><nvlink target="0000:11:00.0" count="4" tclass="0x030200"/></gpu>
      </pci>
      <pci busid="0000:13:00.0" class="0x020000"><nic><net name="eth0"/></nic></pci>
    </pci>
  </cpu>
  <cpu numaid="1"/>
</system>
"""


def test_links_ports_and_devices():
    fabric = parse_fabric(TWO)
    assert fabric.gpus == ("GPU0", "GPU1")
    assert fabric.graph["GPU0"]["GPU1"]["bandwidth_gb_s"] == 100.0
    assert fabric.graph["GPU0"]["GPU1"]["links"] == 4
    assert fabric.graph["GPU0"]["0000:10:00.0"]["bandwidth_gb_s"] == 32.0
    assert fabric.graph["GPU1"]["0000:10:00.0"]["bandwidth_gb_s"] == 16.0
    assert fabric.graph["cpu0"]["cpu1"]["bandwidth_gb_s"] == 20.0
    assert {n.id: n.kind for n in fabric.nodes}["0000:13:00.0"] == "nic"


def test_nvswitch_is_a_star():
    text = TWO.replace('target="0000:12:00.0"', 'target="0000:40:00.0"')
    text = text.replace('target="0000:11:00.0"', 'target="0000:40:00.0"')
    fabric = parse_fabric(text.replace('0x030200"/>', '0x068000"/>'))
    assert fabric.graph["GPU0"]["0000:40:00.0"]["bandwidth_gb_s"] == 100.0
    assert not fabric.graph.has_edge("GPU0", "GPU1")


def test_every_real_file_is_read_or_refused_by_name(data_dir):
    gpus = {
        "aws-p4d-24xl-topo": 8,
        "azure-ncv4-topo": 4,
        "azure-ndv2-topo": 8,
        "azure-ndv4-topo": 8,
        "rccl-topo_4p3l": 4,
        "rccl-topo_8p6l": 8,
        "rccl-topo_8p_90a": 8,
        "rccl-topo_8p_pcie": 8,
    }
    for file in sorted((data_dir / "nvlink" / "topo_xml").glob("*.xml")):
        if file.stem.endswith("-graph"):
            with pytest.raises(FormatError, match="<graphs>"):
                load_fabric(file)
            continue
        fabric = load_fabric(file)
        assert len(fabric.gpus) == gpus[file.stem], file.stem
        assert nx.is_strongly_connected(fabric.graph), file.stem
        assert select_gpus(fabric, 2).bandwidth_gb_s > 0


def test_a_link_to_itself_is_noted(data_dir):
    fabric = load_fabric(data_dir / "nvlink" / "topo_xml" / "azure-ncv4-topo.xml")
    assert len(fabric.notes) == 4


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("</system>", ""), "not XML"),
        (('count="4"', 'count="-4"'), "row 5, field 'count'"),
        (('count="4"', 'count="many"'), "row 5, field 'count'"),
        (('<gpu dev="0" sm="80"><nvlink target="0000:12', '<gpu dev="0" sm="80"><nvlink target="9'),
         "row 5, field 'target'"),
        (('dev="1"', 'dev="0"'), "twice"),
        (('dev="1"', 'dev="x"'), "row 7, field 'dev'"),
        (("0000:13:00.0", "0000:10:00.0"), "row 10"),
        (('numaid="1"', 'numaid="0"'), "row 13, field 'numaid'"),
        ((' busid="0000:13:00.0"', ""), "row 10, field 'busid'"),
        (("16 GT/s", "17 GT/s"), "row 3, field 'link_speed'"),
        (("<system", "<!DOCTYPE s [<!ENTITY a 'b'>]><system"), "document type"),
    ],
)  # fmt: skip
def test_bad_files_name_row_and_field(change, wanted):
    assert change[0] in TWO
    with pytest.raises(FormatError) as caught:
        parse_fabric(TWO.replace(change[0], change[1], 1), file="t.xml")
    assert wanted in str(caught.value)
    assert "t.xml" in str(caught.value)


def test_one_sided_links_are_refused():
    with pytest.raises(FormatError, match="GPU0 has 3 links to GPU1, GPU1 has 4 back"):
        parse_fabric(TWO.replace('count="4"', 'count="3"', 1))


def test_no_gpu_and_deep_nesting():
    with pytest.raises(FormatError, match="no GPU"):
        parse_fabric("<system><cpu numaid='0'/></system>")
    with pytest.raises(FormatError, match="deeply"):
        parse_fabric("<system>" + "<pci>" * 200_000)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_cut_or_garbled_file_is_read_or_refused(data):
    position = data.draw(st.integers(0, len(TWO) - 1))
    if data.draw(st.booleans()):
        text = TWO[:position]
    else:
        text = TWO[:position] + data.draw(st.characters()) + TWO[position + 1 :]
    with contextlib.suppress(InputError):
        parse_fabric(text)
