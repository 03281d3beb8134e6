"""What are 8-bit codes worth whose blocks choose their bits, and first moments in units of the second's root?

Candidates beside `state="int8"`, `state="block8"` and those of others. First moments:

- `4`, `5`, `6`: floats of so many bits of mantissa, and exponents in the rest; 6 are evenly spaced;
- `spread`: 4, 5 or 6 of them, by how far a block's mean logarithm is below the largest;
- `over`: the same of m / root(v), which is multiplied by root of the v that was stored.

Second moments: `4` as in `block8`; `window` of 5 to 11 bits of mantissa and as many octaves as the block has,
from its smallest element on, and where 5 bits do not span it those of `block8`.

They are rounded by `hashed` words as what ships, to `nearest`, or by words that are `even` in time: those of
256 steps are multiples of the golden ratio from one hash, so that errors cancel from step to step.

Made-up gradients, 4,096 elements, AdamW's averages, 1,500 steps, hundredfold smaller after 300. Printed are,
in per cent, how far weights have moved since the fall, compared with float32's, ||w_q - w|| / ||w||, in
brackets the bias, <w_q, w> / <w, w> - 1, and then the same of the second moments at the end, as root mean
square and mean.

With the names of workloads: as `fidelity.py`, by the same functions.

Run: python benchmarks/codes.py [WORKLOAD ...] [--only FORMAT] [--seed S]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
import torch
from fidelity import BETAS, EPS, Format, Store, at_once, formats, over_time, shipped, train
from torch import Tensor
from torch.nn.functional import pad

from thalweg.lab.workload.shipped import WORKLOADS
from thalweg.storage.codecs import BLOCK
from thalweg.storage.codecs.bits import bits, real
from thalweg.storage.codecs.draws import distance, first_word, keys

ELEMENTS, STEPS, FALL = 4096, 1500, 300
EPOCH = 256  # steps whose even words come from one hash
GOLDEN = 0.6180339887498949
HEADER = 2
EXPONENT = 23
GRANULE = 18  # low bits of a window's beginning that a header of 16 bits has no room for

Code = Callable[[Tensor, Tensor], Tensor]
"""What blocks (n, 64) are after storing, given words in [0, 1), of the same shape, to round by."""


def fractions(blocks: int, step: int, number: int, rounding: str) -> Tensor:
    """Return words in [0, 1), float32 (blocks, 64), which a code multiplies by its spacing."""
    if rounding == "nearest":
        return torch.full((blocks, BLOCK), 0.5)
    hashed, turns = (step // EPOCH, step % EPOCH) if rounding == "even" else (step, 0)
    key = int(keys(0, hashed, np.array([0]))[0])
    starts = torch.arange(0, blocks * BLOCK, BLOCK, dtype=torch.int32)[:, None]
    first = (first_word(key, starts, number) & 0xFFFFF).double() / 2**20
    lanes = torch.arange(BLOCK) * (distance(number, 20) / 2**20)
    return ((first + lanes + turns * GOLDEN) % 1).float().clamp(max=1 - 2**-24)


def stored(code: Code, number: int, rounding: str) -> Store:
    def store(x: Tensor, step: int) -> Tensor:
        blocks = pad(x, (0, -len(x) % BLOCK)).view(-1, BLOCK)
        return code(blocks, fractions(len(blocks), step, number, rounding)).flatten()[: len(x)]

    return store


def floats(mantissa: Tensor | int, signed: bool, x: Tensor, u: Tensor) -> Tensor:
    """The floats of `BlockCodec` with `mantissa` bits, (n, 1) or the same for all blocks."""
    size, shift = bits(x.abs()), torch.as_tensor(EXPONENT - mantissa, dtype=torch.int32).expand(len(x), 1)
    highest = 126 if signed else 254
    octaves = (highest + 2) >> (EXPONENT - shift)
    top = (size.amax(1, keepdim=True) + (2 << shift) - 1) >> EXPONENT
    anchor = (top - octaves + 2).clamp(1, 239) << EXPONENT
    lifted = bits(real(size) + real(torch.maximum(size, anchor)))
    code = (lifted - anchor + (u * (1 << shift).float()).int()) >> shift
    if not signed:
        code = torch.where(size > 0, code.clamp(min=1), code)
    value = real((code.clamp(max=highest) << shift) + anchor)
    return torch.minimum(value - real(anchor), value / 2) * x.sign()


def spread(x: Tensor, u: Tensor) -> Tensor:
    """Signed floats of 4 bits of mantissa; 5 or 6, if elements that are not 0 lie close to the largest."""
    size = bits(x.abs())
    count = (size > 0).sum(1, keepdim=True).clamp(min=1)
    depth = (size.amax(1, keepdim=True) - size.double().sum(1, keepdim=True) / count) / 2**EXPONENT
    return floats(4 + (depth < NARROW).int() + (depth < NARROWER).int(), True, x, u)


NARROW, NARROWER = 2.75, 0.5
"""Octaves of the mean below the largest: 2.2 in a block of 64 normal numbers."""


def window(most: int, x: Tensor, u: Tensor) -> Tensor:
    """Unsigned codes evenly spaced in the bits of float32 from the smallest element on; 0 is zero."""
    size = bits(x)
    smallest = torch.where(size > 0, size, size.amax(1, keepdim=True)).amin(1, keepdim=True)
    begin = smallest >> GRANULE << GRANULE
    mantissa = torch.full_like(begin, 4)
    for more in range(5, most + 1):
        fits = (size.amax(1, keepdim=True) + (1 << (EXPONENT - more)) - 1 - begin) >> (EXPONENT - more) <= 253
        mantissa = torch.where(fits, more, mantissa)
    shift = EXPONENT - mantissa
    code = ((size - begin + (u * (1 << shift).float()).int()) >> shift).clamp(0, 253)
    found = torch.where(size > 0, real(begin + (code << shift)), 0.0)
    return torch.where(mantissa > 4, found, floats(4, False, x, u))


def candidates() -> Iterator[Format]:
    yield from islice(formats(), 6)
    narrow, wide = 1 + HEADER / BLOCK, 1 + 1 / BLOCK
    yield Format("block8 | window", shipped(True, True, "block8"), shipped(False, True), wide, narrow)
    yield Format("float32 | window", _exact, shipped(False, True), 4, narrow)
    four = [partial(floats, 4, signed) for signed in (True, False)]
    signed = {"4": four[0], "5": partial(floats, 5, True), "6": partial(floats, 6, True), "spread": spread}
    seconds = partial(window, 11)
    for name, m in signed.items():
        size = narrow if name == "spread" else wide
        yield Format(f"{name} | window, hashed", *_both(m, seconds, "hashed"), size, narrow)
        yield Format(f"{name} over | window, hashed", *_both(m, seconds, "hashed"), size, narrow, True)
    yield Format("6 over | 4, hashed", *_both(signed["6"], four[1], "hashed"), wide, wide, True)
    yield Format("block8's, even", *_both(*four, "even"), wide, wide)
    yield Format("4 | window, even", *_both(four[0], seconds, "even"), wide, narrow)
    yield Format("6 over | window, even", *_both(signed["6"], seconds, "even"), wide, narrow, True)
    yield Format("6 over | window, nearest", *_both(signed["6"], seconds, "nearest"), wide, narrow, True)


def _both(m: Code, v: Code, rounding: str) -> tuple[Store, Store]:
    return stored(m, 0, rounding), stored(v, 1, rounding)


def _exact(x: Tensor, step: int) -> Tensor:
    return x


def gradients(name: str, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp2(6 * torch.rand(ELEMENTS, generator=generator)) if name == "wide noise" else 1.0
    for step in range(STEPS):
        noise = torch.randn(ELEMENTS, generator=generator)
        g = {"constant": torch.ones(ELEMENTS), "mean and noise": 1 + noise / 2}.get(name, noise * sizes)
        yield g * (1.0 if step < FALL else 0.01)


def descend(form: Format | None, name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return how weights have moved since the fall, and the second moments at the end."""
    m, v, moved = (torch.zeros(ELEMENTS) for _ in range(3))
    for step, g in enumerate(gradients(name, seed), start=1):
        m, v = m + (1 - BETAS[0]) * (g - m), BETAS[1] * v + (1 - BETAS[1]) * g * g
        if form is not None:
            m, v = form.stored(m, v, step)
        if step > FALL:
            corrected = (v / (1 - BETAS[1] ** step)).sqrt() + EPS
            moved = moved - m / (1 - BETAS[0] ** step) / corrected
    return moved, v


def compared(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> str:
    (w, v), (w_exact, v_exact) = found, exact
    error, bias = (w - w_exact).norm() / w_exact.norm(), w @ w_exact / (w_exact @ w_exact) - 1
    off = v / v_exact - 1
    cells = (error, bias, off.square().mean().sqrt(), off.mean())
    return "{:8.2f} ({:+.2f}) {:6.1f} ({:+.1f})".format(*(100 * float(cell) for cell in cells)).ljust(32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="what a format's name must contain")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    cases = () if options.workloads else ("constant", "mean and noise", "noise", "wide noise")
    exact = {name: descend(None, name, options.seed) for name in cases}
    runs = {name: train(name, options.seed) for name in options.workloads}
    print(
        "first moments | second moments".ljust(36), "bytes  ", *(name.ljust(31) for name in (*cases, *runs))
    )
    for form in candidates():
        if options.only not in form.name:
            continue
        cells = [compared(descend(form, name, options.seed), exact[name]) for name in cases]
        for run in runs.values():
            cells += ["".join(f"{e:9.3g}" for e in errors(form, run)) for errors in (at_once, over_time)]
        print(f"{form.name:36} {form.m_bytes + form.v_bytes:.4f}", "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
