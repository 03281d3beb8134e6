"""What does a step cost when something has changed since the last one, beside torch's unfused optimizers?

Run: python benchmarks/changes.py [--seconds S]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor
from torch.optim import Optimizer

import thalweg
from thalweg.bench.measure import Work, in_turns


def params(count: int, size: int = 64) -> list[Tensor]:
    made = [torch.nn.Parameter(torch.randn(size)) for _ in range(count)]
    for p in made:
        p.grad = torch.randn_like(p)
    return made


def adam(library: ModuleType, ps: object) -> Optimizer:
    """Return AdamW as `library` has it, torch's tensor by tensor."""
    return library.AdamW(ps, lr=1e-3, **({"foreach": False} if library is torch.optim else {}))


def sgd(library: ModuleType, ps: object) -> Optimizer:
    """Return SGD with momentum likewise."""
    return library.SGD(ps, lr=1e-3, momentum=0.9, **({"foreach": False} if library is torch.optim else {}))


def half_of_the_gradients(library: ModuleType) -> Work:
    ps = params(400)
    grads = [p.grad for p in ps]
    optimizer, draw = adam(library, ps), random.Random(0)
    halves = [[g if draw.random() < 0.5 else None for g in grads] for _ in range(64)]
    turn = iter(range(10**9))

    def work() -> None:
        for p, g in zip(ps, halves[next(turn) % 64], strict=True):
            p.grad = g
        optimizer.step()

    optimizer.step()
    return work


def an_optimizer_for_five_steps(library: ModuleType) -> Work:
    ps = params(4)

    def work() -> None:
        optimizer = sgd(library, ps)
        for _ in range(5):
            optimizer.step()

    return work


def a_checkpoint(library: ModuleType) -> Work:
    optimizer = adam(library, params(100))
    optimizer.step()

    def work() -> None:
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()

    return work


def other_memory(library: ModuleType) -> Work:
    ps = params(100)
    memory = [[torch.randn(64) for _ in ps] for _ in range(2)]
    optimizer, turn = adam(library, ps), iter(range(10**9))

    def work() -> None:
        for p, data in zip(ps, memory[next(turn) % 2], strict=True):
            p.data = data
        optimizer.step()

    optimizer.step()
    return work


def other_state(library: ModuleType) -> Work:
    ps = params(100)
    optimizer, turn = adam(library, ps), iter(range(10**9))
    optimizer.step()
    items = [[torch.zeros(64) for _ in ps] for _ in range(2)]

    def work() -> None:
        for p, item in zip(ps, items[next(turn) % 2], strict=True):
            optimizer.state[p]["exp_avg"] = item
        optimizer.step()

    return work


def first_steps(library: ModuleType) -> Work:
    ps = params(400)

    def work() -> None:
        for p in ps:
            adam(library, [p]).step()

    return work


def many_groups(library: ModuleType) -> Work:
    ps = params(5000, 16)

    def work() -> None:
        adam(library, [{"params": [p]} for p in ps]).step()

    return work


CASES = {
    "a random half of 400 gradients at each step": half_of_the_gradients,
    "a new optimizer of 4 parameters for each 5 steps": an_optimizer_for_five_steps,
    "load_state_dict, then a step, 100 parameters": a_checkpoint,
    "p.data exchanged at each step, 100 parameters": other_memory,
    "a state item exchanged at each step, 100 parameters": other_state,
    "made and stepped: 400 optimizers of one parameter": first_steps,
    "made and stepped: one optimizer of 5,000 groups": many_groups,
}


def lines(seconds: float) -> Iterator[str]:
    for name, case in CASES.items():
        c = in_turns(case(torch.optim), case(thalweg), seconds)
        times = f"torch {c.baseline * 1e3:8.2f} ms  thalweg {c.ours * 1e3:8.2f} ms"
        yield f"{name:52} {times}  ratio {c.ratio:5.2f} [{c.low:.2f}, {c.high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case")
    for line in lines(parser.parse_args().seconds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
