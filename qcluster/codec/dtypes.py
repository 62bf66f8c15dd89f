"""Element types by their safetensors names, and what NumPy and torch call them.

Tensors are handled as unsigned integers of their width; what the bits mean is in ``DType``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.errors import QctUnsupportedError
from qcluster.errors import InputError

__all__ = ["DTYPES", "DType", "dtype_named", "from_bits", "numpy_dtype", "to_bits", "to_torch"]

Bits = NDArray[Any]


@dataclass(frozen=True)
class DType:
    """``name``, bytes an element, and for floating point exponent and mantissa bits.

    A complex element is two ``part``s of floating point.
    """

    name: str
    size: int
    numpy: str
    torch: str
    exponent: int = 0
    mantissa: int = 0
    parts: int = 1

    @property
    def bits(self) -> np.dtype[Any]:
        """The unsigned integers that a part is read as."""
        return np.dtype(f"<u{self.size // self.parts}")

    @property
    def is_float(self) -> bool:
        """Whether lossy modes know what to do with it."""
        return self.exponent > 0 and self.name != "F8_E8M0"


DTYPES = {
    d.name: d
    for d in (
        DType("BOOL", 1, "bool", "bool"),
        DType("U8", 1, "uint8", "uint8"),
        DType("I8", 1, "int8", "int8"),
        DType("U16", 2, "uint16", "uint16"),
        DType("I16", 2, "int16", "int16"),
        DType("U32", 4, "uint32", "uint32"),
        DType("I32", 4, "int32", "int32"),
        DType("U64", 8, "uint64", "uint64"),
        DType("I64", 8, "int64", "int64"),
        DType("F16", 2, "float16", "float16", 5, 10),
        DType("BF16", 2, "bfloat16", "bfloat16", 8, 7),
        DType("F32", 4, "float32", "float32", 8, 23),
        DType("F64", 8, "float64", "float64", 11, 52),
        DType("F8_E4M3", 1, "float8_e4m3fn", "float8_e4m3fn", 4, 3),
        DType("F8_E5M2", 1, "float8_e5m2", "float8_e5m2", 5, 2),
        DType("F8_E4M3FNUZ", 1, "float8_e4m3fnuz", "float8_e4m3fnuz", 4, 3),
        DType("F8_E5M2FNUZ", 1, "float8_e5m2fnuz", "float8_e5m2fnuz", 5, 2),
        DType("F8_E8M0", 1, "float8_e8m0fnu", "float8_e8m0fnu", 8, 0),
        DType("F4X2", 1, "uint8", "float4_e2m1fn_x2"),
        DType("C64", 8, "complex64", "complex64", 8, 23, 2),
        DType("C128", 16, "complex128", "complex128", 11, 52, 2),
    )
}
_BY_NUMPY = {d.numpy: d for d in reversed(DTYPES.values())}
_BY_TORCH = {f"torch.{d.torch}": d for d in DTYPES.values()}


def dtype_named(name: Any) -> DType:
    """The element type of this name. Raises QctUnsupportedError for others."""
    found = DTYPES.get(name) if isinstance(name, str) else None
    if found is None:
        raise QctUnsupportedError(f"no element type {name!r}", field="dtype")
    return found


def numpy_dtype(dtype: DType) -> np.dtype[Any] | None:
    """NumPy's dtype, from ml_dtypes for the small floats; None where that is not installed."""
    if dtype.numpy.startswith(("bfloat", "float8")):
        try:
            import ml_dtypes
        except ImportError:
            return None
        small: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype.numpy))
        return small
    plain: np.dtype[Any] = np.dtype(dtype.numpy).newbyteorder("<")
    return plain


def to_bits(tensor: Any) -> tuple[DType, tuple[int, ...], Bits, str]:
    """``(dtype, shape, bits, framework)`` of a NumPy array, torch tensor or buffer.

    ``bits`` (elements * parts,) are unsigned little-endian integers, contiguous; a view where
    possible. Any strides and byte order are taken. Raises InputError for what has no bits of its
    own: objects, text, dates, structured and sparse arrays, meta tensors, long double.
    """
    if type(tensor).__module__.partition(".")[0] == "torch":
        return _torch_bits(tensor)
    if isinstance(tensor, (bytes, bytearray, memoryview)):
        tensor = np.frombuffer(tensor, dtype=np.uint8)
    if not isinstance(tensor, (np.ndarray, np.generic)):
        kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
        if isinstance(tensor, (list, tuple, float, int)):
            kind += "; give an array, whose dtype is known"
        raise InputError(f"wants a NumPy array, a torch tensor or a buffer, got {kind}",
                         field="tensor")  # fmt: skip
    if isinstance(tensor, np.ma.MaskedArray):
        raise InputError("is a masked array; fill it first", field="tensor")
    array = np.asarray(tensor)
    dtype = _BY_NUMPY.get(array.dtype.name)
    if dtype is None or array.dtype.hasobject:
        raise InputError(f"holds {array.dtype}, which is not handled; there are "
                         f"{', '.join(_BY_NUMPY)}", field="tensor")  # fmt: skip
    shape = array.shape
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array = np.ascontiguousarray(array).reshape(-1)
    return dtype, shape, array.view(dtype.bits), "numpy"


def _torch_bits(tensor: Any) -> tuple[DType, tuple[int, ...], Bits, str]:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"wants a tensor, got {type(tensor).__name__}", field="tensor")
    dtype = _BY_TORCH.get(str(tensor.dtype))
    if dtype is None:
        raise InputError(f"holds {tensor.dtype}, which is not handled", field="tensor")
    if tensor.is_nested:
        raise InputError("is nested; compress its parts by name", field="tensor")
    if tensor.layout != torch.strided:
        raise InputError(f"is {tensor.layout}; compress its indices and values, or to_dense()",
                         field="tensor")  # fmt: skip
    if tensor.is_meta:
        raise InputError("is on the meta device and holds no data", field="tensor")
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    shape = tuple(plain.shape)
    # Through bytes: NumPy has no names for torch's small floats.
    flat = plain.reshape(-1).view(torch.uint8) if plain.numel() else plain.new_empty(0)
    raw = flat.numpy() if plain.numel() else np.empty(0, np.uint8)
    return dtype, shape, raw.view(dtype.bits), "torch"


def from_bits(bits: Bits, dtype: DType, shape: tuple[int, ...]) -> NDArray[Any]:
    """The NumPy array of these bits; unsigned where NumPy lacks the element type."""
    found = numpy_dtype(dtype)
    return bits.reshape(-1).view(found or dtype.bits).reshape(shape)


def to_torch(bits: Bits, dtype: DType, shape: tuple[int, ...], device: Any = None) -> Any:
    """The torch tensor of these bits. Raises QctUnsupportedError where torch lacks the type."""
    import torch

    kind = getattr(torch, dtype.torch, None)
    if kind is None:
        raise QctUnsupportedError(f"this torch has no {dtype.torch}", field="dtype")
    if not bits.size:
        return torch.empty(shape, dtype=kind, device=device)
    flat = torch.from_numpy(bits.reshape(-1).view(np.uint8))
    return flat.view(kind).reshape(shape).to(device)
