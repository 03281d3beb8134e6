"""What do 8-bit formats do to Adam's update? Real states of a training run, stored by many formats.

For each format: the bytes of a slot, and the relative error of the update, ||u_q - u|| / ||u|| with
u = m_hat / (sqrt(v_hat) + 1e-8), over all tensors of at least 1,024 elements,

- at once: the states of several steps, stored and read again;
- over time: both averages stored and read at every step, from the first, beside the float32 run that the
  gradients come from.

Run: python benchmarks/fidelity.py [WORKLOAD] [--seed S]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from thalweg.lab.workload.shipped import WORKLOADS, find
from thalweg.storage.codecs import BLOCK, slot_codec
from thalweg.storage.codecs.draws import keys, word
from thalweg.storage.codecs.ratios import root
from thalweg.storage.codecs.tensors import pack, unpack

BETAS, EPS, LR = (0.9, 0.999), 1e-8, 3e-3
LOOKED_AT = (10, 50, 150, 350)
LEAST = 1024

Store = Callable[[Tensor, int], Tensor]
"""What a flat tensor is after it was stored at a step and read again."""


class Format(NamedTuple):
    """A pair of codes for first and second moments, and their bytes an element.

    Where `is_ratio`, the first code is of m / root(v).
    """

    name: str
    m: Store
    v: Store
    m_bytes: float
    v_bytes: float
    is_ratio: bool = False

    def stored(self, m: Tensor, v: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return both moments after they were stored at a step and read again."""
        second = self.v(v, step)
        if not self.is_ratio:
            return self.m(m, step), second
        return self.m(m / root(v), step) * root(second), second


def shipped(signed: bool, stochastic: bool, name: str = "int8") -> Store:
    """Return the code that `state=name` gives a moment as it is, or with rounding to nearest."""
    codec = slot_codec(name, signed, "exp_avg_sq" if signed else None)

    def store(x: Tensor, step: int) -> Tensor:
        key = int(keys(0, step, np.array([0]))[0])
        index = torch.arange(len(x), dtype=torch.int32)
        words = word(key, index, 0 if signed else 1, codec.drawn) if stochastic else None
        return unpack(codec, *pack(codec, x, words))

    return store


def in_blocks(size: int, code: Callable[[Tensor, Tensor], Tensor]) -> Store:
    """Return a code that is given blocks (n, size) and the largest magnitude of each (n, 1)."""

    def store(x: Tensor, step: int) -> Tensor:
        blocks = pad(x, (0, -len(x) % size)).view(-1, size)
        largest = blocks.abs().amax(1, keepdim=True)
        return torch.where(largest > 0, code(blocks, largest.clamp(min=1e-38)), blocks).flatten()[: len(x)]

    return store


def rounded(x: Tensor, stochastic: bool) -> Tensor:
    return (x + torch.rand_like(x)).floor() if stochastic else x.round()


def linear(top: int, into: Callable, back: Callable, stochastic: bool, x: Tensor, largest: Tensor) -> Tensor:
    """Evenly spaced codes of a function of the magnitude over the largest one."""
    return back(rounded(into(x.abs() / largest) * top, stochastic) / top) * largest * x.sign()


def minifloat(
    mantissa: int, signed: bool, power: bool, stochastic: bool, x: Tensor, largest: Tensor
) -> Tensor:
    """Floats of 8 bits with gradual underflow, scaled by a power of two or so that the largest is exact."""
    codes = (128 if signed else 256) - 2  # the highest is for what is not finite
    top = 2.0 ** (codes // 2**mantissa - 1) * (1 + codes % 2**mantissa / 2**mantissa)
    anchor = largest / top
    if power:
        anchor = torch.exp2(torch.ceil(torch.log2(anchor.double()))).float()
    size = x.abs() / anchor
    spacing = torch.exp2(torch.floor(torch.log2(size.clamp(min=1.0)))) / 2**mantissa
    stored = rounded(size / spacing, stochastic) * spacing
    if not signed:
        stored = torch.where(x > 0, stored.clamp(min=2.0**-mantissa), stored)
    return stored * anchor * x.sign()


def logarithmic(octaves: float, signed: bool, stochastic: bool, x: Tensor, largest: Tensor) -> Tensor:
    """Codes evenly spaced in the logarithm, and zero."""
    top = 127 if signed else 255
    depth = -torch.log2((x.abs() / largest).clamp(min=2.0 ** -(octaves + 1)))
    code = rounded(top - depth * (top - 1) / octaves, stochastic).clamp(min=0 if signed else 1)
    return (
        torch.where((code > 0) & (x != 0), torch.exp2((code - top) * octaves / (top - 1)), 0.0)
        * largest
        * x.sign()
    )


def dynamic_map(signed: bool) -> Tensor:
    """Return the 256 values of dynamic tree quantization (Dettmers et al. 2022, arXiv 2110.02861).

    Seven decades; decade i, from the smallest, has 2^i evenly spaced means (of either sign, if signed,
    else twice as many), and 0 and 1 complete the table, as in bitsandbytes' `create_dynamic_map`.
    """
    found = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1, dtype=torch.float64)
        means = (10.0 ** (i - 6) * (edges[1:] + edges[:-1]) / 2).tolist()
        found += means + [-x for x in means] * signed
    return torch.tensor(sorted(found)).float()


def nearest_of(table: Tensor, x: Tensor, largest: Tensor) -> Tensor:
    return table[torch.bucketize(x / largest, (table[1:] + table[:-1]) / 2)] * largest


def formats() -> Iterator[Format]:
    for name, scale in (("int8", 2), ("block8", 1)):
        ours = 1 + scale / BLOCK
        for rounding in ("as shipped", "to nearest"):
            codes = (shipped(signed, rounding == "as shipped", name) for signed in (True, False))
            yield Format(f"thalweg {name}, {rounding}", *codes, ours, ours, is_ratio=name == "int8")
    tables = [in_blocks(256, partial(nearest_of, dynamic_map(signed))) for signed in (True, False)]
    yield Format("bitsandbytes: dynamic map, 256", *tables, 1 + 4 / 256, 1 + 4 / 256)
    softsign = partial(linear, 127, lambda y: 2 * y / (1 + y), lambda y: y / (2 - y), False)
    root = partial(linear, 255, torch.sqrt, torch.square, False)
    yield Format(
        "flashoptim: softsign, root, 32", in_blocks(32, softsign), in_blocks(32, root), 1 + 2 / 32, 1 + 2 / 32
    )
    yield from candidates()


def candidates() -> Iterator[Format]:
    for size in (64, 128, 256):
        yield both(f"linear, {size}", size, 2, *(partial(linear, top, abs, abs) for top in (127, 255)))
        root = partial(linear, 255, torch.sqrt, torch.square)
        yield both(f"linear, root, {size}", size, 2, partial(linear, 127, abs, abs), root)
        yield both(
            f"log, 12 and 24 octaves, {size}",
            size,
            2,
            partial(logarithmic, 12, True),
            partial(logarithmic, 24, False),
        )
        for m, v in ((4, 4), (5, 4), (3, 4), (4, 5), (4, 3), (5, 5)):
            codes = partial(minifloat, m, True), partial(minifloat, v, False)
            for power in (True, False):
                name = f"minifloat {m} and {v} bits, {'power of 2' if power else 'exact'}, {size}"
                yield both(name, size, 1 if power else 2, *(partial(code, power) for code in codes))


def both(name: str, size: int, scale: int, m: Callable, v: Callable) -> Format:
    stored = (in_blocks(size, partial(code, True)) for code in (m, v))
    return Format(name, *stored, 1 + scale / size, 1 + scale / size)


class Run(NamedTuple):
    """Gradients of each step and tensor, flat, and both averages at the steps in `LOOKED_AT`."""

    gradients: list[list[Tensor]]
    states: dict[int, list[tuple[Tensor, Tensor]]]


def train(workload: str, seed: int) -> Run:
    task = find(workload)
    model = task.model(seed)
    params = [p for p in model.parameters() if p.numel() >= LEAST]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, eps=EPS)
    run = Run([], {})
    for step, batch in enumerate(task.batches(seed), start=1):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
        run.gradients.append([p.grad.flatten().clone() for p in params])
        if step in LOOKED_AT:
            kept = [optimizer.state[p] for p in params]
            run.states[step] = [
                (s["exp_avg"].flatten().clone(), s["exp_avg_sq"].flatten().clone()) for s in kept
            ]
        if step == LOOKED_AT[-1]:
            break
    return run


def update(m: Tensor, v: Tensor, step: int) -> Tensor:
    return m / (1 - BETAS[0] ** step) / ((v / (1 - BETAS[1] ** step)).sqrt() + EPS)


def error(pairs: list[tuple[Tensor, Tensor]]) -> float:
    distance = sum(((found - exact).double() ** 2).sum() for found, exact in pairs)
    return float((distance / sum((exact.double() ** 2).sum() for _, exact in pairs)).sqrt())


def at_once(form: Format, run: Run) -> list[float]:
    return [
        error([(update(*form.stored(m, v, step), step), update(m, v, step)) for m, v in states])
        for step, states in run.states.items()
    ]


def over_time(form: Format, run: Run) -> list[float]:
    found = []
    averages = [(torch.zeros_like(g), torch.zeros_like(g)) for g in run.gradients[0]]
    for step, gradients in enumerate(run.gradients, start=1):
        for i, g in enumerate(gradients):
            m, v = averages[i]
            m, v = m + (1 - BETAS[0]) * (g - m), BETAS[1] * v + (1 - BETAS[1]) * g * g
            averages[i] = form.stored(m, v, step)
        if step in run.states:
            pairs = zip(averages, run.states[step], strict=True)
            found.append(error([(update(*a, step), update(*b, step)) for a, b in pairs]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", nargs="?", choices=list(WORKLOADS), default="digits")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    run = train(options.workload, options.seed)
    print(f"{options.workload}, AdamW, lr {LR}, steps {', '.join(map(str, run.states))}")
    print(f"{'format':42}{'bytes':>7}   {'at once':36}   over time")
    for form in formats():
        cells = ["".join(f"{e:9.3g}" for e in errors(form, run)) for errors in (at_once, over_time)]
        print(f"{form.name:42}{(form.m_bytes + form.v_bytes) / 2:7.4f}   {cells[0]}   {cells[1]}", flush=True)


if __name__ == "__main__":
    main()
