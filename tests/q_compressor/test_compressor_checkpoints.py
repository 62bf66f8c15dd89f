"""The stream extension of torch.distributed.checkpoint."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from qcluster.errors import FormatError
from qcluster.q_compressor.dcp import PIECE, QctStream, registry

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Kept(io.BytesIO):
    """A file whose bytes are still there when it was closed."""

    def close(self) -> None:
        self.kept = self.getvalue()


def written(data: bytes, parts: int = 1) -> bytes:
    output = Kept()
    stream = QctStream().transform_to(output)
    size = len(data) // parts + 1
    for start in range(0, len(data), size):
        assert stream.write(data[start : start + size]) == len(data[start : start + size])
    stream.close()
    return output.kept


def read(data: bytes) -> bytes:
    return QctStream().transform_from(io.BytesIO(data)).read(-1)


@pytest.mark.parametrize("size", [0, 1, 3, 1000, 4097])
def test_bytes_of_any_length_come_back(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert read(written(data, parts=3)) == data


def test_weights_take_fewer_bytes_and_long_streams_go_piece_by_piece() -> None:
    weights = np.random.default_rng(0).normal(size=PIECE // 4 + 5000).astype(np.float32) * 0.02
    data = b"head" * 16 + weights.tobytes() + b"x"
    coded = written(data, parts=7)
    assert len(coded) < 0.9 * len(data)
    assert read(coded) == data
    small = QctStream().transform_from(io.BytesIO(coded))
    assert b"".join(iter(lambda: small.read(100_001), b"")) == data


def test_streams_that_were_cut_or_changed_are_refused() -> None:
    coded = written(np.random.default_rng(1).normal(size=2000).astype(np.float32).tobytes())
    for cut in (0, 2, 6, 100, len(coded) - 1):
        with pytest.raises(FormatError):
            read(coded[:cut])
    for at in (0, 1, 5, 40, 300, len(coded) // 2, len(coded) - 10):
        changed = bytearray(coded)
        changed[at] ^= 0x41
        with pytest.raises(FormatError):
            read(bytes(changed))


def test_the_extension_is_known_by_name_and_version() -> None:
    [found] = registry().from_descriptor_list([QctStream().get_descriptor()])
    assert isinstance(found, QctStream)
    with pytest.raises(ValueError, match="version 2"):
        registry().from_descriptor_list(["stream.qct/2"])


def test_two_ranks_save_shards_and_read_them_back(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(HERE / "dcp_rank.py"), str(rank), str(tmp_path / "meet"),
             str(tmp_path / "saved")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank in ranks:
        try:
            out, err = rank.communicate(timeout=120)
        finally:
            rank.kill()
        assert rank.returncode == 0, err[-3000:]
        assert out.strip().splitlines()[-1] == "same"
    files = sorted((tmp_path / "saved").glob("*.distcp"))
    assert len(files) == 2
    plain = 600 * 64 * 4 + 200 * 64 * 2 + 64 * 64 * 4
    assert sum(file.stat().st_size for file in files) < 0.9 * plain
