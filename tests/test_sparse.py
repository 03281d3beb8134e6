"""Rows that no gradient names: `sparse="exact"` is dense training, and others are not touched."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from support import leaf, rand
from torch import nn

import thalweg as tw
from thalweg.rule import DEGREES, Recipe, Resting, roots
from thalweg.stepping import past, plan, rests
from thalweg.stepping.batches import ReferenceBatch

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

CASES = {
    "plain": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "dampened": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.02}),
    "decoupled": (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "decoupled_weight_decay": True, "maximize": True},
    ),
    "adam": ("Adam", {"lr": 0.1}),
    "large eps": ("Adam", {"lr": 0.1, "eps": 0.3, "betas": (0.9, 0.99)}),
    "amsgrad": ("Adam", {"lr": 0.1, "amsgrad": True, "eps": 1e-3}),
    "adamw": ("AdamW", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    "independent": ("AdamW", {"lr": 0.1, "weight_decay": 0.01, "decay_by": "independent"}),
    "corrected": ("AdamW", {"lr": 0.1, "weight_decay": 0.1, "decay_by": "corrected"}),
    "rmsprop": ("RMSprop", {"lr": 0.1}),
    "centered": ("RMSprop", {"lr": 0.1, "momentum": 0.9, "centered": True, "nesterov": True}),
    "debiased": (
        "RMSprop",
        {"lr": 0.1, "momentum": 0.9, "amsgrad": True, "debias": True, "momentum_ema": True, "eps": 1e-3},
    ),
    "rmspropw": ("RMSprop", {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
    "adadelta": ("Adadelta", {"lr": 1.0}),
    "clipped": ("Adam", {"lr": 0.1, "max_norm": 0.5, "max_value": 0.4, "skip_nonfinite": 3}),
}
ORACLES = ("nesterov", "adamw", "rmsprop")
"""Some of those that torch has, whose dense steps are then the measure."""


EVERY = os.environ.get("THALWEG_TEST_ADDITIONS") == "all"
TRIED = (
    CASES if EVERY else ("dampened", "decoupled", "large eps", "amsgrad", "corrected", "debiased", "clipped")
)
"""All cases, or those that between them have all that there is."""


@pytest.fixture
def reference_only(monkeypatch):
    def switch():
        monkeypatch.setattr(plan, "batch_for", lambda sort: ReferenceBatch)

    return switch


@pytest.fixture
def short_blocks(monkeypatch):
    """Blocks that end after a few steps, and a memory that is full after a few blocks."""
    monkeypatch.setattr(past, "BLOCK", 4)
    monkeypatch.setattr(rests, "MOST", 16)


def named(shape, count, seed, dtype=torch.float64, sparse_dims=1):
    """Return a gradient that names some rows, maybe one twice, and no order."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.stack([torch.randint(n, (count,), generator=generator) for n in shape[:sparse_dims]])
    values = rand(count, *shape[sparse_dims:], seed=seed).to(dtype)
    return torch.sparse_coo_tensor(index, values, shape)


def rate(step):
    """Return a learning rate that warms up, falls, jumps, and is 0 once."""
    return (0.02, 0.05, 0.1, 0.08, 0.04, 0.0, 0.3)[step % 7]


def give(mine, theirs, step, count=None):
    for i, (p, q) in enumerate(zip(mine, theirs, strict=True)):
        p.grad = named(
            tuple(p.shape), (0, 2, 5, 1)[(step + i) % 4] if count is None else count, 10 * step + i, p.dtype
        )
        q.grad = p.grad.to_dense().to(q.dtype)


def twins(shapes=((12, 5), (9, 3)), dtype=torch.float64):
    mine = [leaf(rand(*shape, seed=i), dtype) for i, shape in enumerate(shapes)]
    return mine, [leaf(p, torch.float64) for p in mine]


def follow(a, mine, b, theirs, steps, begin=0):
    for step in range(begin, begin + steps):
        give(mine, theirs, step)
        for group in (*a.param_groups, *b.param_groups):
            group["lr"] = rate(step) * (10 if "rho" in group else 1)
        a.step()
        b.step()


def assert_alike(a, mine, b, theirs, tolerance=1e-12):
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p.double(), q, rtol=tolerance, atol=tolerance)
        for key, value in b.state[q].items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(
                    a.state[p][key].double(), value.double(), rtol=tolerance, atol=tolerance
                )


# --- dense training ---


@pytest.mark.parametrize("case", TRIED)
def test_exact_is_dense_training(case, short_blocks):
    name, options = CASES[case]
    mine, theirs = twins()
    a = getattr(tw, name)(mine, **options, sparse="exact")
    b = getattr(tw, name)(theirs, **options)
    follow(a, mine, b, theirs, 30)
    a.flush()
    assert_alike(a, mine, b, theirs)


@pytest.mark.parametrize("case", ORACLES)
def test_exact_is_dense_training_of_torchs(case):
    name, options = CASES[case]
    mine, theirs = twins()
    a = getattr(tw, name)(mine, **options, sparse="exact")
    b = getattr(torch.optim, name)(theirs, **options, foreach=False)
    follow(a, mine, b, theirs, 30)
    a.flush()
    assert_alike(a, mine, b, theirs)


@pytest.mark.parametrize("case", CASES if EVERY else ("dampened", "amsgrad", "clipped"))
def test_the_reference_catches_up_the_same(case, reference_only, short_blocks):
    reference_only()
    name, options = CASES[case]
    mine, theirs = twins()
    a = getattr(tw, name)(mine, **options, sparse="exact")
    b = getattr(tw, name)(theirs, **options)
    follow(a, mine, b, theirs, 20)
    a.flush()
    assert_alike(a, mine, b, theirs)


@pytest.mark.parametrize("case", ["nesterov", "adamw"])
def test_in_float32(case):
    name, options = CASES[case]
    mine, theirs = twins(dtype=torch.float32)
    a = getattr(tw, name)(mine, **options, sparse="exact")
    b = getattr(tw, name)(theirs, **options)
    follow(a, mine, b, theirs, 40)
    a.flush()
    assert_alike(a, mine, b, theirs, 3e-5)


@pytest.mark.parametrize("case", ["nesterov", "adamw"])
def test_long_rests_over_whole_blocks(case, monkeypatch):
    monkeypatch.setattr(past, "BLOCK", 32)
    name, options = CASES[case]
    (mine, other), (theirs, twin) = twins(((6, 2), (5, 2)))
    a = getattr(tw, name)([mine, other], **options, sparse="exact")
    b = getattr(tw, name)([theirs, twin], **options)
    for step in range(2 * past.BLOCK + 3):
        if step in (0, 5, 25, past.BLOCK, past.BLOCK + 1):
            mine.grad = named((6, 2), 3, step)
        else:
            mine.grad = named((6, 2), 0, step)
        other.grad = named((5, 2), 1, step) if step % 3 else None
        theirs.grad = mine.grad.to_dense()
        twin.grad = None if other.grad is None else other.grad.to_dense()
        for optimizer in (a, b):
            optimizer.param_groups[0]["lr"] = rate(step) / 10
            optimizer.step()
    a.flush()
    assert_alike(a, [mine, other], b, [theirs, twin])


def test_groups_have_each_their_own():
    mine, theirs = twins(((12, 5), (9, 3), (4, 2)))
    options = [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.01, "sparse": "lazy"}, {"lr": 0.2, "weight_decay": 0.1}]
    groups = [{"params": [p], "sparse": "exact"} | one for p, one in zip(mine, options, strict=True)]
    a = tw.SGD(groups)
    b = tw.SGD([{**one, "params": [q]} | {"sparse": "lazy"} for q, one in zip(theirs, options, strict=True)])
    assert [group.get("sparse") for group in a.param_groups] == ["exact", None, "exact"]
    for step in range(20):
        give(mine, theirs, step)
        a.step()
        b.step()
    a.flush()
    assert_alike(a, mine, b, theirs)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_number_of_sparse_dimensions_and_complex_numbers(dims):
    mine = leaf(rand(4, 3, 2, seed=1).to(torch.complex128))
    theirs = leaf(mine)
    a, b = tw.Adam([mine], lr=0.1, sparse="exact"), tw.Adam([theirs], lr=0.1)
    for step in range(12):
        mine.grad = named((4, 3, 2), 3, step, torch.complex128, dims if step < 9 else 1)
        theirs.grad = mine.grad.to_dense()
        a.step()
        b.step()
    a.flush()
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_strided_parameter():
    mine = nn.Parameter(rand(5, 8, seed=2).T)
    theirs = leaf(mine.detach().contiguous())
    a, b = tw.Adam([mine], lr=0.1, sparse="exact"), tw.Adam([theirs], lr=0.1)
    for step in range(10):
        mine.grad = named((8, 5), 2, step)
        theirs.grad = mine.grad.to_dense()
        a.step()
        b.step()
    a.flush()
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_that_become_dense_and_sparse_again(short_blocks):
    mine, theirs = twins()
    a, b = tw.AdamW(mine, lr=0.1, sparse="exact"), tw.AdamW(theirs, lr=0.1)
    for step in range(24):
        give(mine, theirs, step)
        if step % 5 > 2:
            mine[0].grad = mine[0].grad.to_dense()
        if step % 6 == 4:
            mine[1].grad = theirs[1].grad = None
        a.step()
        b.step()
    a.flush()
    assert_alike(a, mine, b, theirs)


def test_a_flag_that_changes(short_blocks):
    mine, theirs = twins()
    a, b = tw.SGD(mine, lr=0.1, momentum=0.9, sparse="exact"), tw.SGD(theirs, lr=0.1, momentum=0.9)
    for step in range(12):
        give(mine, theirs, step)
        for optimizer in (a, b):
            optimizer.param_groups[0]["weight_decay"] = 0.1 * (step // 4 % 2)
            optimizer.param_groups[0]["nesterov"] = step > 6
            optimizer.step()
    a.flush()
    assert_alike(a, mine, b, theirs)


def test_an_embedding_that_asks_for_its_rows_trains_as_a_dense_one():
    torch.manual_seed(0)
    mine = nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Linear(4, 3)).double()
    theirs = nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 3)).double()
    theirs.load_state_dict(mine.state_dict())
    a, b = tw.AdamW(mine.parameters(), lr=0.05, sparse="exact"), tw.AdamW(theirs.parameters(), lr=0.05)
    mine[0].register_forward_pre_hook(lambda module, inputs: a.flush(module.weight, inputs[0]))
    for _ in range(40):
        words, target = torch.randint(20, (3, 2)), torch.randn(3, 2, 3).double()
        for net, optimizer in ((mine, a), (theirs, b)):
            optimizer.zero_grad()
            (net(words) - target).square().sum().backward()
            optimizer.step()
    a.flush()
    torch.testing.assert_close(mine[0].weight, theirs[0].weight, rtol=1e-11, atol=1e-12)


# --- the series ---


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.99, 0.999), (0.5, 0.9)])
@pytest.mark.parametrize("degree", [12])
def test_the_series_leaves_out_less_than_it_says(betas, degree):
    """Oracle: the sum over the steps, element by element."""
    h = {"lr": 1.0, "betas": betas, "eps": 1e-3, "weight_decay": 0.0}
    optimizer = tw.Adam([leaf(rand(2, 2))], **h, sparse="exact")
    recipe = optimizer.recipe_of(optimizer.param_groups[0])
    numbers = recipe.numbers(optimizer.param_groups[0])
    resting = Resting.of_flags(recipe, recipe.flags(numbers), degree)
    for begin in (0, 7):
        gone = past.Past(resting)
        roots_before = torch.logspace(-9, 4, 60, dtype=torch.float64)
        moved = torch.zeros(60, dtype=torch.float64)
        size = 0.0
        for n in range(1, 120):
            t = begin + n
            scalars = recipe.scalars(numbers, type("t", (), {"step": float(t)}))
            gone.record(scalars, numbers, type("t", (), {"step": float(t)}))
            step = betas[0] ** n / (1 - betas[0] ** t)
            root = roots_before * betas[1] ** (n / 2) / (1 - betas[1] ** t) ** 0.5
            moved += step / (root + h["eps"])
            size += step
        s = dict(
            zip(resting.columns, torch.from_numpy(gone.amounts(torch.tensor([0]).numpy()))[0], strict=True)
        )
        slots = {"exp_avg": torch.ones(60).double(), "exp_avg_sq": roots_before**2}
        p, _ = resting.apply(torch.zeros(60).double(), None, slots, type("s", (), s), None)
        # Relative to what is least, as the bound is: over `x q' + eps` as far as the steps go for large eps.
        scale = h["eps"] / s["half_0"]
        error = ((-p - moved).abs() * (roots_before + s["half_0"]) * scale / size).max()
        assert error <= roots.error(*betas, degree) + 1e-13


def test_a_good_degree_is_enough():
    assert roots.error(0.9, 0.999, 12) < 1e-7
    assert roots.error(0.9, 0.999, 32) < 1e-13
    errors = [roots.error(0.9, 0.95, degree) for degree in DEGREES]
    assert errors == sorted(errors, reverse=True)


def test_what_is_not_finite_stays_in_its_rows():
    mine = leaf(torch.zeros(3, 2).double())
    optimizer = tw.Adam([mine], lr=0.1, sparse="exact")
    for step in range(5):
        values = torch.tensor([[torch.inf, 1.0]]).double() if step == 1 else torch.ones(1, 2).double()
        mine.grad = torch.sparse_coo_tensor([[step % 2]], values, (3, 2))
        optimizer.step()
    optimizer.flush()
    assert mine[0].isfinite().all()
    assert mine[2].eq(0).all()
    assert mine[1, 1].isfinite()


# --- when rows are brought up to date ---


def started(**options):
    mine, theirs = twins()
    a, b = tw.AdamW(mine, lr=0.1, sparse="exact", **options), tw.AdamW(theirs, lr=0.1, **options)
    follow(a, mine, b, theirs, 9)
    assert not torch.equal(mine[0], theirs[0])
    return a, mine, b, theirs


WAYS = {
    "state_dict": lambda a: a.state_dict(),
    "full_precision_state_dict": lambda a: a.full_precision_state_dict(),
    "full_precision_weights": lambda a: a.full_precision_weights(),
    "eval": lambda a: a.eval(),
    "pickle": lambda a: pickle.dumps(a),
    "deepcopy": lambda a: copy.deepcopy(a),
    "flush": lambda a: [a.flush(p) for p in a.param_groups[0]["params"]],
}


@pytest.mark.parametrize("way", WAYS)
def test_who_asks_for_weights_or_state_finds_them_up_to_date(way):
    a, mine, b, theirs = started()
    WAYS[way](a)
    assert_alike(a, mine, b, theirs)
    follow(a, mine, b, theirs, 6, begin=9)
    a.flush()
    assert_alike(a, mine, b, theirs)


def test_averaged_flushes_first():
    mine, _ = twins()
    a = tw.SGD(
        [{"params": [mine[0]], "momentum": 0.9, "sparse": "exact"}, {"params": [mine[1]], "average": 0.5}]
    )
    give(mine, mine, 0, count=2)
    for step in range(3):
        give(mine, [leaf(p) for p in mine], step, count=2)
        a.step()
    twin = copy.deepcopy(mine[0].detach())
    with a.averaged():
        assert not torch.equal(mine[0], twin)
        assert not a._rests


def test_some_rows_alone():
    a, mine, _, theirs = started()
    before = mine[0].detach().clone()
    rows = torch.tensor([[3, 7], [7, 0]])
    a.flush(mine[0], rows)
    named_rows = torch.tensor([0, 3, 7])
    torch.testing.assert_close(mine[0][named_rows], theirs[0][named_rows], rtol=1e-12, atol=1e-12)
    others = [i for i in range(12) if i not in (0, 3, 7)]
    assert torch.equal(mine[0][others], before[others])
    with pytest.raises(ValueError, match="rows must come with the param"):
        a.flush(rows=rows)
    for wrong in (12, -1):
        with pytest.raises(ValueError, match=rf"rows must be in \[0, 12\), not {wrong}"):
            a.flush(mine[0], torch.tensor([1, wrong]))


def test_a_step_that_is_not_taken_is_not_missed():
    mine, theirs = twins()
    a = tw.Adam(mine, lr=0.1, sparse="exact", skip_nonfinite=9)
    b = tw.Adam(theirs, lr=0.1, skip_nonfinite=9)
    for step in range(12):
        give(mine, theirs, step, count=2)
        if step % 4 == 1:
            mine[0].grad._values()[0] = torch.nan
            theirs[0].grad[0] = torch.nan
        a.step()
        b.step()
    a.flush()
    assert_alike(a, mine, b, theirs)


def test_what_is_loaded_is_as_it_was_saved():
    a, mine, b, theirs = started()
    weights, saved = None, copy.deepcopy(a.state_dict())
    weights = [p.detach().clone() for p in mine]
    follow(a, mine, b, theirs, 5, begin=9)
    with torch.no_grad():
        for p, before in zip(mine, weights, strict=True):
            p.copy_(before)
    a.load_state_dict(saved)  # what rows have missed since is not for these weights
    a.flush()
    for p, before in zip(mine, weights, strict=True):
        assert torch.equal(p, before)


def test_what_is_missed_after_loading_is_caught_up():
    mine, theirs = twins()
    a, b = tw.Adam(mine, lr=0.1, sparse="exact"), tw.Adam(theirs, lr=0.1)
    for p, q in zip(mine, theirs, strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    for optimizer in (a, b):
        optimizer.step()
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    follow(a, mine, b, theirs, 7)
    a.flush()
    assert_alike(a, mine, b, theirs)


def test_checkpoints_of_one_mode_go_on_in_the_other():
    a, mine, b, theirs = started()
    lazy = tw.AdamW(theirs, lr=0.1)
    lazy.load_state_dict(copy.deepcopy(a.state_dict()))
    assert lazy.param_groups[0]["sparse"] == "exact"  # what was trained
    exact = tw.AdamW(mine, lr=0.1, sparse="exact")
    exact.load_state_dict(copy.deepcopy(b.state_dict()))
    assert exact.param_groups[0]["sparse"] == "exact"
    follow(exact, mine, b, theirs, 6, begin=9)
    exact.flush()
    assert_alike(exact, mine, b, theirs)


def test_checkpoints_of_torchs_sparse_adam_both_ways():
    mine, theirs = twins(dtype=torch.float32)
    theirs = [leaf(q, torch.float32) for q in theirs]
    ours, other = tw.Adam(mine, lr=0.1, eps=1e-8), torch.optim.SparseAdam(theirs, lr=0.1)

    def train(one, params, begin):
        for step in range(begin, begin + 3):
            for i, p in enumerate(params):
                p.grad = named(tuple(p.shape), 3, 10 * step + i, torch.float32)
            one.step()

    train(ours, mine, 0)
    train(other, theirs, 0)
    swapped = tw.AdamW(theirs, lr=0.5, weight_decay=0.5)
    swapped.load_state_dict(other.state_dict())
    assert swapped.param_groups[0]["lr"] == 0.1
    assert swapped.param_groups[0]["weight_decay"] == 0
    back = torch.optim.SparseAdam(mine, lr=0.5)
    back.load_state_dict(ours.full_precision_state_dict())
    train(swapped, theirs, 3)
    train(back, mine, 3)
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# --- state in fewer bytes ---


def whole_rows(rows, shape, seed):
    return torch.sparse_coo_tensor(rows[None], rand(len(rows), *shape[1:], seed=seed).float(), shape)


@pytest.mark.parametrize("sparse", ["lazy", "exact"])
@pytest.mark.parametrize("state", ["int8", "bfloat16", {"exp_avg": "int8"}], ids=["int8", "bfloat16", "one"])
def test_bits_of_state_are_those_of_a_dense_step_of_the_rows(state, sparse):
    shape, named_rows = (70, 128), torch.tensor([3, 50, 69])
    mine = leaf(rand(*shape), torch.float32)
    theirs = leaf(mine)
    a, b = tw.AdamW([mine], lr=0.1, state=state, sparse=sparse), tw.AdamW([theirs], lr=0.1, state=state)
    for step in range(4):
        rows = torch.arange(70) if step < 3 else named_rows
        mine.grad = whole_rows(rows, shape, step)
        theirs.grad = mine.grad.to_dense()
        before = {key: value.clone() for key, value in a.state[mine].items()}
        a.step()
        b.step()
    assert (
        a.state[mine].keys() == b.state[theirs].keys() >= {"exp_avg_ratios" if "b" not in state else "step"}
    )
    others = [i for i in range(70) if i not in named_rows]
    assert torch.equal(mine[named_rows], theirs[named_rows])
    for key in a.state[mine].keys() - {"step"}:
        value, expected, old = (
            x.reshape(70, -1) for x in (a.state[mine][key], b.state[theirs][key], before[key])
        )
        assert torch.equal(value[named_rows], expected[named_rows])
        assert torch.equal(value[others], old[others])


@pytest.mark.parametrize("state", ["int8", "bfloat16"])
def test_exact_with_state_in_fewer_bytes(state):
    """Rests are rounded once where dense steps round each time: near, and without bias."""
    shape = (70, 128)
    mine = leaf(torch.zeros(shape), torch.float32)
    theirs = leaf(torch.zeros(shape), torch.float64)
    a, b = tw.AdamW([mine], lr=0.01, state=state, sparse="exact"), tw.AdamW([theirs], lr=0.01)
    for step in range(25):
        rows = torch.arange(70)[step % 5 :: 5]
        mine.grad = whole_rows(rows, shape, step)
        theirs.grad = mine.grad.to_dense().double()
        a.step()
        b.step()
    a.flush()
    difference = mine.double() - theirs
    assert difference.square().mean().sqrt() < 0.03 * theirs.square().mean().sqrt()
    assert difference.mean().abs() < 1e-3 * theirs.abs().mean()


def test_int8_is_for_rows_of_whole_blocks():
    mine = leaf(rand(100, 2, 64), torch.float32)
    optimizer = tw.Adam([mine], lr=0.1, state="int8")
    mine.grad = named((100, 2, 64), 5, 0, torch.float32, sparse_dims=2)
    optimizer.step()
    assert optimizer.state[mine]["exp_avg"].dtype == torch.float32
    mine.grad = named((100, 2, 64), 5, 1, torch.float32)
    other = leaf(mine)
    packed = tw.Adam([other], lr=0.1, state="int8")
    other.grad = mine.grad.clone()
    packed.step()
    assert packed.state[other]["exp_avg_ratios"].dtype == torch.int8
    other.grad = named((100, 2, 64), 5, 2, torch.float32, sparse_dims=2)
    before = other.detach().clone()
    with pytest.raises(ValueError, match="state='int8' began with gradients that index 1 dimension, not 2"):
        packed.step()
    assert torch.equal(other, before)


# --- row-wise Adagrad ---


def test_rowwise_adagrad():
    """Oracle: by hand, in float64."""
    shapes = ((9, 4), (6, 3, 2), (5,))
    params = [leaf(rand(*shape, seed=i)) for i, shape in enumerate(shapes)]
    expected = [p.detach().clone() for p in params]
    sums = [torch.full(p.shape[:1], 0.1, dtype=torch.float64) for p in params]
    settings = {
        "lr": 0.1,
        "lr_decay": 0.1,
        "eps": 1e-3,
        "initial_accumulator_value": 0.1,
        "weight_decay": 0.01,
    }
    optimizer = tw.Adagrad(params, **settings, rowwise=True, maximize=True)
    keys = ["sum_rows", "sum_rows", "sum"]  # a vector's rows are its elements
    assert [tuple(optimizer.state[p][key].shape) for p, key in zip(params, keys, strict=True)] == [
        (9,),
        (6,),
        (5,),
    ]
    for step in range(6):
        for i, (p, q, total) in enumerate(zip(params, expected, sums, strict=True)):
            grad = named(tuple(p.shape), 3, 10 * step + i) if step % 2 else rand(*p.shape, seed=10 * step + i)
            p.grad = grad
            rows = grad.coalesce().indices()[0] if grad.is_sparse else torch.arange(len(p))
            g = -grad.to_dense()[rows] + 0.01 * q[rows]
            total[rows] += g.reshape(len(rows), -1).square().mean(1)
            divisor = (total[rows].sqrt() + 1e-3).reshape(-1, *[1] * (p.dim() - 1))
            q[rows] -= 0.1 / (1 + 0.1 * step) * g / divisor
        optimizer.step()
        for p, q, total, key in zip(params, expected, sums, keys, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-14, atol=1e-14)
            torch.testing.assert_close(optimizer.state[p][key], total, rtol=1e-14, atol=1e-14)


def test_rowwise_adagrad_in_checkpoints_and_with_all_else():
    mine, theirs = leaf(rand(8, 4), torch.bfloat16), leaf(rand(8, 4), torch.bfloat16)
    a = tw.Adagrad([mine], lr=0.1, rowwise=True, state="int8", weight_bits=32, max_norm=1.0, sparse="exact")
    for step in range(3):
        mine.grad = named((8, 4), 3, step, torch.bfloat16)
        a.step()
    saved = copy.deepcopy(a.state_dict())
    theirs.data.copy_(mine.data)
    b = tw.Adagrad([theirs], lr=0.5, weight_bits=32)
    b.load_state_dict(saved)
    assert b.param_groups[0]["rowwise"]
    assert b.state[theirs]["sum_rows"].dtype == torch.float32
    for one, p in ((a, mine), (b, theirs)):
        p.grad = named((8, 4), 3, 7, torch.bfloat16)
        one.step()
    assert torch.equal(mine, theirs)
    assert torch.equal(a.state[mine]["sum_rows"], b.state[theirs]["sum_rows"])
    saved["state"][0]["sum_rows"] = torch.zeros(3)
    with pytest.raises(
        ValueError, match=r"state 'sum_rows' must have one number for each row .*\(8,\), not \(3,\)"
    ):
        b.load_state_dict(saved)
    mine.grad = named((8, 4), 3, 7, torch.bfloat16, sparse_dims=2)
    with pytest.raises(ValueError, match="rowwise=True needs sparse gradients that index 1 dimension, not 2"):
        a.step()


# --- what cannot be ---


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Adam", {"weight_decay": 0.1}, "weight_decay must be 0 or decoupled with sparse='exact', not 0.1"),
        ("RMSprop", {"weight_decay": 0.1}, "weight_decay must be 0 or decoupled"),
        ("Adagrad", {"weight_decay": 0.1}, "weight_decay must be 0 or decoupled"),
        ("Adam", {"eps": 0.0}, "eps must be above 0 with sparse='exact', not 0.0"),
        ("Adam", {"betas": (0.9, 0.81)}, r"betas must have the first well below .* not \(0.9, 0.81\)"),
        ("RMSprop", {"centered": True, "amsgrad": True}, "centered must be False with sparse='exact'"),
        ("Lion", {}, "sparse must be 'lazy', not 'exact', with lion"),
        ("Adamax", {}, "sparse must be 'lazy', not 'exact', with adamax"),
        ("Adam", {"lamb": True}, "sparse must be 'lazy', not 'exact', with lamb=True"),
        ("SGD", {"average": 0.9}, "sparse must be 'lazy', not 'exact', with average=0.9"),
        ("SGD", {"cautious": True}, "sparse must be 'lazy', not 'exact', with cautious=True"),
        ("Adam", {"differentiable": True}, "sparse='exact' needs differentiable=False"),
        ("Adam", {"capturable": True}, "sparse='exact' needs capturable=False"),
    ],
)
def test_what_cannot_be_summed_up_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(tw, name)([leaf(rand(2, 2))], **options, sparse="exact")
    optimizer = getattr(tw, name)([leaf(rand(2, 2))], **options)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [leaf(rand(2, 2))], "sparse": "exact"})


def test_words_are_checked():
    with pytest.raises(ValueError, match="sparse must be 'lazy' or 'exact', not 'dense'"):
        tw.Adam([leaf(rand(2, 2))], sparse="dense")


def test_what_is_changed_later_is_refused_before_anything_moves():
    mine, theirs = twins()
    a = tw.Adam(mine, lr=0.1, sparse="exact")
    give(mine, theirs, 0)
    a.step()
    a.param_groups[0]["weight_decay"] = 0.1
    before = [p.detach().clone() for p in mine]
    give(mine, theirs, 2)
    with pytest.raises(ValueError, match="weight_decay must be 0"):
        a.step()
    assert all(map(torch.equal, mine, before))


# --- rows that are not named are not touched ---

GUARDED = """
import ctypes, mmap, torch, thalweg as tw
libc = ctypes.CDLL(None, use_errno=True)
ROWS, WIDTH = 512, mmap.PAGESIZE // 4  # a row is a page

def guarded(value):
    memory = mmap.mmap(-1, ROWS * mmap.PAGESIZE)
    tensor = torch.frombuffer(memory, dtype=torch.float32).reshape(ROWS, WIDTH)
    maps.append((memory, tensor.data_ptr()))
    return tensor.copy_(value)

def protect(how, but=()):
    for _, start in maps:
        for row in range(ROWS):
            at = ctypes.c_void_p(start + row * mmap.PAGESIZE)
            assert not libc.mprotect(at, mmap.PAGESIZE, 3 if row in but else how)

def grad(rows):
    return torch.sparse_coo_tensor([rows], torch.ones(len(rows), WIDTH), (ROWS, WIDTH))

for name, options in CASES:
    maps = []
    param = torch.nn.Parameter(guarded(torch.ones(ROWS, WIDTH)))
    optimizer = getattr(tw, name)([param], lr=0.1, **options)
    param.grad = grad([1, 7])
    optimizer.step()
    state = optimizer.state[param]
    state.update({key: guarded(value) for key, value in state.items() if value.shape == param.shape})
    for rows in ([3, 300], [7, 1, 7], [300], [1, 3]):
        param.grad = grad(rows)
        protect(0, but=rows)
        optimizer.step()
        protect(3)
    assert param[3, 5] < 1 and param[2, 5] == 1, name
print(len(maps))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is forbidden by mprotect")
def test_other_rows_are_neither_read_nor_written():
    cases = [
        ("Adam", {}),
        ("Adam", {"sparse": "exact", "max_norm": 1.0}),
        ("SGD", {"momentum": 0.9, "sparse": "exact"}),
    ]
    program = GUARDED.replace("CASES", repr(cases))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == 2


def test_a_recipe_without_rests_is_no_other():
    assert Recipe.of(tw.Adam.rule) is tw.Adam([leaf(rand(2, 2))]).recipe_of({})
