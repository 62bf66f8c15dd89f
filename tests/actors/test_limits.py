from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.limits import PowerLimits
from qcluster.errors import InputError, NotReady, Refused
from qcluster.testing.nvml import FakeGpu, FakeNvml, NVMLError_DriverNotLoaded


@pytest.fixture
def nv() -> FakeNvml:
    return FakeNvml(3)


@pytest.fixture
def limits(nv: FakeNvml, tmp_path: Path) -> PowerLimits:
    return PowerLimits(nv, tmp_path / "node")


def watts(nv: FakeNvml) -> list[float]:
    return [gpu.limit_mw / 1e3 for gpu in nv.gpus]


def test_limits_are_set_remembered_and_put_back(nv: FakeNvml, limits: PowerLimits) -> None:
    nv.gpus[1].limit_mw = 650_000
    assert limits.apply({0: 500.0, 1: 400.5}) == {0: 500.0, 1: 400.5}
    assert watts(nv) == [500, 400.5, 700]
    limits.apply({0: 450.0, 1: 400.5, 2: 300.0})
    assert limits.held()
    done = limits.restore()
    assert watts(nv) == [700, 650, 700]
    assert done["GPU-1"] == "restored to 650 W"
    assert not limits.held()
    assert limits.restore() == {}
    assert nv.sessions == 0


def test_another_process_can_put_them_back(nv: FakeNvml, tmp_path: Path) -> None:
    PowerLimits(nv, tmp_path).apply({0: 500.0})
    PowerLimits(nv, tmp_path).restore()
    assert watts(nv) == [700, 700, 700]


@pytest.mark.parametrize("cap", [199.0, 700.1, 1e9, 0.0, -1.0])
def test_a_cap_outside_the_boards_range_changes_nothing(
    nv: FakeNvml, limits: PowerLimits, cap: float
) -> None:
    with pytest.raises(Refused, match=r"200 to 700 W of GPU 2"):
        limits.apply({0: 500.0, 2: cap})
    assert watts(nv) == [700, 700, 700]
    assert not limits.held()


@pytest.mark.parametrize("cap", [float("nan"), float("inf"), True])
def test_what_is_not_watts_is_refused(limits: PowerLimits, cap: float) -> None:
    with pytest.raises(InputError, match="cap of GPU 0"):
        limits.apply({0: cap})


def test_the_boards_own_limits_are_allowed(nv: FakeNvml, limits: PowerLimits) -> None:
    limits.apply({0: 200.0, 1: 700.0})
    assert watts(nv) == [200, 700, 700]


def test_no_permission_half_way_puts_all_back(nv: FakeNvml, limits: PowerLimits) -> None:
    nv.gpus[2].forbidden.add("nvmlDeviceSetPowerManagementLimit")
    with pytest.raises(Refused, match="setting the power limit of GPU 2: NoPermission"):
        limits.apply({0: 500.0, 1: 500.0, 2: 500.0})
    assert watts(nv) == [700, 700, 700]
    assert not limits.held()


def test_a_lost_gpu_is_put_back_when_it_answers_again(nv: FakeNvml, limits: PowerLimits) -> None:
    limits.apply({0: 500.0, 1: 500.0})
    nv.gpus[1].lost = True
    assert "not restored" in limits.restore()["GPU-1"]
    assert limits.held()
    nv.gpus[1].lost = False
    limits.restore()
    assert watts(nv) == [700, 700, 700]
    assert not limits.held()


def test_gpus_are_known_by_uuid_not_by_place(tmp_path: Path) -> None:
    first, second = FakeGpu(uuid="A"), FakeGpu(uuid="B", limit_mw=600_000)
    PowerLimits(FakeNvml([first, second]), tmp_path).apply({0: 300.0, 1: 400.0})
    PowerLimits(FakeNvml([second, first]), tmp_path).restore()
    assert (first.limit_mw, second.limit_mw) == (700_000, 600_000)


def test_a_limit_that_somebody_else_has_set_stays(nv: FakeNvml, limits: PowerLimits) -> None:
    limits.apply({0: 500.0})
    nv.gpus[0].limit_mw = 350_000
    assert "somebody else" in limits.restore()["GPU-0"]
    assert watts(nv)[0] == 350


def test_a_crash_between_the_file_and_the_board_is_harmless(
    nv: FakeNvml, limits: PowerLimits, tmp_path: Path
) -> None:
    limits.apply({0: 500.0})
    # The next cap is on disk, and the process died before it set it.
    path = tmp_path / "node" / "limits.json"
    kept = json.loads(path.read_text())
    kept["GPU-0"]["ours_mw"].append(450_000)
    path.write_text(json.dumps(kept))
    limits.restore()
    assert watts(nv)[0] == 700


def test_a_driver_that_is_gone_is_named_and_nothing_forgotten(
    nv: FakeNvml, limits: PowerLimits
) -> None:
    limits.apply({0: 500.0})
    nv.init_error = NVMLError_DriverNotLoaded()
    with pytest.raises(NotReady, match="DriverNotLoaded"):
        limits.apply({0: 400.0})
    assert "DriverNotLoaded" in limits.restore()["GPU-0"]
    assert limits.held()


def test_a_process_that_is_stuck_in_its_turn_does_not_keep_caps(
    nv: FakeNvml, limits: PowerLimits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.limits._PATIENCE_S", 0.05)
    limits.apply({0: 500.0})
    other = PowerLimits(nv, tmp_path / "node")
    real = nv._SetPowerManagementLimit

    def slow(gpu: FakeGpu, limit_mw: int) -> None:
        monkeypatch.setattr(FakeNvml, "_SetPowerManagementLimit", lambda _, *args: real(*args))
        other.restore()  # the watchdog, while this process holds its turn
        real(gpu, limit_mw)

    monkeypatch.setattr(FakeNvml, "_SetPowerManagementLimit", lambda _, *args: slow(*args))
    limits.apply({0: 400.0})
    assert watts(nv)[0] == 400
    assert limits.held(), "what was set late is known to be put back"
    other.restore()
    assert watts(nv)[0] == 700
