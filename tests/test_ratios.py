"""`state="int8"` of a first moment: what its codes keep, kernel and reference, checkpoints, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import smaller
from support import assert_resumes, assert_threads_do_not_matter, follow, give, gradients, leaf, rand
from torch import Tensor

import thalweg as tw
from thalweg.stepping import plan
from thalweg.stepping.batches import ReferenceBatch
from thalweg.storage.codecs import BLOCK, slot_codec
from thalweg.storage.codecs.draws import word
from thalweg.storage.codecs.ratios import root
from thalweg.storage.codecs.tensors import pack, unpack

RATIO = slot_codec("int8", True, "exp_avg_sq")
SHAPES = smaller(((4096,), (16385,), (64, 65), (4095 + 64,)), ((4096,), (4095 + 64,)))
SECONDS = ("float32", "bfloat16", "block8", "int8")


def start() -> list[Tensor]:
    return [leaf(rand(*shape, seed=i), torch.float32) for i, shape in enumerate(SHAPES)]


def stored(x: Tensor, words: Tensor | None = None) -> Tensor:
    return unpack(RATIO, *pack(RATIO, x, words))


def test_the_root_is_near_and_rises_and_has_no_jump():
    v = torch.tensor(range(0, 0x7F800000, 7919), dtype=torch.int32).view(torch.float32)
    exact = v.double().sqrt()
    assert (root(v).diff() >= 0).all()
    normal = v >= 2.0**-126
    assert (root(v)[normal] / exact[normal]).min() >= 1 - 1e-7
    assert (root(v)[normal] / exact[normal]).max() <= 1.0607
    assert root(torch.zeros(())) == 1.5 * 2.0**-64
    powers = torch.tensor([4.0**k for k in range(-60, 60)])
    assert torch.equal(root(powers), powers.sqrt())


@given(
    st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=200), st.integers(0, 2**32 - 1)
)
@settings(max_examples=200, deadline=None)
def test_rounding_errs_by_a_spacing(numbers, drawn):
    x = torch.tensor(numbers)
    for words, spacings in ((None, 0.501), (torch.full_like(x, drawn - 2**31, dtype=torch.int32), 1.001)):
        error = (stored(x, words).double() - x.double()).abs()
        for block, off in zip(x.split(BLOCK), error.split(BLOCK), strict=True):
            # A bfloat16 above the largest element over 125.5, and numbers below 2^-126 are zero.
            most = block.abs().max().double() / 125.5 * (1 + 2.0**-7) + 2.0**-126
            assert (off <= spacings * most).all()


def test_rounding_has_no_bias():
    x = torch.linspace(-1, 1, 64 * BLOCK)
    index = torch.arange(len(x), dtype=torch.int32)
    total = torch.zeros_like(x, dtype=torch.float64)
    for key in range(400):
        total += stored(x, word(key * 7919, index, 0, RATIO.drawn)).double()
    # Of 400 draws the mean is within a spacing / (2 sqrt(400)), one standard deviation at most.
    assert ((total / 400 - x.double()).abs() <= 5 * (1 / 125.5) * 1.008 / 40).all()
    assert abs(float((total / 400 - x.double()).mean())) < 1e-4


def test_zero_is_zero_and_what_is_not_finite_is_alone():
    x = rand(2 * BLOCK, seed=3).float()
    x[::7] = 0.0
    x[5], x[6], x[8] = math.inf, -math.inf, math.nan
    y = stored(x)
    assert (y[x == 0] == 0).all()
    assert y[[5, 6, 8]].isnan().all()
    finite = x.isfinite()
    assert torch.equal(y[finite], stored(torch.where(finite, x, 0.0))[finite])
    assert torch.equal(stored(torch.zeros(70)), torch.zeros(70))
    state = torch.zeros(64, dtype=torch.int8), torch.zeros(1, dtype=torch.bfloat16)
    assert torch.equal(unpack(RATIO, *state), torch.zeros(64))


def run(make, steps=4, **options):
    params = start()
    optimizer = make(params, **options)
    follow(optimizer, params, gradients(params, steps))
    return params, optimizer


def adamw(params, first="int8", second="int8", kind=tw.AdamW, **options):
    return kind(params, lr=0.01, state={"exp_avg": first, "exp_avg_sq": second}, **options)


@pytest.mark.parametrize("second", SECONDS)
def test_a_step_is_within_a_hundredth_of_the_exact_one(second):
    # Sizes of gradients that differ by 6 octaves within each block, and second moments by 12.
    sizes = torch.exp2(6 * rand(16384, seed=1).abs().clamp(max=1))
    params = {}
    for state in ("float32", {"exp_avg": "int8", "exp_avg_sq": second}):
        p = leaf(torch.zeros(16384), torch.float32)
        optimizer = tw.AdamW([p], lr=1.0, weight_decay=0.0, state=state)
        for step in range(30):
            before = p.detach().clone()
            p.grad = (rand(16384, seed=step) * sizes).float()
            optimizer.step()
        params[str(state)] = p.detach() - before
    exact, found = params.values()
    assert (found - exact).norm() / exact.norm() < {"block8": 0.05, "int8": 0.05}.get(second, 0.02)


@pytest.fixture
def reference_only(monkeypatch):
    return lambda: monkeypatch.setattr(plan, "batch_for", lambda sort: ReferenceBatch)


@pytest.mark.parametrize("second", [*SECONDS, "row"])
@pytest.mark.parametrize("kind", [tw.AdamW, tw.NAdam, tw.RAdam, tw.Prodigy])
def test_the_kernel_is_the_reference(kind, second, reference_only):
    def one_step():
        params = start() if second != "row" else [leaf(rand(64, 128), torch.float32)]
        optimizer = adamw(params, second=second, kind=kind)
        follow(optimizer, params, gradients(params, 1))
        return params, [optimizer.state[p] for p in params]

    params, states = one_step()
    reference_only()
    twins, others = one_step()
    for p, q, one, other in zip(params, twins, states, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        assert one["exp_avg_ratios"].dtype == torch.int8
        assert one["exp_avg_scale"].dtype == torch.bfloat16
        assert torch.equal(one["exp_avg_scale"], other["exp_avg_scale"])
        off = (one["exp_avg_ratios"].int() - other["exp_avg_ratios"].int()).abs()
        assert off.max() <= 1
        assert off.float().mean() < 0.003  # what lies at the edge of two codes


def test_threads_do_not_change_a_bit():
    assert_threads_do_not_matter(lambda: run(adamw))


def test_a_resumed_run_is_the_uninterrupted_one():
    assert_resumes(*run(adamw, seed=3), lambda params: adamw(params, seed=3))


@pytest.mark.parametrize(
    "before", [("float32",) * 2, ("block8", "block8"), ("int8", "int8"), ("int8", "row")]
)
@pytest.mark.parametrize(
    "after", [("float32",) * 2, ("block8", "float32"), ("int8", "block8"), ("int8", "row")]
)
def test_checkpoints_of_other_storage_load(before, after):
    params = [leaf(rand(64, 128), torch.float32)]
    optimizer = adamw(params, *before)
    follow(optimizer, params, gradients(params, 3))
    twins = [leaf(p.detach().clone(), torch.float32) for p in params]
    other = adamw(twins, *after)
    other.load_state_dict(optimizer.state_dict())
    saved, loaded = (one.full_precision_state_dict()["state"][0]["exp_avg"] for one in (optimizer, other))
    # Moments relative to the roots of their second ones are within 1.2 of one another here.
    widest = 0.07 if "row" in (before[1], after[1]) else 0.04
    assert (saved - loaded).norm() <= widest * saved.norm()
    follow(other, twins, gradients(twins, 1))


def test_ratios_follow_second_moments_that_are_stored_anew():
    params, optimizer = run(adamw)
    codes = [optimizer.state[p]["exp_avg_ratios"].clone() for p in params]
    other = adamw(params, second="bfloat16")
    other.load_state_dict(optimizer.state_dict())
    assert all(
        torch.equal(code, other.state[p]["exp_avg_ratios"]) for code, p in zip(codes, params, strict=True)
    )


@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
def test_other_orders_of_memory(layout):
    whole = rand(16, 8, 8, 16)
    x = whole.to(memory_format=torch.channels_last) if layout == "channels_last" else whole.transpose(0, 3)
    p = leaf(x, torch.float32)
    twin = leaf(x, torch.float32)
    ours, exact = adamw([p]), tw.AdamW([twin], lr=0.01)
    for who, own in ((ours, p), (exact, twin)):
        follow(who, [own], gradients([own], 3))
    back = tw.AdamW([twin], lr=0.01)
    back.load_state_dict(ours.state_dict())
    m, found = exact.state[twin]["exp_avg"], back.state[twin]["exp_avg"]
    assert found.stride() == m.stride()
    assert (m - found).norm() <= 0.03 * m.norm()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("sparse", ["lazy", "exact"])
def test_rows_of_sparse_gradients(sparse, reference_only):
    def steps():
        table = leaf(rand(200, 64), torch.float32)
        optimizer = adamw([table], sparse=sparse)
        for i in range(3):
            rows = (torch.arange(40) * 7 + i) % 200
            values = rand(40, 64, seed=i).float()
            table.grad = torch.sparse_coo_tensor(rows[None], values, (200, 64))
            untouched = torch.ones(200, dtype=torch.bool).index_fill_(0, rows, False)
            before = {key: value.clone() for key, value in optimizer.state[table].items()}
            optimizer.step()
            now = optimizer.state[table]
            for key in ("exp_avg_ratios", "exp_avg_scale") if i else ():
                assert torch.equal(before[key].view(200, -1)[untouched], now[key].view(200, -1)[untouched])
        return table, now

    table, kernel = steps()
    reference_only()
    twin, reference = steps()
    torch.testing.assert_close(table, twin, rtol=1e-4, atol=1e-3)
    assert (kernel["exp_avg_ratios"].int() - reference["exp_avg_ratios"].int()).abs().float().mean() < 0.02


def test_bytes_of_state():
    param = leaf(rand(4096 * 64), torch.float32)
    optimizer = adamw([param])
    follow(optimizer, [param], gradients([param], 1))
    held = sum(value.nbytes for key, value in optimizer.state[param].items() if key != "step")
    assert held / param.numel() == 2 + 4 / 64


def test_a_step_that_is_skipped_and_parameters_without_gradients():
    params, optimizer = run(lambda own: adamw(own, skip_nonfinite=3))
    kept = [optimizer.state[p]["exp_avg_ratios"].clone() for p in params]
    give(params, [torch.full_like(p, math.nan) for p in params])
    optimizer.step()
    assert all(
        torch.equal(one, optimizer.state[p]["exp_avg_ratios"]) for one, p in zip(kept, params, strict=True)
    )


def test_ratios_to_what_is_missing_are_refused():
    params, optimizer = run(adamw)
    del optimizer.state[params[0]]["exp_avg_sq_windows"]
    with pytest.raises(ValueError, match="ratios to the root of 'exp_avg_sq', which is missing"):
        optimizer.full_precision_state_dict()
