"""Every built-in source against the public conformance class."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qcluster.telemetry import open_source
from qcluster.telemetry.sources.nvml import Nvml
from qcluster.telemetry.sources.push import Push, parse_samples
from qcluster.testing.nvml import FakeNvml
from qcluster.testing.source import SourceConformance


class TestSimulate(SourceConformance):
    simulated = True

    def open(self):
        return open_source(
            "simulate:nvl72,speed=max,fault=gpu_lost@2+2,fault=link_down@1:node00/2:3"
        )


class TestSimulatePod(SourceConformance):
    simulated = True

    def open(self):
        return open_source("simulate:dgx-h100,speed=max,nodes=2")


class TestNvml(SourceConformance):
    def open(self):
        return Nvml("node=a,period=0.01", nv=FakeNvml(4))


class TestPush(SourceConformance):
    def open(self):
        source = Push()
        lines = [
            {"ts_s": 5.0, "topology": {"nodes": [{"id": "a", "gpus": 2}]}},
            {"ts_s": 6.0, "node": "a", "gpu": 0, "power_w": 512, "energy_j": 10},
            {"ts_s": 7.0, "node": "a", "gpu": 1, "power_w": -3},
            {"ts_s": 7.0, "expert_load": [[1, 2]]},
        ]
        for batch in parse_samples("\n".join(map(json.dumps, lines))):
            source.offer(batch)
        source.close()
        return source


class TestReplayTable(SourceConformance):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path):
        self.path = tmp_path / "p.csv"
        rows = [f"{t},{node},{g},{300 + t}" for t in range(9) for node in "ab" for g in (0, 1)]
        self.path.write_text("ts_s,node,gpu,power_w\n" + "\n".join(rows))

    def open(self):
        return open_source(f"replay:{self.path}@max")


class TestReplayRouting(SourceConformance):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path):
        self.path = tmp_path / "r.npz"
        np.savez(self.path, expert_ids=np.random.default_rng(0).integers(0, 8, (5000, 2, 2)))

    def open(self):
        return open_source(f"replay:{self.path}@max")


class TestDescribed(SourceConformance):
    batches = 1

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path):
        self.path = tmp_path / "t.json"
        self.path.write_text('{"nodes": [{"id": "a", "gpus": 2}]}')

    def open(self):
        return open_source(f"topology:{self.path}")


class TestDcgm(SourceConformance):
    @pytest.fixture(autouse=True)
    def _exporter(self, exporter):
        line = 'DCGM_FI_DEV_POWER_USAGE{gpu="0",Hostname="n"} '
        self.url = exporter((200, line + "300\n"), (200, line + "310\n")).url

    def open(self):
        return open_source(f"dcgm:{self.url},period=0.02")


class TestRay(SourceConformance):
    @pytest.fixture(autouse=True)
    def _exporter(self, exporter, data_dir):
        text = (data_dir / "ray" / "ray-2.60-metrics.prom").read_text()
        self.url = exporter((200, text)).url

    def open(self):
        return open_source(f"ray:{self.url},period=0.02")
