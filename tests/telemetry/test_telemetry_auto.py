"""``auto``: a driver if there is one, else the simulator, and the reason."""

from __future__ import annotations

import sys
import types

import pytest

from qcluster.errors import InputError
from qcluster.telemetry import SOURCES, open_source
from qcluster.telemetry.sources.auto import detect


def driver(monkeypatch, *, count=8, init_error=None, count_error=None):
    module = types.ModuleType("pynvml")
    calls = []

    def init():
        calls.append("init")
        if init_error:
            raise init_error

    def device_count():
        if count_error:
            raise count_error
        return count

    module.nvmlInit, module.nvmlDeviceGetCount = init, device_count
    module.nvmlShutdown = lambda: calls.append("shutdown")
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return calls


def test_a_driver_with_gpus_is_taken(monkeypatch):
    calls = driver(monkeypatch)
    spec, reason = detect()
    assert spec == "nvml"
    assert "8 GPUs" in reason
    assert calls == ["init", "shutdown"]


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"init_error": RuntimeError("NVML Shared Library Not Found")}, "Not Found"),
        ({"count_error": RuntimeError("GPU is lost")}, "GPU is lost"),
        ({"count": 0}, "finds no GPU"),
    ],
)
def test_without_a_working_driver_the_simulator_is_taken_and_says_why(monkeypatch, kwargs, reason):
    driver(monkeypatch, **kwargs)
    found = detect()
    assert found.spec == "simulate"
    assert reason in found.reason
    source = open_source("auto")
    assert source.name == "simulate"
    assert reason in source.reason


def test_without_the_library_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert detect().spec == "simulate"


def test_auto_takes_no_argument():
    with pytest.raises(InputError, match="no argument"):
        open_source("auto:x")


def test_every_source_is_known_by_name():
    assert {"auto", "dcgm", "prometheus", "push", "ray", "replay", "simulate"} <= set(
        SOURCES.names()
    )
