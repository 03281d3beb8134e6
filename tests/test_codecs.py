"""Codecs on torch tensors: what is stored comes back, as near as it may, and on average exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from thalweg.storage.codecs import BLOCK, slot_codec, weight_codec
from thalweg.storage.codecs.draws import RUN, distance, keys, nearest, word
from thalweg.storage.codecs.tensors import pack, side_shape, unpack

SIGNED, UNSIGNED = slot_codec("block8", True), slot_codec("block8", False)
WINDOW = slot_codec("int8", False)
FLOATS = pytest.mark.parametrize("codec", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
BLOCKS = pytest.mark.parametrize("codec", [SIGNED, UNSIGNED, WINDOW], ids=["signed", "unsigned", "window"])
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
SIZES = (1, 63, 64, 65, 127, 128, 129, 4095, 4096, 16385)
LARGEST = 1.875 * 2.0**118  # of a signed block: 6.2e35

floats = st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=True)
quick = settings(max_examples=150, deadline=None)


def values(codec, numbers) -> Tensor:
    x = torch.tensor(numbers, dtype=torch.float32)
    return x if codec.signed else x.abs()


def stored(codec, x: Tensor, words: Tensor | None = None) -> Tensor:
    return unpack(codec, *pack(codec, x, words))


def spacing(codec, x: Tensor) -> Tensor:
    """Return the distance of neighbouring codes at the values of one block, from the format's description."""
    octaves = 8 if codec.signed else 16
    top = math.frexp(x.abs().max().item() * (1 + 2**-3.9))[1] - 1  # of the highest power of two, or one more
    anchor = 2.0 ** max(top - (octaves - 2), -126)
    exponents = torch.frexp(x.abs().double().clamp(min=anchor))[1].double() - 1
    return torch.exp2(exponents) / 16


@FLOATS
@pytest.mark.parametrize("scale", [1, 2, 50, 127, 200, 239])
def test_every_code_comes_back_whatever_the_word(codec, scale):
    codes = torch.arange(-128, 128) if codec.signed else torch.arange(256)
    codes = codes.to(torch.int32)
    scales = torch.tensor(scale, dtype=torch.int32)
    x = codec.decode(codes, scales)
    for drawn in (0, 1, 2**19 - 1, nearest(19), -1):
        again = codec.encode(x, scales << 23, torch.tensor(drawn, dtype=torch.int32)).to(codec.dtype)
        minus_zero = codes == -128 if codec.signed else codes < 0
        special = ~x.isfinite()
        assert torch.equal(again[~special & ~minus_zero], codes.to(codec.dtype)[~special & ~minus_zero])
        assert not codec.decode(again[special].to(torch.int32), scales).isfinite().any()


@FLOATS
def test_larger_codes_are_larger_values(codec):
    x = codec.decode(
        torch.arange(127 if codec.signed else 255, dtype=torch.int32),
        torch.tensor(127 - 14, dtype=torch.int32),
    )
    assert x[0] == 0
    assert (x.diff() > 0).all()
    # Gradual underflow: even spacing up to the anchor, 2^-14, then a sixteenth of each power of two.
    assert torch.equal(x[:33], torch.arange(33) * 2.0**-18)
    assert x[48] == 2.0**-12


@BLOCKS
@given(numbers=st.lists(floats, min_size=1, max_size=BLOCK))
@quick
def test_rounding_to_nearest_errs_by_half_a_spacing(codec, numbers):
    x = values(codec, numbers)
    error = (stored(codec, x).double() - x.double()).abs()
    bound = spacing(codec, x) / 2
    if not codec.signed:  # a positive value is not stored as zero
        bound = torch.where(x > 0, bound * 2, bound)
    if codec is WINDOW:  # which has other least numbers
        bound = bound.clamp(min=2.0**-126)
    assert (error <= bound).all()


@BLOCKS
@given(numbers=st.lists(floats, min_size=2, max_size=BLOCK))
@quick
def test_order_is_kept(codec, numbers):
    x = values(codec, numbers).sort().values
    assert (stored(codec, x).diff() >= 0).all()


@BLOCKS
@example(numbers=[3.470058697261056e16, 4.037406697193472e16], drawn=0)  # rounded to be as wide as a window
@given(numbers=st.lists(floats, min_size=1, max_size=200), drawn=st.integers(-(2**31), 2**31 - 1))
@quick
def test_what_is_on_the_grid_stays(codec, numbers, drawn):
    x = stored(codec, values(codec, numbers))
    words = torch.full_like(x, drawn, dtype=torch.int32)
    assert torch.equal(stored(codec, x, words), x)


@given(
    numbers=st.lists(st.floats(0, 2.0**126, width=32), min_size=1, max_size=BLOCK),
    drawn=st.integers(-(2**31), 2**31 - 1),
)
@quick
def test_a_positive_second_moment_is_never_stored_as_zero(numbers, drawn):
    x = torch.tensor(numbers, dtype=torch.float32)
    for codec in (UNSIGNED, WINDOW):
        y = stored(codec, x, torch.full_like(x, drawn, dtype=torch.int32))
        assert torch.equal(y > 0, x > 0)


@BLOCKS
@pytest.mark.parametrize("size", SIZES)
def test_zeros_are_zeros(codec, size):
    x = torch.zeros(size)
    assert torch.equal(stored(codec, x, torch.full((size,), -1, dtype=torch.int32)), x)


@BLOCKS
@pytest.mark.parametrize("size", SIZES)
def test_blocks_at_the_end(codec, size):
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, generator=generator) if codec.signed else torch.rand(size, generator=generator)
    main, side = pack(codec, x)
    assert main.shape == x.shape
    assert side.shape == side_shape(codec, main) == (math.ceil(size / 64),)
    y = unpack(codec, main, side)
    for start in range(0, size, BLOCK):
        piece = slice(start, start + BLOCK)
        assert torch.equal(stored(codec, x[piece].clone()), y[piece])  # blocks do not see each other
    assert ((y - x).abs() <= x.abs() / 32 + x.abs().max() / 2**8).all()


@BLOCKS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -math.nan])
@pytest.mark.parametrize("place", [0, 5, 63, 64])
def test_what_is_not_finite_comes_back_alone(codec, bad, place):
    x = torch.linspace(0.001, 1, 100)
    without = x.clone()
    x[place], without[place] = bad, 0.0
    if not codec.signed and bad == -math.inf:
        return  # a second moment is not negative
    expected = stored(codec, without)
    expected[place] = math.nan if codec.signed else math.inf
    torch.testing.assert_close(stored(codec, x), expected, rtol=0, atol=0, equal_nan=True)


@BLOCKS
def test_a_block_of_nothing_finite(codec):
    for x in (torch.full((70,), math.inf), torch.full((70,), math.nan)):
        assert not stored(codec, x).isfinite().any()


@BLOCKS
def test_denormals(codec):
    x = torch.tensor([2.0**-149, 2.0**-140, 2.0**-127, 3 * 2.0**-128])
    y = stored(codec, x)
    assert ((y - x).abs() <= (2.0**-129 if codec is WINDOW else 2.0**-130)).all()
    assert y[2] == x[2]
    assert (y[0] > 0) == (not codec.signed)


def test_beyond_the_range_is_not_finite():
    assert stored(SIGNED, torch.tensor([LARGEST])) == LARGEST
    assert stored(SIGNED, torch.tensor([LARGEST * 1.04])).isnan()
    assert stored(UNSIGNED, torch.tensor([LARGEST * 2**8])) == LARGEST * 2**8
    assert stored(UNSIGNED, torch.tensor([3.4e38])) == math.inf


def draws(count: int, size: int, bits: int, number: int = 0) -> Tensor:
    """Return words of `size` elements for each of `count` steps."""
    index = torch.arange(size, dtype=torch.int32)
    steps = [int(keys(0, t, np.array([3]))[0]) for t in range(count)]
    return torch.stack([word(key, index, number, bits) for key in steps])


ALL = [
    SIGNED,
    UNSIGNED,
    WINDOW,
    slot_codec("bfloat16", True),
    weight_codec(torch.float16, 16),
    weight_codec(torch.bfloat16, 24),
    weight_codec(torch.float16, 24),
]


@pytest.mark.parametrize("codec", ALL, ids=lambda c: f"{type(c).__name__}-{c.name}-{c.drawn}")
def test_stochastic_rounding_is_unbiased(codec):
    # 400 elements, each with 4,000 words: the mean error over its standard error is nearly normal, so one
    # of them beyond 5.5 would be an event of probability 400 * 4e-8 = 2e-5. The words are fixed.
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, generator=generator) * torch.exp(torch.randn(400, generator=generator))
    x = x if codec not in (UNSIGNED, WINDOW) else x.abs() + 1e-3
    y = torch.stack([stored(codec, x, words) for words in draws(4000, 400, codec.drawn)]).double()
    error = y.mean(0) - x
    standard = y.std(0) / math.sqrt(4000)
    moving = standard > 0
    assert moving.float().mean() > 0.8
    # Those that have not moved would move less often than once in 300 times.
    rare = 2.0 ** (codec.drawn - 23) * x.abs().clamp(min=x.abs().max() / 64) / 300
    assert (error.abs() < rare)[~moving].all()
    assert (error[moving] / standard[moving]).abs().max() < 5.5


@pytest.mark.parametrize("bits", [5, 8, 13, 16, 19])
@pytest.mark.parametrize("number", range(5))
def test_words_are_uniform_and_independent_between_steps(bits, number):
    u = (draws(2000, 130, bits, number).double() % 2**bits + 0.5) / 2**bits
    # Means of 2,000 uniform numbers have a standard deviation of 0.0065; 5 of it is 1 in 2 million, and
    # there are 130. A correlation of 2,000 pairs has one of 0.022.
    assert (u.mean(0) - 0.5).abs().max() < 5 * 0.0065
    assert (u.var(0) * 12 - 1).abs().max() < 0.12
    for i in (0, 63, 64, 129):
        assert torch.corrcoef(torch.stack([u[:-1, i], u[1:, i]]))[0, 1].abs() < 5 * 0.0224
    assert torch.corrcoef(torch.stack([u[:, 63], u[:, 64]]))[0, 1].abs() < 5 * 0.0224  # of two runs


def test_the_words_of_a_run_are_spread_evenly():
    u = (draws(50, RUN, 19).double() % 2**19) / 2**19
    gaps = torch.cat([u.sort(1).values, 1 + u.min(1, keepdim=True).values], 1).diff(dim=1)
    assert gaps.max() < 3 / RUN  # of 64 independent ones, the largest is about 5/64


def test_values_of_an_element_have_words_of_their_own():
    u = torch.stack([draws(2000, 1, 19, number)[:, 0].double() % 2**19 for number in range(5)])
    assert (torch.corrcoef(u) - torch.eye(5)).abs().max() < 5 * 0.0224


def test_keys_depend_on_all_of_their_arguments():
    ordinals = np.arange(100)
    found = [keys(seed, step, ordinals) for seed in (0, 1, 2**63 - 1) for step in range(50)]
    assert len(np.unique(np.concatenate(found))) > 14_990  # of 15,000 words of 32 bits, 0.03 pairs are alike
    assert np.array_equal(keys(7, 3, ordinals)[40:60], keys(7, 3, ordinals[40:60]))


@pytest.mark.parametrize("bits", [5, 8, 13, 16, 19])
def test_distances_are_odd(bits):
    # So that the words of 2^bits elements are all different.
    assert all(distance(number, bits) % 2 for number in range(7))


def average(codec, gradient, steps: int, start: float, beta: float, stochastic: bool = True) -> Tensor:
    x = torch.full((512,), start)
    for words in draws(steps, 512, codec.drawn):
        x = stored(codec, beta * x + (1 - beta) * gradient, words if stochastic else None)
    return x


@pytest.mark.parametrize(
    "codec", [UNSIGNED, WINDOW, slot_codec("bfloat16", False)], ids=["block8", "int8", "bfloat16"]
)
def test_a_slow_average_does_not_stall(codec):
    # Alone, 0.999 decays by 0.1 % a step, and half a spacing is 1.6 to 3.1 % of an int8 number and 0.2 to
    # 0.4 % of a bfloat16 one: to nearest, nothing would ever happen.
    if codec is not WINDOW:  # which has 11 bits of mantissa where all is equal
        assert (average(codec, 0.0, 700, 1.0, 0.999, stochastic=False) == 1).all()
    decayed = average(codec, 0.0, 700, 1.0, 0.999)
    # The mean of 512: the elements' own deviations are below 0.3 of their mean.
    assert decayed.mean() == pytest.approx(0.999**700, rel=0.05)
    grown = average(codec, 1.0, 700, 0.1, 0.999)
    assert grown.mean() == pytest.approx(1 - 0.9 * 0.999**700, rel=0.05)


@HALVES
@pytest.mark.parametrize("bits", [16, 24, 32])
@given(pattern=st.integers(0, 2**32 - 1), drawn=st.integers(-(2**31), 2**31 - 1))
@settings(max_examples=400, deadline=None)
def test_weights_and_corrections(dtype, bits, pattern, drawn):
    codec = weight_codec(dtype, bits)
    x = torch.from_numpy(np.array([pattern], np.uint32).view(np.float32))
    words = torch.tensor([drawn], dtype=torch.int32)
    number, correction = pack(codec, x, words)
    y = unpack(codec, number, correction)
    if not x.isfinite():
        torch.testing.assert_close(y, x, equal_nan=True)
        return
    if not number.isfinite():
        assert x.abs() > torch.finfo(dtype).max * (1 - 2**-9)
        return
    assert number.dtype == dtype
    lost = {torch.bfloat16: 16, torch.float16: 13}[dtype] - (bits - 16)
    normal = dtype == torch.bfloat16 or x.abs() >= 2.0**-14
    if normal and lost <= 0:
        assert torch.equal(y, x)
    elif normal:
        assert (y.view(torch.int32) - x.view(torch.int32)).abs() < 2 * 2**lost
    else:
        assert (y - x).abs() <= 2.0**-24
    again = pack(codec, y, ~words)
    if bits > 16 or normal:
        assert torch.equal(unpack(codec, *again), y)
        assert torch.equal(again[0], number)


@HALVES
def test_numbers_with_a_correction_are_rounded_to_nearest(dtype):
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    number, _ = pack(weight_codec(dtype, 32), x)
    assert ((number.float() - x).abs() <= (x.to(dtype).float() - x).abs()).all()


def test_ties_have_a_correction_too():
    # A tie is 32768 units from both of its neighbours, and a correction of 16 bits reaches -32768.
    codec = weight_codec(torch.bfloat16, 32)
    x = torch.arange(0x3F808000, 0x3F908000, 0x10000, dtype=torch.int32).view(torch.float32)
    for value in (x, -x):
        assert torch.equal(stored(codec, value), value)


def test_float16_rounds_small_numbers_stochastically_too():
    codec = weight_codec(torch.float16, 16)
    x = torch.full((4000,), 2.0**-26)  # a quarter of float16's least number
    y = stored(codec, x, draws(1, 4000, codec.drawn)[0])
    assert set(y.tolist()) == {0.0, 2.0**-24}
    assert y.mean() == pytest.approx(2.0**-26, rel=0.05)
