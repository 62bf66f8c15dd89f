"""The container: what is written is read, everything else is refused by name."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.codec import container
from qcluster.codec.chain import check_limit, decode_entry
from qcluster.codec.container import DIGEST, Entry, build, digest, parse
from qcluster.codec.dtypes import DTYPES, dtype_named
from qcluster.codec.errors import (
    QctCorruptError,
    QctFormatError,
    QctLimitError,
    QctUnsupportedError,
)
from qcluster.q_compressor import compress, compress_state_dict
from qcluster.q_decompressor import decompress


def sealed(header: object, payload: bytes = b"") -> bytes:
    """A blob with a header of our own and a digest that matches it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    head = struct.pack("<Q", len(text)) + text
    return head + digest(head) + payload


def entry(**changes: object) -> dict[str, object]:
    return {
        "dtype": "F32",
        "shape": [2],
        "data_offsets": [DIGEST, 2 * DIGEST + 8],
        "ops": ["lossless"],
        **changes,
    }


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ([], QctFormatError),
        (b"{", QctFormatError),
        (b"\xff", QctFormatError),
        (b'{"a":1,"a":2}', QctFormatError),
        (b'{"a":NaN}', QctFormatError),
        ({"t": 1}, QctFormatError),
        ({"t": entry(shape=[-1])}, QctFormatError),
        ({"t": entry(shape=[True])}, QctFormatError),
        ({"t": entry(shape=[2**62, 2**62])}, QctFormatError),
        ({"t": entry(shape=[2**40])}, QctFormatError),
        ({"t": entry(shape="2")}, QctFormatError),
        ({"t": entry(shape=[1] * 65)}, QctFormatError),
        ({"t": entry(data_offsets=[0, 40])}, QctFormatError),
        ({"t": entry(data_offsets=[40, 16])}, QctFormatError),
        ({"t": entry(data_offsets=[16, 400])}, QctFormatError),
        ({"t": entry(dtype="F31")}, QctUnsupportedError),
        ({"t": entry(dtype=3)}, QctUnsupportedError),
        ({"t": entry(ops=[])}, QctFormatError),
        ({"t": entry(ops=[["lossless"]])}, QctFormatError),
        ({"t": entry(ops=["magic"])}, QctUnsupportedError),
        ({"t": entry(ops=["lossless", "lossless"])}, QctUnsupportedError),
        ({"t": entry(colour="red")}, QctUnsupportedError),
        ({"t": entry(chunk=0)}, QctFormatError),
        ({"t": entry(chunk=2**40)}, QctFormatError),
        ({"t": entry(guarantee=3)}, QctFormatError),
        ({"t": entry(**{"as": "jax"})}, QctUnsupportedError),
        ({"t": entry(parent="00")}, QctFormatError),
    ],
)
def test_headers_that_make_no_sense_are_refused(header: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        decompress(sealed(header, bytes(24)), max_output_bytes=1 << 40)


@pytest.mark.parametrize("blob", [b"", b"abc", bytes(8), b"\xff" * 64, struct.pack("<Q", 2**63)])
def test_what_is_no_blob_is_refused(blob: bytes) -> None:
    with pytest.raises(QctFormatError):
        parse(blob)


def test_declared_output_is_checked_before_it_is_allocated() -> None:
    # A terabyte of zeros, in a blob of some hundred bytes a chunk.
    zeros = bytes([0]) + bytes(4)
    line = struct.pack("<II", len(zeros), zlib.crc32(zeros))
    count = 2**38 // 2**22
    payload = bytes(DIGEST) + line * count + zeros * count
    header = {"": entry(shape=[2**38], chunk=2**22, data_offsets=[DIGEST, DIGEST + len(payload)])}
    blob = sealed(header, payload)
    with pytest.raises(QctLimitError, match="1099511627776 bytes"):
        decompress(blob, max_output_bytes=2**30)


def test_many_small_tensors_count_together() -> None:
    blob = compress_state_dict({str(i): np.arange(100.0) + i for i in range(10)})
    with pytest.raises(QctLimitError):
        decompress(blob, max_output_bytes=7_999)
    assert len(decompress(blob, max_output_bytes=8_000)) == 10
    assert check_limit(parse(blob)[0], 8_000) == 8_000


def test_a_zstd_bomb_stops_at_what_was_declared() -> None:
    import zstandard

    bomb = bytes([2]) + zstandard.compress(bytes(1 << 26))
    line = struct.pack("<II", len(bomb), zlib.crc32(bomb))
    payload = bytes(DIGEST) + line + bomb
    header = {"": entry(shape=[16], data_offsets=[DIGEST, DIGEST + len(payload)])}
    with pytest.raises(QctFormatError, match="more than 64 bytes"):
        decompress(sealed(header, payload), max_output_bytes=1000)


def test_entry_survives_writing() -> None:
    item = Entry(
        "a.b", DTYPES["BF16"], (3, 5), (("uniform", {"step": 0.1}),), "torch", 15,
        {"max_abs": 0.05}, "ab" * 16, {"tried": {"dct": 3}},
    )  # fmt: skip
    [read], payload = parse(build([(item, bytes(16), [b"xyz"])]))
    assert (read.name, read.dtype, read.shape, read.ops) == (
        item.name, item.dtype, item.shape, item.ops,
    )  # fmt: skip
    assert (read.framework, read.chunk, read.guarantee, read.parent, read.report) == (
        "torch", 15, {"max_abs": 0.05}, "ab" * 16, {"tried": {"dct": 3}},
    )  # fmt: skip
    assert [bytes(data) for _, _, data in container.read_chunks(read, payload)] == [b"xyz"]


def test_a_decoder_that_gives_other_bits_is_noticed() -> None:
    blob = compress(np.arange(10, dtype=np.float32))
    [item], payload = parse(blob)
    forged = build([(item, digest(b"else"), [bytes(d) for _, _, d in
                                             container.read_chunks(item, payload)])])  # fmt: skip
    [item], payload = parse(forged)
    with pytest.raises(QctCorruptError, match="other bits"):
        decode_entry(item, payload)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_blobs_never_pass_silently(data: st.DataObject) -> None:
    blob = bytearray(SAMPLES[data.draw(st.integers(0, len(SAMPLES) - 1))])
    kind = data.draw(st.sampled_from(["flip", "cut", "splice", "grow"]))
    at = data.draw(st.integers(0, len(blob) - 1))
    if kind == "flip":
        blob[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del blob[at:]
    elif kind == "splice":
        other = SAMPLES[data.draw(st.integers(0, len(SAMPLES) - 1))]
        blob[at:] = other[data.draw(st.integers(0, len(other) - 1)) :]
    else:
        blob += data.draw(st.binary(min_size=1, max_size=20))
    if any(bytes(blob) == sample for sample in SAMPLES):
        return
    with pytest.raises(QctFormatError):
        decompress(bytes(blob), max_output_bytes=1 << 20)


def _samples() -> list[bytes]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 64)).astype(np.float32)
    return [
        compress(x),
        compress(x, mode="max_abs", value=0.1),
        compress(x, mode="rel_l2", value=0.1),
        compress(x, mode="int8"),
        compress(np.zeros((3, 0), np.int8)),
        compress_state_dict({"a": x, "b": x, "c": np.arange(7)}),
    ]


SAMPLES = _samples()


def test_names_of_types_are_those_of_safetensors() -> None:
    assert {"BOOL", "BF16", "F8_E4M3", "F8_E5M2", "F64", "I64", "U8"} <= set(DTYPES)
    with pytest.raises(QctUnsupportedError, match="F7"):
        dtype_named("F7")
