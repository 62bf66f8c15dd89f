"""A communication hook for DistributedDataParallel: gradients coded, errors fed back.

Every rank codes its gradient plus what coding took last time (Seide and others, 2014; Karimireddy
and others, 2019), all blobs are gathered, each rank decodes them all and takes the mean. So all
ranks step alike, whatever was lost comes back in the next step, and traffic is the blobs' bytes.
Importing this loads torch, which looks at the hook's annotations.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from qcluster.codec.container import build, parse
from qcluster.errors import InputError
from qcluster.q_compressor.compress import code_tensor

__all__ = ["HookState", "compression_hook"]

# Smaller tensors go uncompressed: a header costs as much.
SMALLEST = 1024


@dataclass
class HookState:
    """What the hook remembers between steps; it can be pickled for a resume.

    Parameters
    ----------
    process_group: of torch.distributed; None is the default one.
    rel_l2: error of a coded gradient relative to its norm; the error is fed back.
    start_step: gradients of the first steps go as they are.
    """

    process_group: Any = None
    rel_l2: float = 0.5
    start_step: int = 10
    step: int = 0
    sent_bytes: int = 0
    plain_bytes: int = 0
    errors: dict[tuple[int, int, int], NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.rel_l2 < 1:
            raise InputError(f"wants a number in (0, 1), got {self.rel_l2}", field="rel_l2")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process_group": None}


def compression_hook(
    state: HookState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """For ``model.register_comm_hook(HookState(), compression_hook)``.

    The errors of a bucket are dropped when DDP has rebuilt it. Returns a future of the mean.
    """
    group = state.process_group or dist.group.WORLD
    ranks = dist.get_world_size(group)
    flat = bucket.buffer()
    state.plain_bytes += flat.numel() * flat.element_size()
    if bucket.is_last():
        state.step += 1
    if state.step < state.start_step:
        state.sent_bytes += flat.numel() * flat.element_size()
        work = dist.all_reduce(flat.div_(ranks), group=group, async_op=True)
        mean: torch.futures.Future[torch.Tensor] = work.get_future().then(
            lambda done: done.value()[0]
        )
        return mean
    blob = _coded(state, bucket)
    state.sent_bytes += len(blob)
    total = np.zeros(flat.numel(), dtype=np.float32)
    for other in _gathered(blob, ranks, group):
        total += _decoded(other, bucket)
    flat.copy_(torch.from_numpy(total / ranks))
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(flat)
    return future


def _coded(state: HookState, bucket: Any) -> bytes:
    """The bucket's gradients with their errors as one blob; what was lost becomes the new error."""
    pieces = []
    for number, tensor in enumerate(bucket.gradients()):
        gradient = tensor.detach().cpu().float().numpy()
        key = (bucket.index(), number, gradient.size)
        whole = gradient + state.errors.get(key, np.zeros(1, np.float32)).reshape(
            gradient.shape if key in state.errors else (1,) * gradient.ndim
        )
        coded = gradient.size >= SMALLEST and bool(np.isfinite(whole).all())
        piece = code_tensor(
            str(number), whole, mode="rel_l2" if coded else "lossless",
            value=state.rel_l2 if coded else None,
            config={"effort": "fast", "transform": "none"},
        )  # fmt: skip
        pieces.append((piece.entry, piece.whole, piece.chunks))
        if coded:
            [entry], payload = parse(build([pieces[-1]]))
            state.errors[key] = whole - _values(entry, payload).reshape(whole.shape)
    return build(pieces)


def _values(entry: Any, payload: memoryview) -> NDArray[np.float32]:
    from qcluster.codec.chain import decode_entry

    return decode_entry(entry, payload).view(np.float32)


def _decoded(blob: bytes, bucket: Any) -> NDArray[np.float32]:
    entries, payload = parse(blob)
    if sum(e.elements for e in entries) != bucket.buffer().numel():
        raise InputError("another rank's bucket has another size", field="bucket")
    return np.concatenate([_values(entry, payload) for entry in entries])


def _gathered(blob: bytes, ranks: int, group: Any) -> list[bytes]:
    """Every rank's blob, in order of rank: lengths first, then padded bytes."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks)]
    dist.all_gather(lengths, torch.tensor([len(blob)]), group=group)
    longest = max(int(n) for n in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(blob)] = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
    blobs = [torch.empty(longest, dtype=torch.uint8) for _ in range(ranks)]
    dist.all_gather(blobs, padded, group=group)
    return [b[: int(n)].numpy().tobytes() for b, n in zip(blobs, lengths, strict=True)]
