"""torch tensors: every type and layout comes back, or is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qcluster.errors import InputError  # noqa: E402
from qcluster.q_compressor import compress, compress_state_dict  # noqa: E402
from qcluster.q_decompressor import decompress  # noqa: E402

TYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
         "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32",
         "uint64"]  # fmt: skip


def there_and_back(x: torch.Tensor, **how: object) -> torch.Tensor:
    return decompress(compress(x, **how), max_output_bytes=1 << 24)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 7)])
def test_types_and_shapes(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = (torch.randn(shape) * 3).abs().to(getattr(torch, name))
    y = there_and_back(x)
    assert isinstance(y, torch.Tensor)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    if x.numel():
        assert torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8))


def test_views_gradients_and_conjugates() -> None:
    x = torch.randn(6, 8, requires_grad=True)
    assert torch.equal(there_and_back(x), x.detach())
    assert torch.equal(there_and_back(x.T), x.detach().T)
    assert torch.equal(there_and_back(x[:, ::2]), x.detach()[:, ::2])
    z = torch.randn(4, dtype=torch.complex64)
    assert torch.equal(there_and_back(z.conj()), z.conj().resolve_conj())


def test_tied_tensors_are_written_once() -> None:
    x = torch.randn(64, 64)
    blob = compress_state_dict({"a": x, "b": x})
    both = decompress(blob, max_output_bytes=1 << 20)
    assert torch.equal(both["a"], x)
    assert torch.equal(both["b"], x)
    assert len(blob) < 1.1 * len(compress(x)) + 300


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: torch.empty(3, device="meta"), "meta"),
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "qint8"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_has_no_bits_of_its_own_is_refused(make: object, word: str) -> None:
    with pytest.raises(InputError, match=word):
        compress(make())


def test_framework_can_be_chosen() -> None:
    x = torch.randn(10, dtype=torch.float32).bfloat16()
    blob = compress(x)
    as_numpy = decompress(blob, max_output_bytes=100, framework="numpy")
    assert as_numpy.dtype.name == "bfloat16"
    assert np.array_equal(as_numpy.astype(np.float32), x.float().numpy())
    back = decompress(compress(x.float().numpy()), max_output_bytes=100, framework="torch")
    assert torch.equal(back, x.float())
    with pytest.raises(InputError, match="framework"):
        decompress(blob, max_output_bytes=100, framework="jax")


def test_lossy_bfloat16_keeps_its_promise() -> None:
    x = torch.randn(64, 64).bfloat16()
    y = there_and_back(x, mode="max_abs", value=0.05)
    assert y.dtype == torch.bfloat16
    assert (x.double() - y.double()).abs().max() <= 0.05
