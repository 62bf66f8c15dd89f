"""The GPUs of this machine, asked of the driver: ``nvml[:node=NAME][,period=S]``.

A machine without a working driver is a state with a name (``driver_state``), not a crash: the
source raises NotReady with it, and whoever runs the source tries again later. Metrics that a board
does not support are asked for once and then left out. Calls run in a thread, because a sick driver
can block for seconds; while one blocks no second one is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError, NotReady
from qcluster.telemetry.schema import Batch, Block, Event
from qcluster.telemetry.sources.nvlink import node_links
from qcluster.telemetry.topology import Link, Node, Topology

__all__ = ["Driver", "Nvml", "NvmlNode", "driver_state", "nvml_source"]

KIB, XID_OFF_BUS = 1024.0, 79.0
ALL_LINKS = 0xFFFFFFFF

_STATES = {
    "NVMLError_LibraryNotFound": "no driver",
    "NVMLError_DriverNotLoaded": "driver not loaded",
    "NVMLError_NoPermission": "no permission",
    "NVMLError_LibRmVersionMismatch": "library and kernel module differ in version",
}


class Driver(NamedTuple):
    """``state`` is ready, no library, no driver, driver not loaded, no permission, library and
    kernel module differ in version, no GPU, or broken; ``detail`` says more; ``gpus`` counts.
    """

    state: str
    detail: str
    gpus: int = 0


def nvml_source(node: str) -> str:
    """The name under which a node's readings come."""
    return f"nvml:node={node}"


def driver_state(nv: Any = None) -> Driver:
    """What stands between us and the GPUs of this machine. Never raises.

    ``nv`` is the NVML module, nvidia-ml-py's ``pynvml`` if None.
    """
    if nv is None:
        try:
            import pynvml
        except ImportError as error:
            return Driver("no library", f"nvidia-ml-py cannot be imported: {error}")
        nv = pynvml
    try:
        nv.nvmlInit()
    except Exception as error:  # each state of a broken driver has its own class
        name = _STATES.get(_kind(error), "broken")
        return Driver(name, f"{name}: {error}")
    try:
        count = nv.nvmlDeviceGetCount()
    except Exception as error:
        return Driver("broken", f"the driver lists no GPUs: {error}")
    finally:
        nv.nvmlShutdown()
    if not count:
        return Driver("no GPU", "the driver finds no GPU")
    return Driver("ready", f"the driver finds {count} GPU{'s' if count > 1 else ''}", count)


def _kind(error: Exception) -> str:
    # The library makes its classes at run time, one a code; only the names are stable.
    return type(error).__name__


_Ask = Callable[[Any, Any], float]
_ASKED: dict[str, _Ask] = {
    "power_w": lambda nv, h: nv.nvmlDeviceGetPowerUsage(h) / 1e3,
    "power_limit_w": lambda nv, h: nv.nvmlDeviceGetEnforcedPowerLimit(h) / 1e3,
    "power_held_s": lambda nv, h: (
        nv.nvmlDeviceGetViolationStatus(h, nv.NVML_PERF_POLICY_POWER).violationTime / 1e9
    ),
    "energy_j": lambda nv, h: nv.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3,
    "sm_clock_mhz": lambda nv, h: nv.nvmlDeviceGetClockInfo(h, nv.NVML_CLOCK_SM),
    "mem_clock_mhz": lambda nv, h: nv.nvmlDeviceGetClockInfo(h, nv.NVML_CLOCK_MEM),
    "temperature_c": lambda nv, h: nv.nvmlDeviceGetTemperature(h, nv.NVML_TEMPERATURE_GPU),
    "utilization": lambda nv, h: nv.nvmlDeviceGetUtilizationRates(h).gpu / 100,
    "memory_used_bytes": lambda nv, h: nv.nvmlDeviceGetMemoryInfo(h).used,
    "nvlink_tx_bytes": lambda nv, h: _field(nv, h, nv.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX) * KIB,
    "nvlink_rx_bytes": lambda nv, h: _field(nv, h, nv.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX) * KIB,
}
"""What is asked of every GPU, in our units: NVML has milliwatts, millijoules, percent and KiB."""


def _field(nv: Any, handle: Any, field: int) -> float:
    value = nv.nvmlDeviceGetFieldValues(handle, [(field, ALL_LINKS)])[0]
    if value.nvmlReturn:
        raise nv.NVMLError(value.nvmlReturn)
    return float(value.value.ullVal)


class NvmlNode:
    """One machine's GPUs. Blocking; use as a context manager.

    Parameters
    ----------
    nv: the NVML module.
    node: this machine's name in the topology.

    Raises NotReady on entering where the driver does not answer.
    """

    def __init__(self, nv: Any, node: str, *, period_s: float = 1.0) -> None:
        self.nv, self.node, self.period_s = nv, node, period_s
        self._handles: list[Any] = []
        self._links: tuple[Link, ...] = ()
        self._silent: set[tuple[int, str]] = set()
        self._lost: set[int] = set()
        self._sent = False

    def __enter__(self) -> Self:
        try:
            self.nv.nvmlInit()
            count = self.nv.nvmlDeviceGetCount()
            self._handles = [self.nv.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        except Exception as error:
            raise NotReady(f"NVML: {_STATES.get(_kind(error), 'broken')}: {error}") from None
        if not self._handles:
            self.nv.nvmlShutdown()
            raise NotReady("NVML: no GPU")
        return self

    def __exit__(self, *_: object) -> None:
        self.nv.nvmlShutdown()

    def topology(self) -> Topology:
        """This machine with its GPUs and their NVLink."""
        nv, first = self.nv, self._handles[0]
        low, high = _try(nv, nv.nvmlDeviceGetPowerManagementLimitConstraints, first) or (0, 0)
        memory = _try(nv, nv.nvmlDeviceGetSupportedMemoryClocks, first) or [0]
        clocks = _try(nv, nv.nvmlDeviceGetSupportedGraphicsClocks, first, memory[0]) or ()
        links, domain = node_links(nv, self._handles, self.node)
        self._links = links
        node = Node(
            id=self.node,
            gpus=len(self._handles),
            model=_text(_try(nv, nv.nvmlDeviceGetName, first) or ""),
            min_w=low / 1e3,
            max_w=high / 1e3,
            clocks_mhz=tuple(sorted(int(mhz) for mhz in clocks)),
            domain=domain,
        )
        return Topology(nodes=(node,), links=links)

    def read(self, now: float | None = None) -> Batch:
        """All metrics of all GPUs; the first batch carries the topology."""
        now = time.time() if now is None else now
        topology = None if self._sent else self.topology()
        values = np.full((len(self._handles), len(_ASKED)), math.nan)
        was_lost = set(self._lost)
        for index in range(len(self._handles)):
            self._read_gpu(index, values)
        blocks = [self._gpus(values), *self._nodes()]
        if self._links:
            blocks.append(self._link_states())
        self._sent = True
        return Batch(
            source=nvml_source(self.node),
            ts_s=now,
            period_s=self.period_s,
            blocks=tuple(blocks),
            topology=topology,
            events=tuple(
                Event(ts_s=now, kind=kind, subject=f"{self.node}/{index}")
                for kind, which in (
                    ("gpu_lost", self._lost - was_lost),
                    ("gpu_back", was_lost - self._lost),
                )
                for index in sorted(which)
            ),
        )

    def _read_gpu(self, index: int, values: NDArray[np.float64]) -> None:
        answered = False
        if index in self._lost:
            self._find_again(index)
        for column, (metric, ask) in enumerate(_ASKED.items()):
            if (index, metric) in self._silent:
                continue
            try:
                values[index, column] = ask(self.nv, self._handles[index])
                answered = True
            except self.nv.NVMLError as error:
                if _kind(error) in ("NVMLError_GpuIsLost", "NVMLError_GpuNotFound"):
                    values[index] = math.nan
                    self._lost.add(index)
                    return
                if _kind(error) in ("NVMLError_NotSupported", "NVMLError_NoPermission"):
                    self._silent.add((index, metric))
        if answered:
            self._lost.discard(index)

    def _find_again(self, index: int) -> None:
        # After a reset the old handle is dead even when the GPU is not.
        with contextlib.suppress(self.nv.NVMLError):
            self._handles[index] = self.nv.nvmlDeviceGetHandleByIndex(index)

    def _gpus(self, values: NDArray[np.float64]) -> Block:
        columns = {metric: values[:, i] for i, metric in enumerate(_ASKED)}
        columns = {name: column for name, column in columns.items() if not np.isnan(column).all()}
        lost = np.array([index in self._lost for index in range(len(values))])
        columns["up"] = np.where(lost, 0.0, 1.0)
        columns["xid_error"] = np.where(lost, XID_OFF_BUS, 0.0)
        return Block.of("gpu", tuple(f"{self.node}/{i}" for i in range(len(values))), columns)

    def _nodes(self) -> list[Block]:
        import psutil

        columns = {
            "node_cpu": np.array([psutil.cpu_percent() / 100]),
            "node_memory_bytes": np.array([float(psutil.virtual_memory().used)]),
        }
        return [Block.of("node", (self.node,), columns)]

    def _link_states(self) -> Block:
        now = {link.id: link.links for link in node_links(self.nv, self._handles, self.node)[0]}
        up = np.array([now.get(link.id, 0) / link.links for link in self._links])
        return Block.of("link", tuple(link.id for link in self._links), {"link_up": up.clip(0, 1)})


class Nvml:
    """This machine as a source."""

    def __init__(self, argument: str = "", *, nv: Any = None) -> None:
        self.node, self.period_s = _parse(argument)
        self.name = f"nvml:{argument}" if argument else "nvml"
        self._nv = nv

    async def batches(self) -> AsyncIterator[Batch]:
        """One batch a period; a driver that blocks makes periods fall out, never pile up.

        Raises NotReady with the named state where there is no working driver.
        """
        nv = self._nv
        if nv is None:
            state = driver_state()
            if state.state != "ready":
                raise NotReady(f"NVML: {state.detail}")
            import pynvml

            nv = pynvml
        node = NvmlNode(nv, self.node, period_s=self.period_s)
        await asyncio.to_thread(node.__enter__)
        try:
            due = time.monotonic()
            while True:
                yield await asyncio.to_thread(node.read)
                due = max(due + self.period_s, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
        finally:
            node.__exit__()


def _try(nv: Any, call: Callable[..., Any], *args: Any) -> Any:
    """The answer, or None where the board does not support the question."""
    try:
        return call(*args)
    except nv.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _parse(argument: str) -> tuple[str, float]:
    node, period = socket.gethostname(), 1.0
    for part in filter(None, (p.strip() for p in argument.split(","))):
        key, _, text = part.partition("=")
        if key == "node" and text:
            node = text
        elif key == "period":
            try:
                period = float(text)
            except ValueError:
                period = 0.0
            if not 0.01 <= period <= 86400:
                raise InputError(f"wants 0.01 to 86400 s, got '{text}'", field="period")
        else:
            raise InputError("nvml knows node=NAME and period=S", field=key)
    return node, period
