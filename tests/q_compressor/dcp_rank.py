"""One of two gloo ranks that save and load a sharded checkpoint: RANK MEETING DIRECTORY."""

from __future__ import annotations

import sys


def main(rank: int, meeting: str, directory: str) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, load, save
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from qcluster.q_compressor.dcp import QctStream, registry

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    whole = {
        "weight": torch.randn(600, 64) * torch.logspace(-3, 0, 64),
        "half": torch.randn(200, 64).bfloat16(),
        "zeros": torch.zeros(64, 64),
    }
    shards = {name: distribute_tensor(value, mesh, [Shard(0)]) for name, value in whole.items()}
    state = {**shards, "step": 7}
    save(state, storage_writer=FileSystemWriter(directory, _extensions=[QctStream()]))
    fresh = {name: torch.full_like(value, 9.0) for name, value in shards.items()}
    again = {**fresh, "step": 0}
    load(again, storage_reader=FileSystemReader(directory, _extension_registry=registry()))
    same = all(torch.equal(again[name].full_tensor(), whole[name]) for name in whole)
    print("same" if same and again["step"] == 7 else "different", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
