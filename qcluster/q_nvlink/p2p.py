"""DCGM's bitmap of peers: which GPUs of a host reach each other over NVLink, as measured.

``DCGM_FI_DEV_P2P_NVLINK_STATUS`` of GPU i has bit j set where i reaches j; its own bit is never
set, so eight GPUs behind a switch show 254, 253, 251 and so on. dcgm-exporter prints one line a
GPU in the Prometheus text format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from qcluster.errors import FormatError
from qcluster.q_nvlink.fabric import Fabric

__all__ = ["list_lost_peers", "read_p2p_bitmaps"]

_METRIC = "DCGM_FI_DEV_P2P_NVLINK_STATUS"
_LINE = re.compile(rf"^{_METRIC}\{{(?P<labels>[^}}]*)\}}\s+(?P<value>\S+)")
_GPU = re.compile(r'(?:^|,)gpu="(?P<gpu>[^"]*)"')


def read_p2p_bitmaps(text: str, *, file: Any = None) -> dict[int, tuple[int, ...]]:
    """The peers of each GPU of one host, by index.

    Raises FormatError naming the row for a value that is no bitmap, a GPU that stands twice, and a
    pair that only one side sees.
    """
    peers: dict[int, tuple[int, ...]] = {}
    rows: dict[int, int] = {}
    for row, line in enumerate(text.splitlines(), start=1):
        found = _LINE.match(line.strip())
        if found is None:
            continue
        gpu, value = _numbers(found["labels"], found["value"], row, file)
        if gpu in peers:
            raise FormatError(f"GPU {gpu} stands twice", file=file, row=row, field="gpu")
        peers[gpu] = tuple(j for j in range(value.bit_length()) if value >> j & 1)
        rows[gpu] = row
    if not peers:
        raise FormatError(f"holds no {_METRIC}", file=file)
    for gpu, others in peers.items():
        for other in others:
            if other == gpu:
                message = f"GPU {gpu} lists itself"
            elif other in peers and gpu not in peers[other]:
                message = f"GPU {gpu} reaches {other}, but {other} does not reach {gpu}"
            else:
                continue
            raise FormatError(message, file=file, row=rows[gpu], field=_METRIC)
    return peers


def _numbers(labels: str, value: str, row: int, file: Any) -> tuple[int, int]:
    gpu = _GPU.search(labels)
    if gpu is None or not gpu["gpu"].isdecimal():
        raise FormatError("wants a label gpu with an index", file=file, row=row, field="gpu")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 2**53 or number != int(number):
        raise FormatError(f"wants a bitmap, got '{value}'", file=file, row=row, field=_METRIC)
    return int(gpu["gpu"]), int(number)


def list_lost_peers(fabric: Fabric, peers: Mapping[int, tuple[int, ...]]) -> list[str]:
    """Pairs that NVLink should join in a host's fabric but that do not reach each other."""
    gpus = fabric.gpus
    return [
        f"{gpus[i]} and {gpus[j]}: NVLink joins them, but they do not reach each other"
        for i, j in combinations(sorted(peers), 2)
        if j < len(gpus) and j not in peers[i] and _joined(fabric, i, j)
    ]


def _joined(fabric: Fabric, i: int, j: int) -> bool:
    a, b = int(fabric.gpu_index[i]), int(fabric.gpu_index[j])
    fast = fabric.fast & (fabric.nominal > 0)
    return bool(fast[a, b] or (fast[a] & fast[:, b])[fabric.transit_index].any())
