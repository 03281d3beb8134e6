"""Steps on the host beside steps on the GPU: time of a training step, and peak memory of the GPU.

A transformer in bfloat16 learns to predict random bytes, each way from the same weights. Shown are the
median milliseconds of a training step and of `optimizer.step()` alone as the host sees it, and the peak
memory of the GPU, in MB. torchao's CPUOffloadOptimizer is a row where torchao is installed.

Without a GPU the CPU stands for it, and shown are the bytes that go over the bus in each step, and the time
of the step with its copies beside that of the plain step.

Run: python benchmarks/offload.py [--width N] [--depth N] [--batch N] [--seconds S]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor, nn

import thalweg

LENGTH, LEARNING_RATE = 512, 1e-4
STORAGES: dict[str, dict[str, object]] = {
    "float32 weights and state": {"weight_bits": 32},
    "24-bit weights, int8 state": {"weight_bits": 24, "state": "int8"},
}


class Block(nn.Module):
    """Attention and two layers, before which their input is normalized."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, 64)).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.between(x))


def network(width: int, depth: int, device: torch.device) -> nn.Module:
    """Return a transformer of about 12 depth width^2 parameters."""
    torch.manual_seed(0)
    blocks = [Block(width) for _ in range(depth)]
    model = nn.Sequential(nn.Embedding(256, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 256))
    return model.to(device, torch.bfloat16)


Make = Callable[[nn.Module], torch.optim.Optimizer]


def ways() -> Iterator[tuple[str, Make]]:
    """Give each way to step with its name."""
    yield (
        "torch fused, on the GPU",
        lambda model: torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True),
    )
    for name, storage in STORAGES.items():
        for is_away in (False, True):
            where = "on the host" if is_away else "on the GPU"
            yield f"thalweg, {name}, {where}", _ours(storage, is_away)
    if find_spec("torchao") is not None:
        yield "torchao CPUOffloadOptimizer", _torchao


def _ours(storage: dict[str, object], is_away: bool) -> Make:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = thalweg.AdamW(model.parameters(), lr=LEARNING_RATE, **storage)  # type: ignore[arg-type]
        if is_away:
            optimizer.offload(from_cpu=True)
        return optimizer

    return make


def _torchao(model: nn.Module) -> torch.optim.Optimizer:
    from torchao.optim import CPUOffloadOptimizer  # type: ignore[import-not-found,import-untyped,unused-ignore]

    found: torch.optim.Optimizer = CPUOffloadOptimizer(
        model.parameters(), torch.optim.AdamW, fused=True, lr=LEARNING_RATE
    )
    return found


def _settled(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def train(
    make: Make, size: tuple[int, int, int], device: torch.device, seconds: float
) -> tuple[float, float, int]:
    """Return the milliseconds of a training step and of its optimizer's, and the peak of memory."""
    width, depth, batch = size
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = network(width, depth, device)
    optimizer = make(model)
    numbers = torch.randint(256, (batch, LENGTH + 1), device=device)
    whole, stepping = [], []
    end = time.perf_counter() + seconds
    while len(whole) < 4 or time.perf_counter() < end:
        begin = _settled(device)
        optimizer.zero_grad()
        logits = model(numbers[:, :-1]).flatten(0, 1).float()
        nn.functional.cross_entropy(logits, numbers[:, 1:].flatten()).backward()
        before = time.perf_counter()
        optimizer.step()
        stepping.append(time.perf_counter() - before)
        whole.append(_settled(device) - begin)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return statistics.median(whole[2:]) * 1e3, statistics.median(stepping[2:]) * 1e3, peak


def on_gpu(size: tuple[int, int, int], seconds: float) -> Iterator[str]:
    """Give the table of all ways on a GPU."""
    device = torch.device("cuda")
    count = sum(param.numel() for param in network(*size[:2], device).parameters())
    yield f"{torch.cuda.get_device_name()}, {count / 1e6:.0f}M parameters, {size[2]} x {LENGTH} bytes"
    yield f"{'AdamW':56} {'ms/step':>8} {'of it step()':>13} {'peak, MB':>9}"
    for name, make in ways():
        whole, stepping, peak = train(make, size, device, seconds)
        yield f"{name:56} {whole:8.1f} {stepping:13.1f} {peak / 1e6:9.0f}"


def on_host(width: int, depth: int, seconds: float) -> Iterator[str]:
    """Give the table of the host's part, with gradients that are made up."""
    cpu = torch.device("cpu")
    yield f"{'AdamW, the CPU for both sides':56} {'MB moved':>9} {'plain, ms':>10} {'with copies, ms':>16}"
    for name, storage in STORAGES.items():
        times = []
        for is_away in (False, True):
            model = network(width, depth, cpu)
            optimizer = _ours(storage, is_away)(model)
            moved = 2 * sum(param.nbytes for param in model.parameters())
            for param in model.parameters():
                param.grad = torch.randn(param.shape, dtype=torch.bfloat16)
            taken = []
            end = time.perf_counter() + seconds
            while len(taken) < 4 or time.perf_counter() < end:
                for param in model.parameters():
                    assert param.grad is not None
                    param.grad.neg_()  # another gradient, which has to be fetched
                begin = time.perf_counter()
                optimizer.step()
                taken.append(time.perf_counter() - begin)
            times.append(statistics.median(taken[2:]) * 1e3)
        yield f"{name:56} {moved / 1e6:9.0f} {times[0]:10.1f} {times[1]:16.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row")
    options = parser.parse_args()
    if torch.cuda.is_available():
        lines = on_gpu((options.width, options.depth, options.batch), options.seconds)
    else:
        lines = on_host(options.width, options.depth, options.seconds)
    for line in lines:
        print(line, flush=True)
