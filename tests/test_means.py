"""Second moments kept as means over rows, columns, tensors. Oracle: torch's operations by hand in float64."""

from __future__ import annotations

import copy
import os
from functools import partial
from itertools import product

import pytest
import torch
from interpreter import INTERPRETED, smaller
from support import assert_close, leaf, rand
from torch import Tensor

import thalweg as tw
from thalweg.stepping import plan
from thalweg.stepping.batches import DenseBatch, ReferenceBatch

WAYS = ("kernel", "reference")


@pytest.fixture(autouse=True)
def way(request, monkeypatch):
    """Step by the kernel, unless the test asks for both ways."""
    asked = getattr(request, "param", "kernel")
    if asked == "reference":
        by_reference(monkeypatch)
    return asked


def by_reference(monkeypatch) -> None:
    monkeypatch.setattr(plan, "batch_for", lambda sort: ReferenceBatch)


both_ways = pytest.mark.parametrize("way", WAYS, indirect=True)


PERS = ("row", "column", "tensor")

WANTS_ALL = os.environ.get("THALWEG_TEST_ADDITIONS") == "all"

ROWS = smaller(64, 32)
"""Of 128 columns; fewer elements than 4,096 would have whole moments."""


def mean(g: Tensor, s: dict) -> Tensor:
    """Return the mean square of each row, of shape (rows, 1, ...); of what `s["per"]` says, likewise."""
    over = {"row": range(1, g.dim()), "column": [0], "tensor": range(g.dim())}[s.get("per", "row")]
    return g.square().mean(tuple(over), keepdim=True)


def adam(p, g, s, t, lr=0.01, b1=0.9, b2=0.99, eps=1e-3, decay=0.0, amsgrad=False):
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * mean(g, s)
    v = s["v"]
    if amsgrad:
        v = s["most"] = torch.maximum(s.get("most", torch.zeros_like(v)), v)
    return p - lr * decay * p - lr * s["m"] / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + eps)


def nadam(p, g, s, t, lr=0.01, b1=0.9, b2=0.99, eps=1e-3):
    now, following = (b1 * (1 - 0.5 * 0.96 ** (k * 0.004)) for k in (t, t + 1))
    s["product"] = torch.tensor(s.get("product", 1.0) * now, dtype=torch.float32).item()  # as it is kept
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * mean(g, s)
    root = (s["v"] / (1 - b2**t)).sqrt() + eps
    gradient = (1 - now) * g / (1 - s["product"])
    return p - lr * (gradient + following * s["m"] / (1 - s["product"] * following)) / root


def radam(p, g, s, t, lr=0.01, b1=0.9, b2=0.99, eps=1e-3):
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * mean(g, s)
    most = 2 / (1 - b2) - 1
    length = most - 2 * t * b2**t / (1 - b2**t)
    m = s["m"] / (1 - b1**t)
    if length <= 5:
        return p - lr * m
    r = ((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)) ** 0.5
    return p - lr * m * r * (1 - b2**t) ** 0.5 / (s["v"].sqrt() + eps)


def rmsprop(p, g, s, t, lr=0.01, alpha=0.9, eps=1e-3, momentum=0.5):
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * mean(g, s)
    s["b"] = momentum * s.get("b", 0) + g / (s["v"].sqrt() + eps)
    return p - lr * s["b"]


def adagrad(p, g, s, t, lr=0.01, eps=1e-3):
    s["v"] = s.get("v", 0) + mean(g, s)
    return p - lr * g / (s["v"].sqrt() + eps)


def adadelta(p, g, s, t, lr=0.5, rho=0.9, eps=1e-3):
    s["v"] = rho * s.get("v", 0) + (1 - rho) * mean(g, s)
    delta = (s.get("u", 0 * p) + eps).sqrt() / (s["v"] + eps).sqrt() * g
    s["u"] = rho * s.get("u", 0) + (1 - rho) * delta.square()
    return p - lr * delta


BETAS = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-3}
RULES = {
    "Adam": (adam, BETAS, "exp_avg_sq"),
    "AdamW": (partial(adam, decay=0.1), {**BETAS, "weight_decay": 0.1}, "exp_avg_sq"),
    "Adam, amsgrad": (partial(adam, amsgrad=True), {**BETAS, "amsgrad": True}, "exp_avg_sq"),
    "NAdam": (nadam, BETAS, "exp_avg_sq"),
    "RAdam": (radam, BETAS, "exp_avg_sq"),
    "RMSprop": (rmsprop, {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "momentum": 0.5}, "square_avg"),
    "Adagrad": (adagrad, {"lr": 0.01, "eps": 1e-3}, "sum"),
    "Adadelta": (adadelta, {"lr": 0.5, "rho": 0.9, "eps": 1e-3}, "square_avg"),
}


def made(name: str, params: list[Tensor], per: str = "row", **options) -> tw.Optimizer:
    _, given, slot = RULES[name]
    state = {slot: per, **options.pop("state", {})}
    return getattr(tw, name.partition(",")[0])(params, **given, **options, state=state)


def rows_of(optimizer: tw.Optimizer, p: Tensor, slot: str) -> Tensor:
    return optimizer.state[p][f"{slot}_rows"]


ALL = [(name, "row", way) for name in RULES for way in WAYS]
ALL += [("Adam, amsgrad", "column", way) for way in WAYS]
ALL += [(name, per, "kernel") for name in RULES for per in PERS if (name, per, "kernel") not in ALL]


@pytest.mark.parametrize(("name", "per", "way"), ALL, indirect=["way"])
def test_means_are_all_that_is_kept(name, per, way):
    """Of matrices, convolutions, and long rows; gradients differ in scale from row to row."""
    formula, _, slot = RULES[name]
    shapes = smaller([(37, 113), (8, 64, 3, 3), (2, 5000)], [(4, 16, 8, 9), (2, 2500)])
    params = [leaf(rand(*shape, seed=i)) for i, shape in enumerate(shapes)]
    expected, states = [p.detach().clone() for p in params], [{"per": per} for _ in params]
    optimizer = made(name, params, per)
    for t in range(1, smaller(8, 6)):
        for i, (p, q) in enumerate(zip(params, expected, strict=True)):
            scale = torch.arange(1.0, len(p) + 1).reshape(-1, *[1] * (p.dim() - 1))
            p.grad = rand(*p.shape, seed=10 * t + i) * scale
            expected[i] = formula(q, p.grad.double(), states[i], t)
        optimizer.step()
    (batch,) = optimizer._stepper.plan.batches
    has_kernel = way == "kernel" and per in (("row",) if INTERPRETED else ("row", "tensor"))
    assert type(batch) is (DenseBatch if has_kernel else ReferenceBatch)
    for p, q, s in zip(params, expected, states, strict=True):
        assert_close(p.detach(), q, 1e-12)
        ending = {"row": "rows", "column": "columns", "tensor": "tensor"}[per]
        assert_close(optimizer.state[p][f"{slot}_{ending}"], s["v"].flatten(), 1e-12)
        if "most" in s:
            assert_close(optimizer.state[p][f"max_{slot}_{ending}"], s["most"].flatten(), 1e-12)


@both_ways
def test_decay_of_gradients_clipping_and_the_sign_come_before_the_mean():
    p = leaf(rand(64, 70))
    q, s, v = p.detach().clone(), {}, 0.05
    optimizer = tw.Adam(
        [p], **BETAS, weight_decay=0.1, max_value=v, maximize=True, state={"exp_avg_sq": "row"}
    )
    for t in range(1, 4):
        p.grad = rand(64, 70, seed=t)
        q = adam(q, (-p.grad).clamp(-v, v) + 0.1 * q, s, t)
        optimizer.step()
    assert_close(p.detach(), q, 1e-12)


@both_ways
@pytest.mark.parametrize(
    "option", [{"lamb": True}, {"max_step_rms": 0.1}, {"statistics": True, "average": 0.9}]
)
@pytest.mark.parametrize("per", PERS)
def test_what_is_measured_of_the_step_is_that_of_the_means(option, per):
    """Oracle: gradients whose squares are alike in a row, of which full second moments are the same."""
    p, q = leaf(rand(ROWS, 128)), leaf(rand(ROWS, 128))
    a = tw.AdamW([p], lr=0.1, **option, state={"exp_avg_sq": per})
    b = tw.AdamW([q], lr=0.1, **option)
    sizes = {"row": (ROWS, 1), "column": (1, 128), "tensor": (1, 1)}[per]
    for t in range(4):
        scale = torch.rand(sizes, generator=torch.Generator().manual_seed(t))
        q.grad = rand(ROWS, 128, seed=t).sign() * scale
        p.grad = q.grad.clone()
        a.step()
        b.step()
    assert_close(p, q.detach(), 1e-12)
    if "statistics" in option:
        for key, value in a.statistics()[0].items():
            assert float(value) == pytest.approx(float(b.statistics()[0][key]), rel=1e-12)


BESIDE = list(product(("float32", "bfloat16", "int8"), (torch.float32, torch.bfloat16), (128, 100)))
if not WANTS_ALL:  # each pair of two of the three
    BESIDE = [one for one, parity in zip(BESIDE, (0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0), strict=True) if parity]


@both_ways
@pytest.mark.parametrize(("stored", "dtype", "columns"), BESIDE)
def test_beside_it_other_slots_are_stored_as_they_are_asked_for(stored, dtype, columns):
    """int8 where rows have whole blocks, and bfloat16 where they have not."""
    p = leaf(rand(smaller(48, 41), columns), dtype)
    expected, s = p.detach().double(), {}
    bits = {"weight_bits": 32} if dtype == torch.bfloat16 else {}
    optimizer = made("AdamW", [p], state={"exp_avg": stored}, **bits)
    for t in range(1, 4):
        p.grad = rand(smaller(48, 41), columns, seed=t).to(dtype)
        expected = adam(expected, p.grad.double(), s, t, decay=0.1)
        optimizer.step()
    state = optimizer.state[p]
    assert_close(state["exp_avg_sq_rows"], s["v"].flatten().float(), 1e-6)
    error = {"float32": 1e-6, "bfloat16": 1e-3, "int8": 1e-2}
    weights = optimizer.full_precision_weights() if bits else p
    found = next(iter(weights.values())) if bits else p
    assert_close(found.detach().double(), expected, 0, error[stored])
    held = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
    key = "exp_avg_ratios" if stored == "int8" and columns == 128 else "exp_avg"
    assert state[key].dtype == (held[stored] if columns == 128 or stored != "int8" else torch.bfloat16)


@pytest.mark.parametrize("columns", [100, 128])
@pytest.mark.parametrize("per", ["column", "tensor"])
def test_beside_columns_and_tensors_blocks_go_on_from_row_to_row(per, columns):
    p = leaf(rand(47, columns), torch.float32)
    expected, s = p.detach().double(), {"per": per}
    optimizer = made("AdamW", [p], per, state={"exp_avg": "int8"})
    for t in range(1, 4):
        p.grad = rand(47, columns, seed=t).float()
        expected = adam(expected, p.grad.double(), s, t, decay=0.1)
        optimizer.step()
    assert optimizer.state[p]["exp_avg_ratios"].dtype == torch.int8
    key = "exp_avg_sq_columns" if per == "column" else "exp_avg_sq_tensor"
    assert_close(optimizer.state[p][key], s["v"].flatten().float(), 1e-6)
    assert_close(p.detach().double(), expected, 0, 1e-2)


@pytest.mark.parametrize(("per", "columns"), [("row", 192), ("tensor", 100)])
def test_kernel_and_reference_round_alike(monkeypatch, per, columns):
    """Random words go by the row and the place in it, on both ways; those of a tensor by the place alone."""
    found = []
    for by_kernel in (True, False):
        p = leaf(rand(48, columns), torch.float32)
        optimizer = made("AdamW", [p], per, state={"exp_avg": "int8"})
        if not by_kernel:
            by_reference(monkeypatch)
        for t in range(3):
            p.grad = rand(48, columns, seed=t).float()
            optimizer.step()
        found.append(optimizer.state[p]["exp_avg_ratios"])
    # A product that is fused may fall to the other side of a code's edge.
    assert (found[0] != found[1]).float().mean() < 1e-3


@pytest.mark.parametrize("per", PERS)
def test_threads_do_not_matter(per):
    found, shape = [], smaller((300, 640), (8, 640))
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            p = leaf(rand(*shape), torch.float32)
            optimizer = made("AdamW", [p], per, state={"exp_avg": "int8"})
            for t in range(3):
                p.grad = rand(*shape, seed=t).float()
                optimizer.step()
        finally:
            torch.set_num_threads(before)
        found.append((p.detach(), *optimizer.state[p].values()))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided"])
@pytest.mark.parametrize("per", PERS)
def test_rows_and_columns_are_those_of_the_shape_whatever_the_memory(layout, per):
    p = {
        "channels_last": lambda: rand(8, 64, 3, 3).to(memory_format=torch.channels_last),
        "transposed": lambda: rand(90, 60).t(),
        "strided": lambda: rand(60, 180)[:, ::2],
    }[layout]()
    twin, mine = leaf(p.contiguous()), p.detach().requires_grad_()
    a, b = made("AdamW", [mine], per), made("AdamW", [twin], per)
    for t in range(3):
        twin.grad = rand(*p.shape, seed=t)
        mine.grad = twin.grad.clone()
        a.step()
        b.step()
    assert_close(mine.detach(), twin.detach(), 1e-13)
    (key,) = a.state[mine].keys() - {"step", "exp_avg"}
    assert_close(a.state[mine][key], b.state[twin][key], 1e-13)


@both_ways
@pytest.mark.parametrize("name", ["AdamW", "Adagrad"])
def test_a_sparse_step_is_a_dense_one_of_its_rows(name):
    named, slot = [2, 50, 99], RULES[name][2]
    p = leaf(rand(100, 64))
    q, s = p.detach()[named].clone(), {}
    before, optimizer = p.detach().clone(), made(name, [p])
    for t in range(1, 4):
        g = rand(3, 64, seed=t)
        p.grad = torch.sparse_coo_tensor([named[::-1]], g.flip(0), (100, 64))
        q = RULES[name][0](q, g, s, t)
        optimizer.step()
    others = [i for i in range(100) if i not in named]
    assert_close(p.detach()[named], q, 1e-13)
    assert torch.equal(p.detach()[others], before[others])
    assert_close(rows_of(optimizer, p, slot)[named], s["v"].flatten(), 1e-13)
    assert not rows_of(optimizer, p, slot)[others].any()


@pytest.mark.parametrize("per", PERS)
def test_what_has_no_rows_or_is_small_stays_whole(per):
    shapes = [(5000,), (), (63, 65), (64, 64)]
    params = [leaf(rand(*shape), torch.float32) for shape in shapes]
    params.append(torch.complex(rand(64, 64), rand(64, 64)).requires_grad_())
    optimizer = made("AdamW", params, per)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    kept = ["exp_avg_sq" not in optimizer.state[p] for p in params]
    assert kept == [False, False, False, True, False]


@pytest.mark.parametrize("per", ["column", "tensor"])
@pytest.mark.parametrize("begun", [False, True])
def test_sparse_gradients_are_for_rows_alone(per, begun):
    p = leaf(rand(100, 64))
    optimizer = made("AdamW", [p], per)
    if begun:
        p.grad = rand(100, 64, seed=1)
        optimizer.step()
    before, state = p.detach().clone(), copy.deepcopy(optimizer.state_dict()["state"])
    p.grad = torch.sparse_coo_tensor([[2, 50]], rand(2, 64), (100, 64))
    with pytest.raises(ValueError, match=rf"state\['exp_avg_sq'\]='{per}' needs dense gradients"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.state_dict()["state"].keys() == state.keys()
    p.grad = p.grad.to_dense()
    optimizer.step()
    assert not torch.equal(p, before)


def test_bytes_of_a_parameter():
    """Codes and their scales, rows, the counter: 1.02 a parameter of 1,024 x 1,024."""
    n = smaller(1024, 64)
    p = leaf(rand(n, n), torch.float32)
    p.grad = torch.ones_like(p)
    optimizer = made("AdamW", [p], state={"exp_avg": "int8"})
    optimizer.step()
    size = sum(t.nelement() * t.element_size() for t in optimizer.state[p].values())
    assert size == n * n * 66 // 64 + 4 * n + 4


def test_memory_counts_it():
    n = smaller(1024, 64)
    model = torch.nn.Linear(n, n, bias=False)
    slim = partial(tw.AdamW, state={"exp_avg": "int8", "exp_avg_sq": "row"})
    (row,) = tw.memory(model, [slim]).rows
    assert row.state == n * n * 66 // 64 + 4 * n + 4


# --- checkpoints ---


def trained(state=None) -> tuple[Tensor, tw.Optimizer]:
    p = leaf(rand(ROWS, 128), torch.float32)
    optimizer = tw.AdamW([p], **BETAS, **({} if state is None else {"state": state}))
    for t in range(3):
        p.grad = rand(ROWS, 128, seed=t).float()
        optimizer.step()
    return p, optimizer


KEYS = {"row": "exp_avg_sq_rows", "column": "exp_avg_sq_columns", "tensor": "exp_avg_sq_tensor"}


def spread(optimizer: tw.Optimizer, p: Tensor, per: str) -> Tensor:
    """Return the means that are kept, as large as their parameter."""
    shape = {"row": (ROWS, 1), "column": (1, 128), "tensor": (1, 1)}[per]
    return optimizer.state[p][KEYS[per]].reshape(shape).expand(ROWS, 128)


@pytest.mark.parametrize("per", PERS)
@pytest.mark.parametrize("saved", [None, "bfloat16", "int8", "torch", *PERS])
def test_a_second_moment_is_averaged(saved, per):
    if saved == per:
        saved = None
    if saved == "torch":
        p = leaf(rand(ROWS, 128), torch.float32)
        there = torch.optim.AdamW([p], **BETAS)
        p.grad = rand(ROWS, 128, seed=1).float()
        there.step()
        full = there.state[p]["exp_avg_sq"]
    else:
        p, there = trained({"exp_avg_sq": saved} if saved in PERS else saved)
        full = there.full_precision_state_dict()["state"][0]["exp_avg_sq"]
    q, here = trained({"exp_avg_sq": per})
    here.load_state_dict(copy.deepcopy(there.state_dict()))
    assert set(here.state[q]) == {"step", "exp_avg", KEYS[per]}
    dims = {"row": 1, "column": 0, "tensor": (0, 1)}[per]
    assert_close(here.state[q][KEYS[per]], full.mean(dims).flatten(), 1e-6)


@pytest.mark.parametrize("per", PERS)
@pytest.mark.parametrize("loaded", [None, "bfloat16", "int8"])
def test_means_are_spread_over_their_elements(loaded, per):
    p, there = trained({"exp_avg_sq": per})
    _, here = trained(loaded)
    here.load_state_dict(copy.deepcopy(there.state_dict()))
    full = here.full_precision_state_dict()["state"][0]["exp_avg_sq"]
    error = {None: 0, "bfloat16": 2**-8, "int8": 2**-5}[loaded]
    assert_close(full, spread(there, p, per), error)


@pytest.mark.parametrize("per", PERS)
def test_torch_takes_the_full_form_and_misses_the_other(per):
    p, optimizer = trained({"exp_avg_sq": per})
    q = leaf(p)
    theirs = torch.optim.AdamW([q], **BETAS)
    theirs.load_state_dict(optimizer.full_precision_state_dict())
    assert_close(theirs.state[q]["exp_avg_sq"], spread(optimizer, p, per), 0)
    theirs.load_state_dict(optimizer.state_dict())
    q.grad = torch.ones_like(q)
    with pytest.raises(KeyError, match="exp_avg_sq"):
        theirs.step()


@pytest.mark.parametrize("per", PERS)
def test_a_resumed_run_is_the_uninterrupted_one(per):
    p, a = trained({"exp_avg": "int8", "exp_avg_sq": per})
    q, b = trained({"exp_avg": "int8", "exp_avg_sq": per})
    q.data.copy_(p.data)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for one, other in ((a, p), (b, q)):
        other.grad = rand(ROWS, 128, seed=9).float()
        one.step()
    assert torch.equal(p, q)
    assert all(map(torch.equal, a.state[p].values(), b.state[q].values()))


@pytest.mark.parametrize(("per", "count"), [("row", ROWS), ("column", 128), ("tensor", 1)])
def test_means_of_another_number_are_refused(per, count):
    q, here = trained({"exp_avg_sq": per})
    saved = copy.deepcopy(here.state_dict())
    saved["state"][0][KEYS[per]] = torch.zeros(3)
    said = rf"'{KEYS[per]}' must have one number for each {per} .*\({count},\), not \(3,\)"
    with pytest.raises(ValueError, match=said):
        here.load_state_dict(saved)
    assert len(here.state[q][KEYS[per]]) == count


# --- what cannot be ---


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("AdamW", {"state": "row"}, "state must be 'float32' or 'bfloat16' or 'int8' or 'block8', or a dict"),
        (
            "AdamW",
            {"state": {"exp_avg": "row"}},
            "for second moments; of the slots of adamw? that is exp_avg_sq",
        ),
        ("SGD", {"momentum": 0.9, "state": {"momentum_buffer": "row"}}, "of the slots of sgd that is none"),
        ("Adamax", {"state": {"exp_inf": "row"}}, "of the slots of adamax that is none"),
        ("Adadelta", {"state": {"acc_delta": "row"}}, "of the slots of adadelta that is square_avg"),
        ("RMSprop", {"centered": True, "state": {"square_avg": "row"}}, "needs centered=False"),
        ("Adam", {"amsgrad": True, "state": {"max_exp_avg_sq": "row"}}, r"needs state\['exp_avg_sq'\]='row'"),
        ("Adam", {"sparse": "exact", "state": {"exp_avg_sq": "row"}}, "needs sparse='lazy', not 'exact'"),
        ("Adam", {"differentiable": True, "state": {"exp_avg_sq": "row"}}, "needs differentiable=False"),
        ("Adagrad", {"sparse": "exact", "state": {"sum": "column"}}, "cannot catch up for its column"),
        ("Adagrad", {"rowwise": True, "state": {"sum": "tensor"}}, "needs rowwise=False"),
        (
            "Adam",
            {"amsgrad": True, "state": {"exp_avg_sq": "row", "max_exp_avg_sq": "column"}},
            r"needs state\['exp_avg_sq'\]='column'",
        ),
    ],
)
def test_it_is_said_at_construction_which_slots_have_no_rows(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(tw, name)([leaf(rand(64, 64))], **options)


# --- gradients that name parts of rows ---


BY_ROW = {"state": {"exp_avg_sq": "row"}}
NEEDS = r"state\['exp_avg_sq'\]='row' needs sparse gradients that index 1 dimension, not 2"
BEGAN = "state='int8' began with gradients that index 1 dimension, not 2"


@pytest.mark.parametrize(
    ("way", "begun", "options", "message"),
    [
        ("kernel", False, BY_ROW, NEEDS),
        ("kernel", True, BY_ROW, NEEDS),
        ("reference", False, BY_ROW, NEEDS),
        ("reference", True, BY_ROW, NEEDS),
        ("kernel", True, {"state": "int8"}, BEGAN),
    ],
    indirect=["way"],
)
def test_they_are_refused_before_anything_has_changed(options, message, begun):
    params = [leaf(rand(64, 64, seed=i), torch.float32) for i in range(3)]
    optimizer = tw.Adam(params, lr=0.1, **options)

    def give(dims: int) -> None:
        for i, p in enumerate(params):
            g = rand(64, 64, seed=5 + i).float()
            p.grad = g if i != 1 else (g * (torch.arange(64) < 3)[:, None]).to_sparse(dims)

    if begun:
        give(1)
        optimizer.step()
    weights = [p.detach().clone() for p in params]
    state = copy.deepcopy(optimizer.state_dict())
    give(2)
    for _ in range(2):  # the second time as well
        with pytest.raises(ValueError, match=message):
            optimizer.step()
    assert all(map(torch.equal, params, weights))
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    assert after["state"].keys() == state["state"].keys()
    for key, own in state["state"].items():
        assert own.keys() == after["state"][key].keys()
        assert all(torch.equal(value, after["state"][key][name]) for name, value in own.items())
    give(1)
    optimizer.step()
    assert not torch.equal(params[0], weights[0])
