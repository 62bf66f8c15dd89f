"""One rank of a small training under DistributedDataParallel; prints losses and traffic as JSON."""

from __future__ import annotations

import json
import sys


def main(rank: int, ranks: int, file: str, hook: str) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from qcluster.q_compressor.ddp import HookState, compression_hook

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    teacher = torch.randn(32, 4)
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4))
    )
    state = HookState(config={"bits": 2.0, "metric": "plain", "feedback": 1.0})
    if hook == "coded":
        model.register_comm_hook(state, compression_hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(60):
        x = torch.randn(64, 32, generator=generator)
        loss = (model(x) - x @ teacher).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.manual_seed(99)
    x = torch.randn(512, 32)
    final = float((model(x) - x @ teacher).square().mean())
    total = float(sum(p.abs().sum() for p in model.parameters()))
    print(json.dumps({"loss": final, "sum": total, "sent": state.sent_bytes,
                      "plain": state.plain_bytes}))  # fmt: skip
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
