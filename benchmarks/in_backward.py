"""Peak memory of training with steps in backward, beside steps after it and beside torch's.

A stack of linear layers is trained for a few steps, each way in a process of its own. Shown are the peak of
the resident set over what the process took before the model was made (MB, by Linux's `ru_maxrss`), the same
in bytes a parameter, and the median milliseconds of a training step after the second.

Run: python benchmarks/in_backward.py [--width N] [--layers N] [--batch N] [--steps N]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward

import thalweg

LEARNING_RATE = 1e-4


class Way(NamedTuple):
    """A way to train.

    Args:
        dtype: of the weights.
        storage: arguments of thalweg's AdamW; None, if the optimizer is torch's, in its fused form.
        in_backward: whether parameters are stepped in backward.
    """

    dtype: torch.dtype
    storage: dict[str, object] | None
    in_backward: bool


SMALL = {"state": "int8", "weight_bits": 24}
WAYS = {
    f"{name}, {'in backward' if in_backward else 'after it'}": Way(dtype, storage, in_backward)
    for name, dtype, storage in (
        ("torch, float32", torch.float32, None),
        ("thalweg, float32", torch.float32, {}),
        ("torch, bfloat16", torch.bfloat16, None),
        ("thalweg, bfloat16 and 8 bits, int8 state", torch.bfloat16, SMALL),
    )
    for in_backward in (False, True)
}


class Result(NamedTuple):
    """What a way took: bytes at the peak, parameters, and seconds of a training step."""

    peak: int
    parameters: int
    seconds: float


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _optimizer(way: Way, params: list[Tensor]) -> Callable[[], object]:
    """Have parameters be stepped; return what is to be called after backward."""
    if way.storage is not None:
        ours = thalweg.AdamW(params, lr=LEARNING_RATE, **way.storage)  # type: ignore[arg-type]
        if way.in_backward:
            ours.in_backward()
        return lambda: (ours.step(), ours.zero_grad())
    settings = {"lr": LEARNING_RATE, "fused": True}
    if way.in_backward:
        _apply_optimizer_in_backward(torch.optim.AdamW, params, settings)
        return lambda: None
    theirs = torch.optim.AdamW(params, **settings)  # type: ignore[arg-type]
    return lambda: (theirs.step(), theirs.zero_grad())


def _warm(dtype: torch.dtype) -> None:
    """Take what does not depend on the model's size: threads, kernels, the lazy parts of torch."""
    for storage in ({}, SMALL):
        model = nn.Linear(128, 128, dtype=dtype)
        done = _optimizer(Way(dtype, storage, False), list(model.parameters()))
        model(torch.ones(2, 128, dtype=dtype)).sum().backward()
        done()


def measure(way: Way, width: int, layers: int, batch: int, steps: int) -> Result:
    """Train in this process, which has done nothing before."""
    torch.manual_seed(0)
    _warm(way.dtype)
    before = _peak()
    model = nn.Sequential(*(nn.Linear(width, width, dtype=way.dtype) for _ in range(layers)))
    done = _optimizer(way, list(model.parameters()))
    seconds = []
    for _ in range(steps):
        inputs = torch.randn(batch, width, dtype=way.dtype)
        begin = time.perf_counter()
        model(inputs).float().square().mean().backward()
        done()
        seconds.append(time.perf_counter() - begin)
    parameters = sum(param.numel() for param in model.parameters())
    return Result(_peak() - before, parameters, statistics.median(seconds[2:]))


def _lines(results: Iterable[tuple[str, Result]]) -> Iterable[str]:
    yield f"{'AdamW':56} {'peak, MB':>9} {'bytes/param.':>13} {'ms/step':>8}"
    for name, one in results:
        per_parameter = one.peak / one.parameters
        yield f"{name:56} {one.peak / 1e6:9.0f} {per_parameter:13.2f} {one.seconds * 1e3:8.0f}"


def _results(options: argparse.Namespace) -> Iterable[tuple[str, Result]]:
    sizes = (options.width, options.layers, options.batch, options.steps)
    for name, way in WAYS.items():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield name, pool.submit(measure, way, *sizes).result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    for line in _lines(_results(parser.parse_args())):
        print(line, flush=True)
