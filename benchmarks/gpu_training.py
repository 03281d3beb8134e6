"""A small transformer trained on a GPU as people do: compiled, under autocast and a GradScaler, or as graph.

It learns to predict the next byte of Python's own standard library. Printed are the loss after training and
the time of a training step, for torch's fused AdamW and ours with several storages of the state.

Run: python benchmarks/gpu_training.py [--steps N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import thalweg

WIDTH, DEPTH, HEADS, LENGTH, BATCH = 512, 6, 8, 256, 32


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.qkv(self.before(x)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.between(x))


def network() -> nn.Module:
    torch.manual_seed(0)
    blocks = [Block() for _ in range(DEPTH)]
    return nn.Sequential(nn.Embedding(256, WIDTH), *blocks, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)).cuda()


def text() -> Tensor:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return (
        torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8).cuda().long()
    )


def batches(data: Tensor, steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    starts = torch.randint(len(data) - LENGTH - 1, (steps, BATCH), generator=generator).cuda()
    return [data[start[:, None] + torch.arange(LENGTH + 1, device="cuda")] for start in starts]


def loss_of(model: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())


def compiled(make: Callable[..., torch.optim.Optimizer], data: list[Tensor]) -> tuple[float, float]:
    """Return the loss after training, and the seconds of a step."""
    net = network()
    model, optimizer, scaler = torch.compile(net), make(net.parameters()), torch.amp.GradScaler("cuda")
    losses, times = [], []
    for batch in data:
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = loss_of(model, batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(torch.stack(losses[-20:]).mean()), statistics.median(times[len(times) // 2 :])


def captured(make: Callable[..., torch.optim.Optimizer], data: list[Tensor]) -> tuple[float, float]:
    """Return the same of a training step that is one CUDA graph."""
    net = network()
    optimizer, batch = make(net.parameters()), data[0].clone()

    def train() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(net, batch)
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            train()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()
    with torch.cuda.graph(graph):
        loss = train()
    losses, times = [], []
    for one in data:
        start = time.perf_counter()
        batch.copy_(one)
        graph.replay()
        losses.append(loss.detach().clone())
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(torch.stack(losses[-20:]).mean()), statistics.median(times[len(times) // 2 :])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    steps = parser.parse_args().steps
    if not torch.cuda.is_available():
        print("benchmarks/gpu_training.py: no GPU that torch can use", file=sys.stderr)
        return 2
    data = batches(text(), steps)
    ours, theirs = thalweg.AdamW, torch.optim.AdamW
    ways = {
        "torch fused": lambda p: theirs(p, lr=3e-4, fused=True, capturable=True),
        "thalweg": lambda p: ours(p, lr=3e-4, fused=True),
        "thalweg, int8 state": lambda p: ours(p, lr=3e-4, fused=True, state="int8"),
        "thalweg, bfloat16 state": lambda p: ours(p, lr=3e-4, fused=True, state="bfloat16"),
    }
    count = sum(p.numel() for p in network().parameters())
    print(f"{torch.cuda.get_device_name()}, {count / 1e6:.1f}M parameters, {steps} steps")
    for kind in (compiled, captured):
        for name, make in ways.items():
            loss, seconds = kind(make, data)
            print(
                f"{kind.__name__:9} {name:24} loss {loss:.4f}  {seconds * 1e3:7.2f} ms a training step",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
