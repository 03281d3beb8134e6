"""`state="int8"` of what has no sign: how fine its codes are, kernel and reference, checkpoints."""

from __future__ import annotations

import math

import pytest
import torch
from interpreter import smaller
from support import assert_resumes, assert_threads_do_not_matter, follow, give, gradients, leaf, rand
from torch import Tensor

import thalweg as tw
from thalweg.stepping import plan
from thalweg.stepping.batches import ReferenceBatch
from thalweg.storage.codecs import BLOCK, slot_codec
from thalweg.storage.codecs.tensors import pack, unpack

WINDOW, PLAIN = slot_codec("int8", False), slot_codec("block8", False)
SHAPES = smaller(((4096,), (16385,), (64, 65), (4095 + 64,)), ((4096,), (4095 + 64,)))


def start() -> list[Tensor]:
    return [leaf(rand(*shape, seed=i), torch.float32) for i, shape in enumerate(SHAPES)]


def stored(x: Tensor, codec=WINDOW) -> Tensor:
    return unpack(codec, *pack(codec, x))


def octaves(width: float, count: int = 64 * BLOCK) -> Tensor:
    """Return numbers whose logarithms are evenly spread, in every block alike."""
    steps = torch.arange(count) * 0.618034 % 1
    return torch.exp2(steps * width - 30.2)


def mantissa(x: Tensor) -> int:
    """Return the bits of mantissa that a block of numbers needs no more than, by their bits as integers."""
    whole = x.view(torch.int32).long()
    least, most = int(whole.min()) >> 19 << 19, int(whole.max())
    return max((bits for bits in range(5, 12) if most - least < 252 << (23 - bits)), default=4)


@pytest.mark.parametrize("width", [0, 0.05, 0.1, 0.3, 0.7, 1, 2, 3.5, 5, 7.5, 9, 14])
def test_codes_are_as_fine_as_the_block_allows(width):
    x = octaves(width)
    error = (stored(x).double() - x.double()).abs()
    for block, off in zip(x.view(-1, BLOCK), error.view(-1, BLOCK), strict=True):
        spacing = torch.exp2(torch.frexp(block.double())[1] - 1.0) / 2 ** mantissa(block)
        assert (off <= spacing / 2).all()
        assert mantissa(block) > 4 or width > 7


def test_a_block_beyond_the_window_is_stored_plainly():
    x = octaves(20.0)
    assert torch.equal(pack(WINDOW, x)[0], pack(PLAIN, x)[0])
    assert torch.equal(stored(x), stored(x, PLAIN))


def test_zero_is_zero_beside_what_is_not():
    x = octaves(0.1)
    x[::7] = 0.0
    assert torch.equal(stored(x) == 0, x == 0)
    assert ((stored(x) - x).abs() <= x * 2.0**-9).all()


@pytest.mark.parametrize("scale", [2.0**-149, 2.0**-126, 1.0, 2.0**90, 2.0**100, 2.0**125])
def test_the_ends_of_the_range(scale):
    x = (1 + octaves(0.3) / octaves(0.3).max()) * torch.tensor(scale)
    assert ((stored(x) - x).abs() <= x / 32 + 2.0**-129).all()
    x[5], x[6], x[7] = math.inf, math.nan, -math.nan
    y = stored(x)
    assert (y[5:8] == math.inf).all()
    assert y[:5].isfinite().all()


def test_what_moves_stays_on_the_grid():
    # Halved, doubled and one element less: the window is another one, its grid the same.
    x = stored(octaves(0.9))
    assert torch.equal(stored(x * 2), x * 2)
    assert torch.equal(stored(x[: 64 * 60 + 5]), x[: 64 * 60 + 5])


def run(make, steps=4, **options):
    params = start()
    optimizer = make(params, **options)
    follow(optimizer, params, gradients(params, steps))
    return params, optimizer


def adamw(params, second="int8", **options):
    return tw.AdamW(params, lr=0.01, state={"exp_avg": "block8", "exp_avg_sq": second}, **options)


def sums(params, **options):
    return tw.Adagrad(params, lr=0.1, state={"sum": "int8"}, **options)


@pytest.fixture
def reference_only(monkeypatch):
    return lambda: monkeypatch.setattr(plan, "batch_for", lambda sort: ReferenceBatch)


def test_kernel_and_reference_store_the_same_bits(reference_only):
    # Squares of halves of integers, and their sums, are exact: nothing is rounded but by the codec.
    def several_steps():
        params = start()
        optimizer = sums(params, seed=5)
        for i in range(6):
            give(params, [(rand(*p.shape, seed=i) * 4).round() / 2 + (i % 2) * 30 for p in params])
            optimizer.step()
        return [optimizer.state[p] for p in params]

    kernel = several_steps()
    reference_only()
    for one, other in zip(kernel, several_steps(), strict=True):
        assert one["sum_windows"].dtype == torch.uint8
        assert one["sum_scale"].dtype == torch.bfloat16
        assert torch.equal(one["sum_windows"], other["sum_windows"])
        assert torch.equal(one["sum_scale"], other["sum_scale"])


@pytest.mark.parametrize("name", ["AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adadelta", "Prodigy"])
def test_the_kernel_is_the_reference(name, reference_only):
    def one_step():
        params = start()
        kind = getattr(tw, name)
        slots = {slot.name: "int8" for slot in kind(start()).rule.slots if not slot.signed and not slot.when}
        optimizer = kind(params, state=slots)
        follow(optimizer, params, gradients(params, 1))
        return params, [optimizer.full_precision_state_dict()["state"][i] for i in range(len(params))]

    (params, states) = one_step()
    reference_only()
    (twins, others) = one_step()
    for p, q, one, other in zip(params, twins, states, others, strict=True):
        torch.testing.assert_close(p, q, rtol=2**-7, atol=1e-6)
        for key, value in one.items():
            if value.shape == p.shape:
                torch.testing.assert_close(value, other[key], rtol=2**-3, atol=1e-12)
                far = (value - other[key]).abs() > 2**-12 * other[key].abs()
                assert far.float().mean() < 0.003  # what lies at the edge of two codes


def test_threads_do_not_change_a_bit():
    assert_threads_do_not_matter(lambda: run(adamw))


def test_a_resumed_run_is_the_uninterrupted_one():
    assert_resumes(*run(adamw, seed=3), lambda params: adamw(params, seed=3))


@pytest.mark.parametrize("before", ["float32", "bfloat16", "block8", "int8"])
@pytest.mark.parametrize("after", ["float32", "block8", "int8"])
def test_checkpoints_of_other_storage_load(before, after):
    params, optimizer = run(adamw, second=before)
    twins = start()
    other = adamw(twins, second=after)
    other.load_state_dict(optimizer.state_dict())
    follow(other, twins, gradients(twins, 1))  # in form at the latest by now
    other = adamw(twins, second=after)
    other.load_state_dict(optimizer.state_dict())
    saved, loaded = (one.full_precision_state_dict()["state"] for one in (optimizer, other))
    for i in range(len(params)):
        v, w = saved[i]["exp_avg_sq"], loaded[i]["exp_avg_sq"]
        bound = v / 32 + v.max() / 2**18 if after != "float32" else torch.zeros(())
        assert ((v - w).abs() <= bound).all()


def test_bytes_of_state():
    param = leaf(rand(4096 * 64), torch.float32)
    optimizer = adamw([param])
    follow(optimizer, [param], gradients([param], 1))
    held = sum(value.nbytes for key, value in optimizer.state[param].items() if key != "step")
    assert held / param.numel() == 1 + 1 / 64 + 1 + 2 / 64


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_rows_of_sparse_gradients(reference_only):
    def steps():
        table = leaf(rand(200, 64), torch.float32)
        optimizer = sums([table])
        for i in range(3):
            rows = (torch.arange(40) * 7 + i) % 200
            values = (rand(40, 64, seed=i) * 4).round() / 2
            table.grad = torch.sparse_coo_tensor(rows[None], values.float(), (200, 64))
            optimizer.step()
        return optimizer.state[table]

    kernel = steps()
    reference_only()
    assert torch.equal(kernel["sum_windows"], steps()["sum_windows"])


def test_codes_with_scales_of_another_kind_are_refused():
    params, optimizer = run(adamw)
    optimizer.state[params[0]]["exp_avg_sq_scale"] = optimizer.state[params[0]]["exp_avg_sq_scale"].float()
    with pytest.raises(ValueError, match=r"torch\.uint8 or torch\.bfloat16"):
        follow(optimizer, params, gradients(params, 1))
