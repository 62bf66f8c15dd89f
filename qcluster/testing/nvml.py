"""A stand-in for nvidia-ml-py's ``pynvml``: a machine with GPUs that tests can break.

``FakeNvml`` has the functions, constants and exception classes that qcluster calls, with NVML's
own units. Change its ``gpus`` to change the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self, cast

__all__ = ["FakeGpu", "FakeNvml"]


class NVMLError(Exception):
    """Base of the errors, as in pynvml: ``NVMLError(code)`` is of the code's own class."""

    code = 999

    def __new__(cls, code: int | None = None) -> Self:
        kinds = {kind.code: kind for kind in _KINDS}
        kind: Any = cls if code is None else kinds.get(code, cls)
        return cast("Self", super().__new__(kind))

    def __str__(self) -> str:
        return type(self).__name__.removeprefix("NVMLError_")


class NVMLError_InvalidArgument(NVMLError):  # noqa: N801 - pynvml's own names
    """No such GPU, for one."""

    code = 2


class NVMLError_NotSupported(NVMLError):  # noqa: N801
    """The board has no such thing."""

    code = 3


class NVMLError_NoPermission(NVMLError):  # noqa: N801
    """Root is wanted."""

    code = 4


class NVMLError_DriverNotLoaded(NVMLError):  # noqa: N801
    """The kernel module is not there."""

    code = 9


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801
    """The shared library is not there."""

    code = 12


class NVMLError_GpuIsLost(NVMLError):  # noqa: N801
    """It fell off the bus."""

    code = 15


_KINDS = (
    NVMLError_InvalidArgument,
    NVMLError_NotSupported,
    NVMLError_NoPermission,
    NVMLError_DriverNotLoaded,
    NVMLError_LibraryNotFound,
    NVMLError_GpuIsLost,
)


@dataclass
class FakeGpu:
    """One board, in NVML's units: milliwatts, millijoules, MHz, percent, bytes.

    ``peers`` has one entry a NVLink lane: the index of the GPU at the other end, -1 for a switch,
    None where the lane is down. ``unsupported`` names functions that this board refuses,
    ``forbidden`` those that want root; ``uuid`` is made from the index where it is empty.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    power_mw: int = 350_000
    limit_mw: int = 700_000
    range_mw: tuple[int, int] = (200_000, 700_000)
    energy_mj: int = 10_000_000
    held_ns: int = 0
    clocks_mhz: dict[int, int] = field(default_factory=lambda: {1: 1980, 2: 2619})
    temperature_c: int = 45
    utilization_pct: int = 90
    memory_bytes: int = 40 << 30
    nvlink_kib: tuple[int, int] = (1000, 2000)
    peers: list[int | None] = field(default_factory=lambda: [-1] * 18)
    nvlink_version: int = 4
    cluster: bytes = bytes(16)
    clique: int = 0
    lost: bool = False
    uuid: str = ""
    unsupported: set[str] = field(default_factory=set)
    forbidden: set[str] = field(default_factory=set)


class FakeNvml:
    """Use in place of the module ``pynvml``.

    ``init_error`` is raised by ``nvmlInit``; ``sessions`` is the number of open initialisations.
    """

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PERF_POLICY_POWER = 0
    NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX = 138, 139
    NVML_NVLINK_MAX_LINKS = 18
    NVMLError = NVMLError
    NVMLError_GpuIsLost = NVMLError_GpuIsLost
    NVMLError_NotSupported = NVMLError_NotSupported
    NVMLError_NoPermission = NVMLError_NoPermission

    def __init__(self, gpus: int | list[FakeGpu] = 8, init_error: Exception | None = None) -> None:
        self.gpus = [FakeGpu() for _ in range(gpus)] if isinstance(gpus, int) else gpus
        self.init_error, self.sessions = init_error, 0

    def nvmlInit(self) -> None:  # noqa: N802 - pynvml's own names, from here on
        if self.init_error:
            raise self.init_error
        self.sessions += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if not 0 <= index < len(self.gpus):
            raise NVMLError_InvalidArgument
        return index

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDevice"):
            raise AttributeError(name)
        answer = getattr(type(self), f"_{name.removeprefix('nvmlDevice')}")

        def call(handle: int, *args: Any) -> Any:
            gpu = self.gpus[handle]
            if gpu.lost:
                raise NVMLError_GpuIsLost
            if name in gpu.unsupported:
                raise NVMLError_NotSupported
            if name in gpu.forbidden:
                raise NVMLError_NoPermission
            return answer(self, gpu, *args)

        return call

    def _GetName(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.name

    def _GetUUID(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.uuid or f"GPU-{next(i for i, one in enumerate(self.gpus) if one is gpu)}"

    def _GetPowerUsage(self, gpu: FakeGpu) -> int:  # noqa: N802
        return gpu.power_mw

    def _GetEnforcedPowerLimit(self, gpu: FakeGpu) -> int:  # noqa: N802
        return gpu.limit_mw

    _GetPowerManagementLimit = _GetEnforcedPowerLimit

    def _SetPowerManagementLimit(self, gpu: FakeGpu, limit_mw: int) -> None:  # noqa: N802
        gpu.limit_mw = limit_mw

    def _GetPowerManagementLimitConstraints(self, gpu: FakeGpu) -> tuple[int, int]:  # noqa: N802
        return gpu.range_mw

    def _GetTotalEnergyConsumption(self, gpu: FakeGpu) -> int:  # noqa: N802
        return gpu.energy_mj

    def _GetViolationStatus(self, gpu: FakeGpu, policy: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(referenceTime=0, violationTime=0 if policy else gpu.held_ns)

    def _GetClockInfo(self, gpu: FakeGpu, which: int) -> int:  # noqa: N802
        return gpu.clocks_mhz[which]

    def _GetSupportedMemoryClocks(self, gpu: FakeGpu) -> list[int]:  # noqa: N802
        return [gpu.clocks_mhz[2]]

    def _GetSupportedGraphicsClocks(self, gpu: FakeGpu, _memory: int) -> list[int]:  # noqa: N802
        return list(range(gpu.clocks_mhz[1], 344, -15))

    def _GetTemperature(self, gpu: FakeGpu, _sensor: int) -> int:  # noqa: N802
        return gpu.temperature_c

    def _GetUtilizationRates(self, gpu: FakeGpu) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=gpu.utilization_pct, memory=0)

    def _GetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=gpu.memory_bytes)

    def _GetFieldValues(self, gpu: FakeGpu, fields: list[tuple[int, int]]) -> list[Any]:  # noqa: N802
        return [
            SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(ullVal=gpu.nvlink_kib[which - 138]))
            for which, _scope in fields
        ]

    def _GetPciInfo(self, gpu: FakeGpu) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(busId=f"00000000:{self.gpus.index(gpu):02X}:00.0".encode())

    def _lane(self, gpu: FakeGpu, lane: int) -> int | None:
        if lane >= len(gpu.peers):
            raise NVMLError_NotSupported
        return gpu.peers[lane]

    def _GetNvLinkState(self, gpu: FakeGpu, lane: int) -> int:  # noqa: N802
        return int(self._lane(gpu, lane) is not None)

    def _GetNvLinkRemoteDeviceType(self, gpu: FakeGpu, lane: int) -> int:  # noqa: N802
        return 2 if self._lane(gpu, lane) == -1 else 0

    def _GetNvLinkRemotePciInfo(self, gpu: FakeGpu, lane: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(busId=f"0000:{self._lane(gpu, lane):02x}:00.0")

    def _GetNvLinkVersion(self, gpu: FakeGpu, _lane: int) -> int:  # noqa: N802
        return gpu.nvlink_version

    class c_nvmlGpuFabricInfo_t:  # noqa: N801
        """Filled by ``nvmlDeviceGetGpuFabricInfo``."""

        clusterUuid = bytes(16)  # noqa: N815
        cliqueId = 0  # noqa: N815

    def _GetGpuFabricInfo(self, gpu: FakeGpu, info: Any) -> None:  # noqa: N802
        info.clusterUuid, info.cliqueId = gpu.cluster, gpu.clique
