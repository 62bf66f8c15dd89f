"""A driver for several processes: put this directory first on PYTHONPATH, and ``FAKE_DRIVER`` to a
JSON file with one object a GPU (fields of ``FakeGpu``). What one process sets, all others see.
"""

import json
import os
from pathlib import Path

from qcluster.testing import nvml
from qcluster.testing.nvml import NVMLError, NVMLError_NoPermission  # noqa: F401

_FILE = Path(os.environ["FAKE_DRIVER"])
_nv = nvml.FakeNvml(0)


def _load():
    kinds = {"range_mw": tuple, "unsupported": set, "forbidden": set}
    _nv.gpus = [
        nvml.FakeGpu(**{key: kinds.get(key, lambda x: x)(value) for key, value in gpu.items()})
        for gpu in json.loads(_FILE.read_text())
    ]


def nvmlDeviceSetPowerManagementLimit(handle, limit_mw):
    # Not locked, because a test may stop a process in here; qcluster lets one in at a time.
    _load()
    _nv.nvmlDeviceSetPowerManagementLimit(handle, limit_mw)
    gpus = json.loads(_FILE.read_text())
    gpus[handle]["limit_mw"] = limit_mw
    fresh = _FILE.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(gpus))
    fresh.replace(_FILE)


def __getattr__(name):
    if name.startswith("nvmlDevice"):
        _load()
    return getattr(_nv, name)
