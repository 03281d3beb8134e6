"""Additions: what they do to every rule, as plain torch operations do it around torch's own optimizers.

The oracles here are written from the papers and from torch's functions, and share nothing with the package.
`THALWEG_TEST_ADDITIONS=all` tries every addition with every rule; without it, each with a few.
"""

from __future__ import annotations

import copy
import gc
import io
import math
import os
import pickle
import warnings
import weakref

import pytest
import torch
from interpreter import INTERPRETED, smaller
from support import assert_close, follow, give, gradients, leaf, rand
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import thalweg as tw
from thalweg.additions import ADDITIONS
from thalweg.rule import LR, Rule, Slot
from thalweg.stepping import plan
from thalweg.stepping.batches import ReferenceBatch
from thalweg.stepping.pool import POOL
from thalweg.stepping.slots import values_of

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

WANTS_ALL = os.environ.get("THALWEG_TEST_ADDITIONS") == "all"

RULES = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"lr": 0.01, "weight_decay": 0.1},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
    "Adagrad": {"lr": 0.1, "weight_decay": 0.1},
    "Adadelta": {"lr": 0.5, "weight_decay": 0.1},
    "Adamax": {"lr": 0.01, "weight_decay": 0.1},
    "NAdam": {"lr": 0.01, "weight_decay": 0.1},
    "RAdam": {"lr": 0.01, "weight_decay": 0.1},
    "Lion": {"lr": 0.01, "weight_decay": 0.1},
}
ALWAYS_DECOUPLED = ("AdamW", "Lion")
ONLY_L2 = ("Adagrad", "Adadelta", "Adamax")

CASES = {
    "max_norm": {"max_norm": 20.0},
    "max_value": {"max_value": 0.5},
    "lars": {"lars": True, "trust_coefficient": 0.01},
    "cautious": {"cautious": True},
    "cautious decay": {"cautious_decay": True},
    "max_step_rms": {"max_step_rms": 0.7},
    "lamb": {"lamb": True},
    "independent": {"decay_by": "independent"},
    "corrected": {"decay_by": "corrected"},
    "lookahead": {"lookahead": 2, "lookahead_alpha": 0.3},
    "average": {"average": 0.9},
    "average every": {"average": 0.8, "average_every": 2, "average_warmup": True},
    "skip_nonfinite": {"skip_nonfinite": 3, "max_norm": 20.0},
    "maximize": {"maximize": True, "max_norm": 20.0, "cautious": True, "max_step_rms": 0.7},
    "many": {
        "max_norm": 20.0,
        "max_value": 0.5,
        "lars": True,
        "trust_coefficient": 1.0,
        "cautious": True,
        "max_step_rms": 0.7,
        "cautious_decay": True,
        "decay_by": "corrected",
        "lookahead": 2,
        "average": 0.9,
        "average_warmup": True,
        "statistics": True,
    },
}
DECOUPLED = ("cautious decay", "independent", "corrected", "many")
"""What is tried with decoupled decay; the others with a rule's own."""

SIZES = smaller((1, 7, 63, 64, 65, 4096, 70_000, 0), (1, 63, 65, 4100, 0))
RATES = (0.5, 1.0, 1.0, 0.3, 0.2, 0.6)
"""What the learning rate is multiplied by, step by step."""


def matrix():
    """Yield every addition with a few rules, or with all of them."""
    names = list(RULES)
    for i, case in enumerate(CASES):
        allowed = [name for name in names if case not in DECOUPLED or name not in ONLY_L2]
        few = [allowed[(3 * i + 7 * k) % len(allowed)] for k in range(smaller(3, 1))]
        for name in allowed if WANTS_ALL else dict.fromkeys(few):
            yield pytest.param(name, case, id=f"{name}-{case}")


class Lion(torch.optim.Optimizer):
    """Lion without decay, which torch lacks."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    m = self.state[p].get("exp_avg", torch.zeros_like(p))
                    p -= group["lr"] * torch.sign(0.9 * m + 0.1 * p.grad)
                    self.state[p]["exp_avg"] = 0.99 * m + 0.01 * p.grad


class Oracle:
    """torch's optimizer, with everything around it that additions do.

    The base optimizer has no decay: it is done here, in the gradient or beside the step.
    """

    def __init__(self, params, name, *, lr, weight_decay=0.0, decoupled=False, maximize=False, **options):
        said = {key: value for key, value in options.items() if key in ("momentum", "betas")}
        self.options = {key: value for key, value in options.items() if key not in said}
        self.params, self.lr, self.first_lr = params, lr, lr
        self.weight_decay, self.decoupled, self.maximize = weight_decay, decoupled, maximize
        base = {"AdamW": "Adam"}.get(name, name)
        self.base = (
            Lion(params, lr)
            if base == "Lion"
            else getattr(torch.optim, base)(params, lr=lr, foreach=False, **said)
        )
        self.slow, self.averages, self.updates, self.steps, self.largest = {}, {}, {}, {}, {}
        self.skipped, self.statistics = 0, {}

    def set_lr(self, lr):
        self.lr = self.base.param_groups[0]["lr"] = lr

    @torch.no_grad()
    def step(self, grads):
        o, params = self.options, self.params
        for p, g in zip(params, grads, strict=True):
            p.grad = None if g is None else (-g if self.maximize else g).clone()
        there = [p for p in params if p.grad is not None]
        raw = [p.grad.clone() for p in there]
        if "skip_nonfinite" in o and not all(g.isfinite().all() for g in raw):
            self.skipped += 1
            return
        if "max_norm" in o:
            nn.utils.clip_grad_norm_(params, o["max_norm"])
        if "max_value" in o:
            nn.utils.clip_grad_value_(params, o["max_value"])
        clipped = {p: p.grad.clone() for p in there}
        for p in there:
            size, slope = p.norm(), p.grad.norm()
            l2 = 0.0 if self.decoupled else self.weight_decay
            p.grad = p.grad + l2 * p
            if o.get("lars") and size > 0 and slope > 0:
                p.grad *= o.get("trust_coefficient", 1e-3) * size / (slope + l2 * size)
        before = {p: p.clone() for p in there}
        self.base.step()
        for p in there:
            self._finish(p, before[p], clipped[p], before[p] - p)
        self.statistics = {
            "grad_norm": math.sqrt(sum(float((g * g).sum()) for g in raw)),
            "nonfinite": sum(int((~g.isfinite()).sum()) for g in raw),
            "update_rms": self._rms([before[p] - p for p in there]),
            "weight_rms": self._rms(list(before.values())),
        }

    @staticmethod
    def _rms(tensors):
        flat = torch.cat([t.flatten() for t in tensors])
        return float(flat.square().mean().sqrt())

    def _finish(self, p, before, g, proposed):
        o, step, lr = self.options, proposed, self.lr
        n = p.numel()
        if o.get("cautious"):
            agrees = (proposed * g > 0).to(p.dtype)
            step = step * agrees * (n / (agrees.sum() + 1))
        if "max_step_rms" in o and n:
            step = step / max(1.0, float((proposed / lr).square().mean().sqrt()) / o["max_step_rms"])
        decay = lr * self.weight_decay if self.decoupled else 0.0
        self.largest[p] = max(self.largest.get(p, 0.0), lr)
        if o.get("decay_by") == "independent":
            decay = self.weight_decay
        elif o.get("decay_by") == "corrected":
            decay = lr**2 / self.largest[p] * self.weight_decay
        if o.get("lamb"):
            update = proposed / lr + (self.weight_decay * before if self.decoupled else 0.0)
            sizes = before.norm(), update.norm()
            trust = sizes[0] / sizes[1] if sizes[0] > 0 and sizes[1] > 0 else 1.0
            step, decay = step * trust, decay * trust
        decayed = decay * before
        if o.get("cautious_decay"):
            decayed = decayed * (step * before >= 0)
        after = before - decayed - step
        if "lookahead" in o:
            self.slow.setdefault(p, before.clone())
            self.steps[p] = self.steps.get(p, 0) + 1
            if self.steps[p] % o["lookahead"] == 0:
                self.slow[p] += o.get("lookahead_alpha", 0.5) * (after - self.slow[p])
                after = self.slow[p]
        p.copy_(after)
        if "average" in o:
            self._average(p)

    def _average(self, p):
        o = self.options
        self.updates[p] = self.updates.get(p, 0) + 1
        done = self.updates[p] - 1
        if done % o.get("average_every", 1):
            return
        decay = o["average"]
        if o.get("average_warmup"):  # as timm's ModelEmaV3, whose step counts from 1
            decay = min(decay, 1 - (1 + done // o.get("average_every", 1)) ** (-2 / 3))
        module = nn.Module()
        module.p = nn.Parameter(p.detach())
        averaged = self.averages.get(p)
        if averaged is None:
            averaged = self.averages[p] = AveragedModel(module)
        averaged.multi_avg_fn = get_ema_multi_avg_fn(decay)
        averaged.update_parameters(module)

    def average_of(self, p):
        return self.averages[p].module.p.detach() if p in self.averages else p.detach()


def ours_of(name, params, decoupled=False, **options):
    """Return our optimizer; decoupled, whatever the rule's own way."""
    own = {**RULES[name], **options}
    if decoupled and name not in ALWAYS_DECOUPLED:
        own["decoupled_weight_decay"] = True
    return getattr(tw, name)(params, **own)


def pair(name, tensors, decoupled=False, **options):
    """Return ours and the oracle with parameters of their own."""
    mine, theirs = ([leaf(t) for t in tensors] for _ in range(2))
    decoupled = decoupled or name in ALWAYS_DECOUPLED
    return (
        ours_of(name, mine, decoupled, **options),
        mine,
        Oracle(theirs, name, decoupled=decoupled, **{**RULES[name], **options}),
        theirs,
    )


def uneven(params, steps, missing=True):
    """Return gradients of very different sizes, some of which are missing."""
    found = []
    for i, grads in enumerate(gradients(params, steps)):
        found.append([g * (1.0, 0.01, 1.0, 0.1, 0.01, 1.0)[i % 6] for g in grads])
    if missing:
        found[0][1] = found[2][2] = None
        found[3][-2] = None
    return found


def assert_alike(optimizer, mine, oracle, theirs, rtol=1e-9):
    for i, (p, q) in enumerate(zip(mine, theirs, strict=True)):
        assert_close(p, q, rtol)
        if "average" in oracle.options:
            assert (i in optimizer.averaged_weights()) == (q in oracle.averages)
            assert_close(optimizer.averaged_weights().get(i, p), oracle.average_of(q), rtol)
        if q in oracle.slow:
            assert_close(optimizer.state[p]["slow"], oracle.slow[q], rtol)


# --- every addition with every rule ---


@pytest.fixture
def reference_only(monkeypatch):
    def switch():
        monkeypatch.setattr(plan, "batch_for", lambda sort: ReferenceBatch)

    return switch


def compare(name, case, tensors, steps=None, **options):
    """Step ours and the oracle together, and compare after every step."""
    options = {**CASES[case], **options}
    optimizer, mine, oracle, theirs = pair(name, tensors, decoupled=case in DECOUPLED, **options)
    steps = steps or uneven(mine, smaller(6, 4))
    if "skip_nonfinite" in options:
        steps[1][0] = torch.full_like(mine[0], math.nan).detach()
        steps[-1][2] = steps[-1][2].clone().index_fill_(0, torch.tensor([5]), -math.inf)
    for i, grads in enumerate(steps):
        lr = RULES[name]["lr"] * RATES[i]
        optimizer.param_groups[0]["lr"] = lr
        oracle.set_lr(lr)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            follow(optimizer, mine, [grads])
        oracle.step(grads)
        # The largest rate is a counter, in float32.
        assert_alike(optimizer, mine, oracle, theirs, 1e-7 if "decay_by" in options else 1e-9)
    assert optimizer.skipped_steps == oracle.skipped
    return optimizer, oracle


@pytest.mark.parametrize(("name", "case"), list(matrix()))
def test_an_addition_is_what_torch_does_around_its_optimizer(name, case):
    optimizer, oracle = compare(name, case, [rand(n, seed=n) for n in SIZES])
    if "statistics" in CASES[case]:
        (found,) = optimizer.statistics()
        assert found.keys() == oracle.statistics.keys()
        for key, value in found.items():
            assert float(value) == pytest.approx(oracle.statistics[key], rel=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_steps_that_repeat_the_last_one_add_the_same(case):
    # Gradients at the same place, rates that do not move: all of it is looked at and run in compiled calls.
    decoupled = case in DECOUPLED
    optimizer, mine, oracle, theirs = pair("RMSprop", [rand(300), rand(7)], decoupled, **CASES[case])
    for p in mine:
        p.grad = torch.zeros_like(p)
    for i, grads in enumerate(gradients(mine, 8)):
        if "skip_nonfinite" in CASES[case] and i in (3, 4, 6):
            grads[1][3] = math.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for p, g in zip(mine, grads, strict=True):
                p.grad.copy_(g)
            optimizer.step()
        oracle.step(grads)
        assert_alike(optimizer, mine, oracle, theirs, 1e-7)
    assert optimizer.skipped_steps == oracle.skipped
    if "statistics" in CASES[case]:
        for key, value in optimizer.statistics()[0].items():
            assert float(value) == pytest.approx(oracle.statistics[key], rel=1e-7)
    if "skip_nonfinite" in CASES[case]:
        mine[0].grad[0] = math.inf
        limit = CASES[case]["skip_nonfinite"]
        for _ in range(limit - 1):
            optimizer.step()
        before = everything(optimizer)
        with pytest.raises(FloatingPointError, match=f"of {limit} steps in a row"):
            optimizer.step()
        assert_unchanged(before, everything(optimizer))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["SGD", "RAdam"])
def test_the_reference_adds_the_same(name, case, reference_only):
    reference_only()
    compare(name, case, [rand(n, seed=n) for n in (1, 7, 65, 0, 300)])


# --- storage ---

STORED = [
    {"state": "int8", "average": 0.9, "average_state": "int8", "lookahead": 3, "lookahead_state": "int8"},
    {
        "state": "bfloat16",
        "average": 0.9,
        "average_state": "bfloat16",
        "lookahead": 2,
        "lookahead_state": "bfloat16",
    },
    {"average": 0.5, "average_state": "int8", "max_norm": 20.0, "cautious": True},
    {"state": "int8", "lamb": True, "max_value": 1.0, "average": 0.5, "average_state": "bfloat16"},
    {"state": "int8", "lars": True, "trust_coefficient": 0.1, "max_step_rms": 0.5, "statistics": True},
]
LENGTHS = (4096, 4159, 30)


@pytest.mark.parametrize("weight_bits", [None, 16, 24, 32])
@pytest.mark.parametrize("options", STORED, ids=range(len(STORED)))
def test_stored_in_fewer_bytes_the_kernel_is_the_reference(options, weight_bits, reference_only):
    dtype = torch.float32 if weight_bits is None else torch.bfloat16
    name = "AdamW" if "lars" not in options else "SGD"
    params = [leaf(rand(n, seed=n), dtype) for n in LENGTHS]
    one = ours_of(name, params, weight_bits=weight_bits, **options)
    *before, last = gradients(params, 3)
    follow(one, params, before)
    twins, other = copy.deepcopy((params, one))
    follow(one, params, [last])
    reference_only()
    follow(other, twins, [last])
    for p, q in zip(params, twins, strict=True):
        assert one.state[p].keys() == other.state[q].keys()
        for key in one.state[p].keys() - {"weight_correction"}:
            value, expected = one.state[p][key], other.state[q][key]
            assert value.dtype == expected.dtype
            if value.dtype == torch.float32:
                assert_close(value, expected, 1e-5)
            else:  # what lies at the edge of two codes may fall to either side
                assert (value != expected).float().mean() < 0.01, key
    rtol = {None: 1e-5, 16: 2**-7, 24: 2**-14, 32: 1e-5}[weight_bits]
    found = one.full_precision_weights(), other.full_precision_weights()
    for key, value in found[0].items():
        # A weight that meets a slow one has its error.
        coarse = "lookahead_state" in options
        torch.testing.assert_close(value, found[1][key], rtol=0.05 if coarse else rtol, atol=1e-6)
    if "statistics" in options:
        for key, value in one.statistics()[0].items():
            assert float(value) == pytest.approx(float(other.statistics()[0][key]), rel=1e-5)


@pytest.mark.parametrize("stored", ["int8", "bfloat16", "float32"])
@pytest.mark.parametrize("way", ["kernel", "reference"])
def test_an_average_rests_between_updates_and_slow_weights_between_meetings(stored, way, reference_only):
    if way == "reference":
        reference_only()
    scales = 10.0 ** torch.linspace(-44, 30, 65)[:, None]  # of each block another one, and denormal ones
    param = leaf((rand(65, 64) * scales).float())
    with torch.no_grad():
        param[3], param[4, ::2], param[5, 1] = 0.0, 0.0, 1e-45
        param[7] = torch.linspace(1.9, 2.0, 64)
        param[9, :3] = torch.tensor([math.inf, math.nan, -math.inf])
    optimizer = tw.SGD(
        [param],
        lr=1e-3,
        average=0.9,
        average_every=5,
        average_state=stored,
        lookahead=5,
        lookahead_state=stored,
        lookahead_alpha=0.25,
    )

    def kept():
        state = optimizer.state[param]
        return [copy.deepcopy(numbers_of(state, name, param)) for name in ("average", "slow")]

    grads = gradients([param], 11)
    for i, (grad,) in enumerate(grads):
        before = kept() if i else None
        follow(optimizer, [param], [[grad * param.detach()]])
        if i % 5 != 0:
            assert same(kept()[0], before[0]), f"average, step {i + 1}"
        if i % 5 != 4 and i:
            assert same(kept()[1], before[1]), f"slow, step {i + 1}"


def numbers_of(state, name, param):
    """Return the values of a slot of a parameter, whatever stores them."""
    return values_of(Slot(name), state, param).clone()


def same(a, b):
    return torch.equal(a.nan_to_num(7.0, 8.0, 9.0), b.nan_to_num(7.0, 8.0, 9.0))


COPIES = [(addition, slot) for addition in ADDITIONS for slot in addition.slots if slot.copies]


@pytest.mark.parametrize("stored", ["int8", "bfloat16", "float32"])
@pytest.mark.parametrize("way", ["kernel", "reference"])
@pytest.mark.parametrize(("addition", "slot"), COPIES, ids=lambda one: one.name)
def test_what_begins_as_the_weights_does_so_whatever_stores_it(addition, slot, way, stored, reference_only):
    if way == "reference":
        reference_only()
    switch = addition.hypers[0]
    options = {switch.name: True if switch.flag else 10 if switch.whole else 0.5}
    if any(hyper.name == slot.stored_by for hyper in addition.hypers):
        options[slot.stored_by] = stored
    param = leaf(rand(100, 60), torch.float32)
    optimizer = tw.SGD([param], lr=0.0, **options)
    follow(optimizer, [param], gradients([param], 1))
    assert torch.equal(param, rand(100, 60).float())
    assert_close(numbers_of(optimizer.state[param], slot.name, param), param, 0.05)


@pytest.mark.parametrize("weight_bits", [None, 24])
@pytest.mark.parametrize("case", ["max_norm", "lamb", "many"])
def test_the_reference_steps_numbers_of_no_dimension(case, weight_bits, reference_only):
    found = []
    for way in ("kernel", "reference"):
        if way == "reference":
            reference_only()
        dtype = torch.float32 if weight_bits is None else torch.bfloat16
        params = [leaf(torch.tensor(1.5), dtype), leaf(rand(3), dtype)]
        rate = torch.tensor(0.01, dtype=torch.float64)
        optimizer = tw.AdamW(params, lr=rate, weight_bits=weight_bits, **CASES[case])
        follow(optimizer, params, gradients(params, 3))
        assert all(v.dtype != torch.float64 for p in params for v in optimizer.state[p].values())
        found.append(params)
    for p, q in zip(*found, strict=True):
        assert_close(p, q, 1e-6 if weight_bits is None else 2**-7)


@pytest.mark.parametrize("stored", ["int8", "bfloat16"])
def test_an_average_in_fewer_bytes_goes_where_the_plain_one_goes(stored):
    params, twins = ([leaf(rand(5000), torch.float32)] for _ in range(2))
    a = tw.AdamW(params, lr=0.01, average=0.95, average_state=stored)
    b = tw.AdamW(twins, lr=0.01, average=0.95)
    for grads in gradients(params, smaller(60, 6)):
        follow(a, params, [grads])
        follow(b, twins, [grads])
    assert torch.equal(params[0], twins[0])
    found, expected = a.averaged_weights()[0], b.averaged_weights()[0]
    error = (found - expected).norm() / expected.norm()
    assert error < (0.05 if stored == "int8" else 0.01)
    assert abs(float((found - expected).mean())) < 1e-3  # rounding is not to one side


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_averages_of_weights_of_few_bits_have_the_bits_that_these_lack(name):
    param, twin = leaf(torch.ones(5000), torch.bfloat16), leaf(torch.ones(5000), torch.float32)
    options = {"lr": 1e-4, "average": 0.5, "weight_decay": 0.0}
    a = getattr(tw, name)([param], weight_bits=32, **options)
    b = getattr(tw, name)([twin], **options)
    for _ in range(5):
        param.grad, twin.grad = torch.ones_like(param), torch.ones_like(twin)
        a.step()
        b.step()
    assert torch.equal(a.state[param]["average"], b.state[twin]["average"])
    assert a.averaged_weights()[0].dtype == torch.bfloat16


# --- layouts ---

LAYOUTS = {
    "transposed": lambda t: t.t(),
    "columns": lambda t: t[:, 1:-1],
    "every other row": lambda t: t[::2],
    "channels_last": lambda t: t.view(3, 2, 7, 11).to(memory_format=torch.channels_last),
    "misaligned": lambda t: t.flatten()[3:400],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["many", "lamb", "skip_nonfinite", "maximize"])
def test_layouts(case, layout):
    name = "AdamW" if case != "lamb" else "SGD"
    base = rand(21, 22)
    mine = LAYOUTS[layout](base).detach().requires_grad_()
    others = [leaf(rand(5)), leaf(rand(30, seed=3))]
    decoupled = case in DECOUPLED or name in ALWAYS_DECOUPLED
    theirs = [leaf(mine.contiguous()), *map(leaf, others)]
    optimizer = ours_of(name, [mine, *others], decoupled and name not in ALWAYS_DECOUPLED, **CASES[case])
    oracle = Oracle(theirs, name, decoupled=decoupled, **{**RULES[name], **CASES[case]})
    for i, grads in enumerate(gradients(theirs, 4)):
        if i == 2 and "skip_nonfinite" in CASES[case]:
            grads[0].view(-1)[-1] = math.nan
        give([mine, *others], grads)
        if i == 1:
            mine.grad = grads[0].flip(0).clone().flip(0)
        if i == 3 and mine.dim() == 2:
            mine.grad = grads[0].t().contiguous().t()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
        oracle.step(grads)
        assert_alike(optimizer, [mine, *others], oracle, theirs, 1e-7)
    assert optimizer.skipped_steps == oracle.skipped


@pytest.mark.parametrize("case", CASES)
def test_complex_parameters_are_pairs_of_real_ones(case):
    tensors = [torch.complex(rand(n, seed=1), rand(n, seed=2)) for n in (5, 70, 0)]
    mine, theirs = [leaf(t) for t in tensors], [leaf(torch.view_as_real(t)) for t in tensors]
    options = {key: value for key, value in CASES[case].items() if key != "statistics"}
    a, b = (ours_of("AdamW", params, **options) for params in (mine, theirs))
    for i, grads in enumerate(gradients(mine, 4)):
        if i == 2 and "skip_nonfinite" in options:
            grads[0][1] = complex(0.0, math.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            follow(a, mine, [grads])
            follow(b, theirs, [[torch.view_as_real(g) for g in grads]])
        for p, q in zip(mine, theirs, strict=True):
            assert_close(torch.view_as_real(p.detach()), q, 1e-12)
            if "average" in options:
                assert_close(torch.view_as_real(a.state[p]["average"]), b.state[q]["average"], 1e-12)


ROWWISE = {
    "max_norm": {"max_norm": 1.0},
    "max_value": {"max_value": 0.5},
    "lars": {"lars": True, "trust_coefficient": 0.1},
    "lamb": {"lamb": True},
    "cautious": {"cautious": True, "max_step_rms": 0.5},
    "average": {"average": 0.9, "lookahead": 2},
    "statistics": {"statistics": True, "skip_nonfinite": 1},
}


@pytest.mark.parametrize("way", ["kernel", "reference"])
@pytest.mark.parametrize("case", ROWWISE)
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "AdamW"])
def test_a_sparse_step_is_a_dense_one_of_the_rows(name, case, way, reference_only):
    if way == "reference":
        reference_only()
    rows, options = [1, 4, 8], {**RULES[name], **ROWWISE[case]}
    mine = leaf(rand(9, 5))
    twin = leaf(mine[rows])
    a, b = getattr(tw, name)([mine], **options), getattr(tw, name)([twin], **options)
    before = mine.detach().clone()
    for i in range(4):
        twin.grad = rand(3, 5, seed=i)
        mine.grad = torch.sparse_coo_tensor([[8, 1, 4]], twin.grad[[2, 0, 1]], (9, 5))
        a.step()
        b.step()
    others = [i for i in range(9) if i not in rows]
    assert torch.equal(mine[others], before[others])
    assert_close(mine[rows], twin, 1e-13)
    if "average" in ROWWISE[case]:
        average = a.averaged_weights()[0]
        assert_close(average[rows], b.averaged_weights()[0], 1e-13)
        assert torch.equal(average[others], before[others])
        assert torch.equal(a.state[mine]["slow"][others], before[others])
    if "statistics" in ROWWISE[case]:
        for key, value in a.statistics()[0].items():
            assert float(value) == pytest.approx(float(b.statistics()[0][key]), rel=1e-12)


@pytest.mark.parametrize("stored", ["float32", "int8"])
@pytest.mark.parametrize("way", ["kernel", "reference"])
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_rows_that_come_later_are_averaged_with_what_they_were(name, way, stored, reference_only):
    if way == "reference":
        reference_only()
    shape = (100, 60)  # int8 would be packed, were the gradients dense
    param = leaf(rand(*shape), torch.float32)
    options = {"lr": 0.1, "average": 0.75, "lookahead": 2, "average_state": stored, "lookahead_state": stored}
    optimizer = getattr(tw, name)([param], **options)
    p, sums = param.detach().double(), torch.zeros(shape, dtype=torch.float64)
    slow, average = p.clone(), p.clone()
    for i, rows in enumerate([[3, 70], [5, 70], [99], [3, 5, 99]]):
        values = rand(len(rows), 60, seed=i).float()
        param.grad = torch.sparse_coo_tensor([rows], values, shape)
        optimizer.step()
        g = values.double()
        sums[rows] += g * g
        p[rows] -= 0.1 * (g / sums[rows].sqrt() if name == "Adagrad" else g)
        if i % 2:
            slow[rows] += 0.5 * (p[rows] - slow[rows])
            p[rows] = slow[rows]
        average[rows] += (1.0 if i == 0 else 0.25) * (p[rows] - average[rows])
    assert_close(param, p.float(), 1e-5)
    assert_close(optimizer.averaged_weights()[0], average.float(), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_gradients_of_16_bits_are_measured_as_they_are(dtype, weights):
    param = leaf(rand(5000), weights)
    param.grad_dtype = dtype
    param.grad = (rand(5000, seed=1) * 30).to(dtype)
    norm = float(param.grad.double().norm())
    before = param.detach().double()
    optimizer = tw.SGD([param], lr=1.0, max_norm=norm / 4, statistics=True, weight_bits=None)
    optimizer.step()
    assert float(optimizer.statistics()[0]["grad_norm"]) == pytest.approx(norm, rel=1e-12)
    expected = before - param.grad.double() / 4
    assert_close(param, expected.to(weights), 1e-6 if weights == torch.float32 else 2**-8)


def test_groups_have_bounds_of_their_own_and_one_norm():
    tensors = [rand(n, seed=n) for n in (100, 40, 7, 30)]
    mine, theirs = ([leaf(t) for t in tensors] for _ in range(2))
    optimizer = tw.SGD(
        [
            {"params": mine[:1], "max_norm": 0.5},
            {"params": mine[1:2], "max_norm": torch.tensor(2.0), "lr": 0.5},
            {"params": mine[2:3], "max_norm": 1e6},
            {"params": mine[3:]},
        ],
        lr=0.1,
    )
    for grads in gradients(mine, 3):
        follow(optimizer, mine, [grads])
        norm = torch.cat(grads[:3]).norm()
        bounds = (0.5, 2.0, 1e6)
        factors = [*(min(1.0, bound / (norm + 1e-6)) for bound in bounds), 1.0]
        with torch.no_grad():
            for q, g, factor, lr in zip(theirs, grads, factors, (0.1, 0.5, 0.1, 0.1), strict=True):
                q -= lr * factor * g
        for p, q in zip(mine, theirs, strict=True):
            assert_close(p, q)
        optimizer.param_groups[1]["max_norm"].fill_(2.0)


def test_tensors_for_hyperparameters_are_followed():
    tensors = [rand(50), rand(70, seed=1)]
    numbers = {"max_norm": 3.0, "max_value": 0.5, "max_step_rms": 0.5, "trust_coefficient": 0.1}
    numbers |= {"average": 0.9, "lookahead_alpha": 0.25}
    held = {key: torch.tensor(value, dtype=torch.float64) for key, value in numbers.items()}
    mine, theirs = ([leaf(t) for t in tensors] for _ in range(2))
    rest = {"lr": 0.1, "lars": True, "lookahead": 2}
    a, b = tw.SGD(mine, **rest, **held), tw.SGD(theirs, **rest, **numbers)
    for i, grads in enumerate(gradients(mine, 4)):
        for key, value in held.items():
            value.fill_(numbers[key] * (1 + i) / 4)
            b.param_groups[0][key] = numbers[key] * (1 + i) / 4
        follow(a, mine, [grads])
        follow(b, theirs, [grads])
        for p, q in zip(mine, theirs, strict=True):
            assert torch.equal(p, q)
            assert torch.equal(a.state[p]["average"], b.state[q]["average"])


def test_parameters_that_share_memory():
    found = []
    for kind in ("ours", "torch"):
        base = rand(80)
        params = [base[:50].requires_grad_(), base[30:].requires_grad_(), leaf(rand(9))]
        for i, p in enumerate(params):
            p.grad = rand(len(p), seed=i)
        if kind == "ours":
            tw.SGD(params, lr=0.1, max_norm=2.0, max_value=0.2).step()
        else:
            nn.utils.clip_grad_norm_(params, 2.0)
            nn.utils.clip_grad_value_(params, 0.2)
            torch.optim.SGD(params, lr=0.1, foreach=False).step()
        found.append([base, params[2]])
    for a, b in zip(*found, strict=True):
        assert_close(a, b)


class Plain(Tensor):
    """A subclass, which only the reference steps."""


@pytest.mark.parametrize("case", CASES)
def test_tensor_subclasses_are_stepped_beside_others(case):
    tensors = [rand(40), rand(30, seed=1), rand(7, seed=2)]
    decoupled = case in DECOUPLED
    mine, theirs = [leaf(t) for t in tensors], [leaf(t) for t in tensors]
    mine[1] = tensors[1].clone().as_subclass(Plain).detach().requires_grad_()
    optimizer = ours_of("SGD", mine, decoupled, **CASES[case])
    oracle = Oracle(theirs, "SGD", decoupled=decoupled, **{**RULES["SGD"], **CASES[case]})
    for i, grads in enumerate(gradients(theirs, 4)):
        if i == 2 and "skip_nonfinite" in CASES[case]:
            grads[1][3] = math.nan
        give(mine, grads)
        mine[1].grad = grads[1].clone().as_subclass(Plain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
        oracle.step(grads)
        for i, (p, q) in enumerate(zip(mine, theirs, strict=True)):
            assert_close(p.as_subclass(Tensor), q, 1e-7)
            if "average" in oracle.options:
                assert_close(optimizer.averaged_weights()[i].as_subclass(Tensor), oracle.average_of(q), 1e-7)
    assert optimizer.skipped_steps == oracle.skipped


DIFFERENTIABLE = {
    "max_norm": lambda p, g, h: p - 0.1 * g * torch.clamp(h / (g.norm() + 1e-6), max=1.0),
    "max_value": lambda p, g, h: p - 0.1 * torch.minimum(torch.maximum(g, -h), h),
    "max_step_rms": lambda p, g, h: p - 0.1 * g / torch.clamp(g.square().mean().sqrt() / h, min=1.0),
    "trust_coefficient": lambda p, g, h: p - 0.1 * h * p.norm() / g.norm() * g,
    "lookahead_alpha": lambda p, g, h: p - h * 0.1 * g,
    "lamb": lambda p, g, h: p - 0.1 * p.norm() / g.norm() * g,
    "cautious": lambda p, g, h: p - 0.1 * g * 40 / 41,
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_steps_are_differentiated_through_additions(name):
    found = []
    for way in ("ours", "by hand"):
        root = rand(40).requires_grad_()
        slope, h = (
            rand(40, seed=1).requires_grad_(),
            torch.tensor(0.3, dtype=torch.float64, requires_grad=True),
        )
        if way == "ours":
            param = root.clone()
            param.grad = slope.clone()
            said = {"lamb": {"lamb": True}, "cautious": {"cautious": True}}.get(name, {name: h})
            said |= {"trust_coefficient": {"lars": True}, "lookahead_alpha": {"lookahead": 1}}.get(name, {})
            tw.SGD([param], lr=0.1, differentiable=True, **said).step()
        else:
            param = DIFFERENTIABLE[name](root, slope, h)
        grads = torch.autograd.grad(param.square().sum(), (root, slope, h), allow_unused=True)
        found.append([param, *grads])
    for mine, theirs in zip(*found, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert_close(mine, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"decay_by": "corrected"},
        {"decay_by": "independent", "cautious_decay": True},
        {"lamb": True, "max_norm": 1.0},
        {"lars": True, "trust_coefficient": 0.5, "lookahead": 2},
        {"max_step_rms": 0.5, "average": 0.5, "average_warmup": True},
    ],
    ids=str,
)
def test_the_learning_rate_is_differentiated_through_additions(options):
    # Counters are float32, unless the default dtype is float64, and differences would be lost there.
    torch.set_default_dtype(torch.float64)
    try:

        def loss(lr):
            param = rand(40).requires_grad_().clone()
            optimizer = tw.AdamW([param], lr=lr, weight_decay=0.5, differentiable=True, **options)
            for i in range(3):
                param.grad = rand(40, seed=i)
                optimizer.step()
            return param.square().sum() + sum(
                s["average"].sum() for s in optimizer.state.values() if "average" in s
            )

        lr = torch.tensor(0.05, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(lr), lr)
        with torch.no_grad():
            difference = (loss(lr + 1e-6) - loss(lr - 1e-6)) / 2e-6
        assert float(slope) == pytest.approx(float(difference), rel=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)


def test_two_differentiable_steps_with_an_average_and_a_guard():
    root = rand(30).requires_grad_()
    param = root.clone()
    optimizer = tw.AdamW(
        [param], lr=0.1, differentiable=True, average=0.5, skip_nonfinite=2, max_norm=1.0, statistics=True
    )
    for i in range(3):
        param.grad = rand(30, seed=i) if i != 1 else torch.full((30,), math.nan, dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
    (grad,) = torch.autograd.grad(optimizer.state[param]["average"].sum(), root)
    assert_close(grad, torch.ones(30, dtype=torch.float64) * (0.5 * 0.999 + 0.5 * 0.999**2))
    assert optimizer.skipped_steps == 1


# --- the same bits ---


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter has no threads")
@pytest.mark.parametrize("options", [{}, {"state": "int8", "average_state": "int8"}], ids=["plain", "int8"])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_bits_do_not_depend_on_the_number_of_threads(name, options, threads):
    sizes = (3_000_001, 65_536 * 3, 70_001, 33, 1)
    added = {"max_norm": 20.0, "cautious": True, "max_step_rms": 0.7, "lars": True, "trust_coefficient": 0.1}
    added |= {"average": 0.9, "statistics": True, "skip_nonfinite": 2}
    tensors = [rand(n, seed=n).float() for n in sizes]
    grads = gradients(tensors, 1)[0]
    found = []
    for count in (1, 2, 3):
        threads(count)
        params = [leaf(t) for t in tensors]
        optimizer = ours_of(name, params, **added, **options)
        follow(optimizer, params, [grads, [0.5 * g for g in grads]])
        state = [value for p in params for value in optimizer.state[p].values()]
        found.append([*params, *state, *optimizer.statistics()[0].values()])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.filterwarnings("ignore:a step was skipped")
@pytest.mark.parametrize("missing", [False, True], ids=["all", "missing"])
@pytest.mark.parametrize("bad", [False, True], ids=["finite", "nan"])
def test_bits_do_not_depend_on_how_a_step_is_run(bad, missing):
    """What is measured and stepped in one compiled call, and in several beside what needs Python."""
    tensors = [rand(n, seed=n).float() for n in (smaller(70_001, 4100), *range(1, smaller(40, 8)))]
    found = []
    for extra in ([], [rand(7, 9).float()]):
        params = [leaf(t) for t in [*tensors, *extra]]
        added = {"max_norm": 0.1, "lamb": True, "statistics": True, "skip_nonfinite": 3, "average": 0.9}
        optimizer = tw.AdamW(params, lr=0.1, **added)
        for step in range(4):
            for i, p in enumerate(params[: len(tensors)]):
                p.grad = None if missing and i == 1 + step else rand(*p.shape, seed=100 * step + i).float()
            if bad and step == 2:
                params[5].grad[3] = torch.nan
            for p in params[len(tensors) :]:
                p.grad = torch.zeros(9, 7).t()  # whose strides are others: it adds nothing to a norm
            optimizer.step()
        assert optimizer.skipped_steps == int(bad)
        state = [value for p in params[: len(tensors)] for value in optimizer.state[p].values()]
        found.append([*params[: len(tensors)], *state, optimizer.statistics()[0]["grad_norm"]])
    assert all(map(torch.equal, *found))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter has no threads")
def test_sparse_bits_do_not_depend_on_the_number_of_threads(threads):
    rows = torch.randperm(5000, generator=torch.Generator().manual_seed(1))[:3000]
    found = []
    for count in (1, 2):
        threads(count)
        param = leaf(rand(5000, 100), torch.float32)
        optimizer = tw.SGD([param], lr=0.1, max_norm=1.0, lamb=True, statistics=True)
        param.grad = torch.sparse_coo_tensor(rows[None], rand(3000, 100, seed=1).float(), (5000, 100))
        optimizer.step()
        found.append([param, *optimizer.statistics()[0].values()])
    assert all(map(torch.equal, *found))


# --- the guard ---


def everything(optimizer):
    """Return what a step may change, as it is now."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = [(plain(p), p._version) for p in params]
    state = [(key, plain(value)) for p in params for key, value in optimizer.state.get(p, {}).items()]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return tensors, state, copy.deepcopy(groups)


def plain(tensor):
    return tensor.detach().as_subclass(Tensor).clone()


def assert_unchanged(before, after):
    for (p, version), (q, version_after) in zip(before[0], after[0], strict=True):
        assert torch.equal(p, q)
        assert INTERPRETED or version == version_after
    for (key, value), (other, found) in zip(before[1], after[1], strict=True):
        assert key == other
        assert torch.equal(value, found), key
    assert before[2] == after[2]


GUARDED = {
    "plain": {},
    "norm": {"max_norm": 1.0, "statistics": True},
    "int8": {"state": "int8", "average": 0.9, "average_state": "int8", "max_norm": 1.0},
    "lookahead": {"lookahead": 2, "average": 0.9, "average_every": 2, "cautious": True},
    "weights": {"state": "bfloat16", "weight_bits": 24, "average": 0.9},
}


def guarded(options, kinds):
    """Return an optimizer of parameters of several kinds in two groups, and what gives them gradients."""
    dtype = torch.bfloat16 if "weight_bits" in options else torch.float32
    params = []
    for i, kind in enumerate(kinds):
        p = leaf(rand(70, 60, seed=i), dtype)
        if kind == "strided":
            p = leaf(rand(60, 70, seed=i), dtype).detach().t().requires_grad_()
        if kind == "subclass":
            p = rand(70, 60, seed=i).to(dtype).as_subclass(Plain).detach().requires_grad_()
        params.append(p)
    groups = [{"params": params[:1], "lr": 0.05}, {"params": params[1:]}]
    optimizer = tw.AdamW(groups, lr=0.1, skip_nonfinite=3, **options)

    def give_all(seed, bad=None):
        for i, (p, kind) in enumerate(zip(params, kinds, strict=True)):
            grad = rand(70, 60, seed=seed + i).to(dtype)
            if bad is not None and bad[0] == i:
                grad[3, 5] = bad[1]
            if kind == "sparse":
                rows = [3, 9, 50]
                grad = torch.sparse_coo_tensor([rows], grad[rows], (70, 60))
            p.grad = grad.as_subclass(Plain) if kind == "subclass" else grad

    return optimizer, params, give_all


MIXES = [
    ("dense",),
    ("dense", "strided"),
    ("dense", "sparse"),
    ("subclass",),
    ("dense", "sparse", "subclass"),
]


@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
@pytest.mark.parametrize("options", GUARDED)
def test_a_step_that_is_skipped_changes_nothing_and_the_next_is_as_if_it_had_not_been(options, kinds):
    one, params, give_one = guarded(GUARDED[options], kinds)
    other, twins, give_other = guarded(GUARDED[options], kinds)
    last = len(kinds) - 1
    bad = {0: (0, math.nan), 2: (last, math.inf), 3: (last, -math.inf)}
    for i in range(6):
        give_one(i, bad.get(i))
        before = everything(one)
        if i in bad:
            if i == 0:
                with pytest.warns(UserWarning, match="a step was skipped because its gradients"):
                    one.step()
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    one.step()
            if i:
                assert_unchanged(before, everything(one))
            else:  # state is there, and new
                assert_unchanged((before[0], [], before[2]), (everything(one)[0], [], everything(one)[2]))
                assert one.averaged_weights() == {}
            continue
        give_other(i)
        one.step()
        other.step()
    assert one.skipped_steps == 3
    assert other.skipped_steps == 0
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(plain(p), plain(q))
        assert one.state[p].keys() == other.state[q].keys()
        for key, value in one.state[p].items():
            assert torch.equal(plain(value), plain(other.state[q][key])), key
    for group, twin in zip(one.param_groups, other.param_groups, strict=True):
        assert group.get("rounding_step") == twin.get("rounding_step")


@pytest.mark.parametrize("name", ["SGD", "NAdam", "RMSprop", "Adagrad"])
def test_a_first_step_that_is_skipped_leaves_state_as_new(name):
    extra = {"dampening": 0.5} if name == "SGD" else {}
    params, twins = ([leaf(rand(50))] for _ in range(2))
    options = {**RULES[name], **extra, "average": 0.9, "lookahead": 2}
    a, b = getattr(tw, name)(params, skip_nonfinite=2, **options), getattr(tw, name)(twins, **options)
    with pytest.warns(UserWarning, match="skipped"):
        follow(a, params, [[torch.full((50,), math.inf)]])
    for grads in gradients(params, 3):
        follow(a, params, [grads])
        follow(b, twins, [grads])
    assert torch.equal(params[0], twins[0])
    for key, value in b.state[twins[0]].items():
        assert torch.equal(a.state[params[0]][key], value)


@pytest.mark.filterwarnings("ignore:a step was skipped")
def test_steps_in_a_row_are_counted_raise_and_training_may_go_on():
    param = leaf(rand(10))
    optimizer = tw.SGD([param], lr=0.1, skip_nonfinite=2)
    bad, good = torch.full((10,), math.nan, dtype=torch.float64), torch.ones(10, dtype=torch.float64)
    before = param.detach().clone()
    for _ in range(3):
        follow(optimizer, [param], [[bad]])
        follow(optimizer, [param], [[good]])
    assert optimizer.skipped_steps == 3
    follow(optimizer, [param], [[bad]])
    for skipped in (2, 3):
        with pytest.raises(FloatingPointError, match=f"of {skipped} steps in a row .*skip_nonfinite=2"):
            follow(optimizer, [param], [[bad]])
    assert optimizer.skipped_steps == 6
    follow(optimizer, [param], [[good]])
    assert_close(param, before - 0.4)
    follow(optimizer, [param], [[bad]])  # one in a row
    assert optimizer.skipped_steps == 7


@pytest.mark.filterwarnings("ignore:a step was skipped")
def test_a_guarded_step_takes_a_closure():
    param = leaf(rand(10))
    optimizer = tw.SGD([param], lr=0.1, skip_nonfinite=3)
    losses = []
    for scale in (1.0, math.nan, 1.0):

        def closure(scale=scale):
            optimizer.zero_grad()
            loss = (param * scale).square().sum()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    assert math.isnan(losses[1])
    assert optimizer.skipped_steps == 1
    assert_close(param, rand(10) * 0.8**2)


@pytest.mark.filterwarnings("ignore:a step was skipped")
@pytest.mark.parametrize("options", [{}, {"state": "int8", "average": 0.9, "average_state": "int8"}], ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_a_guard_and_a_scaler(fused, options):
    mine, theirs = ([leaf(rand(5000), torch.float32), leaf(rand(30), torch.float32)] for _ in range(2))
    added = {"max_norm": 10.0, "skip_nonfinite": 3, "max_value": 0.3, **options}
    a, b = tw.AdamW(mine, fused=fused, **added), tw.AdamW(theirs, **added)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    scaler.scale(torch.ones(()))
    for i, grads in enumerate(gradients(mine, 5)):
        scale = scaler.get_scale()
        give(mine, [g * scale for g in grads])
        if i == 1:
            mine[0].grad[5] = math.inf
        before = everything(a)
        scaler.step(a)
        scaler.update()
        if i == 1:  # the scaler's to see, and to skip
            assert_unchanged(before, everything(a))
            assert scaler.get_scale() == scale / 2
        else:
            follow(b, theirs, [grads])
    assert a.skipped_steps == 0
    for p, q in zip(mine, theirs, strict=True):
        if options:
            assert (p - q).norm() < 1e-2 * q.norm()
        else:
            assert_close(p, q, 1e-6)
    assert a.param_groups[0].get("rounding_step") == b.param_groups[0].get("rounding_step")


def test_statistics_of_a_step_that_was_skipped_are_of_that_step():
    param = leaf(rand(30))
    optimizer = tw.SGD([param], lr=0.1, skip_nonfinite=2, statistics=True)
    grad = rand(30, seed=1)
    follow(optimizer, [param], [[grad]])
    with torch.no_grad():
        param *= 2
    grad[4:6] = math.nan
    with pytest.warns(UserWarning, match="skipped"):
        follow(optimizer, [param], [[grad]])
    found = {key: float(value) for key, value in optimizer.statistics()[0].items()}
    assert found["nonfinite"] == 2
    assert found["weight_rms"] == pytest.approx(float(param.detach().square().mean().sqrt()))
    assert math.isnan(found["grad_norm"])


@pytest.mark.filterwarnings("ignore:a step was skipped")
def test_a_group_that_does_not_ask_is_not_looked_at_but_rests_with_the_others():
    mine = [leaf(rand(10)), leaf(rand(10))]
    optimizer = tw.SGD([{"params": mine[:1], "skip_nonfinite": 5}, {"params": mine[1:]}], lr=0.1)
    bad, good = torch.full((10,), math.nan, dtype=torch.float64), torch.ones(10, dtype=torch.float64)
    follow(optimizer, mine, [[bad, good]])
    assert optimizer.skipped_steps == 1
    assert torch.equal(mine[1], rand(10))
    follow(optimizer, mine, [[good, bad]])
    assert optimizer.skipped_steps == 1
    assert mine[1].isnan().all()


# --- checkpoints, and changes between steps ---


def saved(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


KEPT = {
    "average": {"average": 0.9, "average_every": 2, "average_warmup": True},
    "int8": {"average": 0.9, "average_state": "int8", "lookahead": 3, "lookahead_state": "bfloat16"},
    "lookahead": {"lookahead": 3, "lookahead_alpha": 0.25},
    "corrected": {"decay_by": "corrected"},
    "measures": {"max_norm": 1.0, "cautious": True, "max_step_rms": 0.5, "statistics": True},
    "lars": {"lars": True, "trust_coefficient": 0.5, "skip_nonfinite": 4},
}


@pytest.mark.parametrize("way", ["saved", "pickled", "deep copied"])
@pytest.mark.parametrize("case", KEPT)
def test_a_run_goes_on_where_it_was_saved(case, way):
    tensors = [rand(5000).float(), rand(30, seed=1).float()]
    params = [leaf(t) for t in tensors]
    optimizer = tw.AdamW(params, lr=0.05, **KEPT[case])
    steps = gradients(params, 6)
    for i, grads in enumerate(steps[:3]):
        optimizer.param_groups[0]["lr"] = 0.05 / (1 + i)
        follow(optimizer, params, [grads])
    if way == "deep copied":
        twins, twin = copy.deepcopy((params, optimizer))
    elif way == "pickled":
        twins, twin = pickle.loads(pickle.dumps((params, optimizer)))
    else:
        twins = [leaf(p) for p in params]
        twin = tw.AdamW(twins, lr=0.05, **KEPT[case])
        twin.load_state_dict(saved(optimizer.state_dict()))
    assert twin.averaged_weights().keys() == optimizer.averaged_weights().keys()
    for grads in steps[3:]:
        follow(optimizer, params, [grads])
        follow(twin, twins, [grads])
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == twin.state[q].keys()
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, twin.state[q][key]), key
    assert plain_groups(optimizer) == plain_groups(twin)


def plain_groups(optimizer):
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def test_a_checkpoint_brings_its_additions_and_leaves_those_that_it_does_not_name():
    def optimizer(**options):
        params = [leaf(rand(40), torch.float32)]
        found = tw.SGD(params, lr=0.1, momentum=0.9, **options)
        follow(found, params, gradients(params, 2))
        return found, params

    a, _ = optimizer(average=0.9, max_norm=1.0)
    b, params = optimizer(max_value=0.5, max_norm=2.0)
    b.load_state_dict(saved(a.state_dict()))
    (group,) = b.param_groups
    assert (group["average"], group["max_norm"], group["max_value"]) == (0.9, 1.0, 0.5)
    assert torch.equal(b.averaged_weights()[0], a.averaged_weights()[0])
    follow(b, params, gradients(params, 1))
    assert float(b.state[params[0]]["average_step"]) == 3
    plain, params = optimizer()
    c, _ = optimizer(average=0.9, skip_nonfinite=2)
    c.load_state_dict(saved(plain.state_dict()))
    assert (c.param_groups[0]["average"], c.param_groups[0]["skip_nonfinite"]) == (0.9, 2)
    assert c.averaged_weights() == {}


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad"])
def test_torchs_checkpoint_into_ours_and_ours_into_torchs(name):
    arguments = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
    mine, theirs = ([leaf(rand(40))] for _ in range(2))
    b = getattr(torch.optim, name)(theirs, foreach=False, **arguments)
    steps = gradients(mine, 6)
    follow(b, theirs, steps[:2])
    with torch.no_grad():
        mine[0].copy_(theirs[0])
    a = getattr(tw, name)(mine, average=0.9, max_norm=1.0, lookahead=2, average_every=1, **arguments)
    a.load_state_dict(saved(b.state_dict()))
    assert a.param_groups[0]["average"] == 0.9
    assert a.averaged_weights() == {}
    for grads in steps[2:4]:
        follow(a, mine, [grads])
    assert float(a.state[mine[0]]["average_step"]) == 2
    with torch.no_grad():
        theirs[0].copy_(mine[0])
    b.load_state_dict(saved(a.full_precision_state_dict()))
    a.param_groups[0].update(max_norm=None, lookahead=None)
    for grads in steps[4:]:
        follow(a, mine, [grads])
        follow(b, theirs, [grads])
    assert_close(mine[0], theirs[0])


def test_how_averages_are_stored_stays_as_constructed():
    def optimizer(**options):
        params = [leaf(rand(5000), torch.float32)]
        found = tw.SGD(params, lr=0.1, average=0.9, lookahead=5, **options)
        follow(found, params, gradients(params, 2))
        return found, params

    packed = {"average_state": "int8", "lookahead_state": "bfloat16"}
    for here, there in (({}, packed), (packed, {}), (packed, {"average_state": "bfloat16"})):
        (a, params), (b, _) = optimizer(**here), optimizer(**there)
        for state_dict in (b.state_dict(), b.full_precision_state_dict()):
            a.load_state_dict(saved(state_dict))
            said = {k: v for k, v in a.param_groups[0].items() if k in packed}
            assert said == here
            assert_close(a.averaged_weights()[0], b.averaged_weights()[0], 0.05)
            follow(a, params, gradients(params, 1))
            key = "average_codes" if here else "average"
            assert key in a.state[params[0]]
    full = b.full_precision_state_dict()["param_groups"][0]
    assert not {"average_state", "lookahead_state", "state", "rounding_step"} & full.keys()


def test_additions_are_turned_on_and_off_between_steps():
    mine, theirs = ([leaf(rand(50)), leaf(rand(7))] for _ in range(2))
    optimizer, oracle = tw.SGD(mine, lr=0.1), Oracle(theirs, "SGD", lr=0.1)
    (group,) = optimizer.param_groups
    changes = [
        {"max_norm": 1.0},
        {"average": 0.9},
        {"max_norm": 0.5, "max_value": 0.05},
        {"max_norm": None, "cautious": True},
        {"cautious": False, "lookahead": 1},
        {"average": None, "average_every": 3},  # without effect, for now
        {"lookahead": None, "lars": True},
        {"lars": False},
    ]
    for grads, change in zip(gradients(mine, len(changes)), changes, strict=True):
        group.update(change)
        oracle.options |= change
        for key in [k for k, v in oracle.options.items() if v is None or v is False]:
            del oracle.options[key]
        follow(optimizer, mine, [grads])
        oracle.step(grads)
        assert_alike(optimizer, mine, oracle, theirs)
    assert "average" in optimizer.state[mine[0]]  # until it is wanted again
    # What has no effect now is no reason to refuse a checkpoint.
    twins = [leaf(p) for p in mine]
    twin = tw.SGD(twins, lr=0.1)
    twin.load_state_dict(saved(optimizer.state_dict()))
    for optimizer_, params in ((optimizer, mine), (twin, twins)):
        optimizer_.param_groups[0]["average"] = 0.5
        follow(optimizer_, params, gradients(params, 2))
    assert torch.equal(optimizer.state[mine[0]]["average"], twin.state[twins[0]]["average"])
    del group["average"], group["average_every"]
    follow(optimizer, mine, gradients(mine, 1))


def test_groups_may_do_without_what_the_others_have():
    params = [leaf(rand(50, seed=i)) for i in range(3)]
    optimizer = tw.SGD(
        [{"params": params[:1]}, {"params": params[1:2], "lars": False, "average": None}],
        lr=0.1,
        lars=True,
        trust_coefficient=0.5,
        average=0.9,
        average_every=2,
        average_state="int8",
    )
    optimizer.add_param_group({"params": params[2:], "average": None, "max_norm": 1.0})
    follow(optimizer, params, gradients(params, 2))
    assert optimizer.averaged_weights().keys() == {0}
    recipes = [{one.name for one in optimizer.recipe_of(g).additions} for g in optimizer.param_groups]
    assert recipes == [{"lars", "average"}, set(), {"lars", "max_norm"}]
    twin = tw.SGD([{"params": [leaf(p)]} for p in params], lr=0.1)
    twin.load_state_dict(saved(optimizer.state_dict()))
    assert plain_groups(twin)[1] == plain_groups(optimizer)[1]
    mixed = tw.Mixed(
        [{"params": [leaf(rand(5))], "average": None}, {"params": [leaf(rand(6))]}],
        "SGD",
        lr=0.1,
        average=0.9,
        average_every=2,
    )
    assert [group.get("average") for group in mixed.param_groups] == [None, 0.9]


def test_a_schedule_moves_what_is_added():
    params, twins = ([leaf(rand(50))] for _ in range(2))
    optimizer = tw.AdamW(params, lr=0.1, weight_decay=0.5, decay_by="corrected", max_step_rms=0.5)
    oracle = Oracle(
        twins, "AdamW", lr=0.1, weight_decay=0.5, decoupled=True, decay_by="corrected", max_step_rms=0.5
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=12)
    for grads in gradients(params, 10):
        oracle.set_lr(optimizer.param_groups[0]["lr"])
        oracle.base.param_groups[0]["betas"] = optimizer.param_groups[0]["betas"]
        follow(optimizer, params, [grads])
        oracle.step(grads)
        schedule.step()
        assert_alike(optimizer, params, oracle, twins, 1e-7)


def test_a_group_that_is_added_later():
    params = [leaf(rand(50, seed=i)) for i in range(3)]
    optimizer = tw.SGD(params[:1], lr=0.1, max_norm=1.0)
    steps = gradients(params, 4)
    follow(optimizer, params[:1], [steps[0][:1]])
    optimizer.add_param_group({"params": params[1:2], "average": 0.5})
    follow(optimizer, params[:2], [steps[1][:2]])
    optimizer.add_param_group({"params": params[2:], "max_norm": None, "skip_nonfinite": 2})
    steps[2][2] = steps[2][2] * math.nan
    before = [p.detach().clone() for p in params]
    with pytest.warns(UserWarning, match="skipped"):
        follow(optimizer, params, [steps[2]])
    assert all(map(torch.equal, before, params))
    follow(optimizer, params, [steps[3]])
    norm = torch.cat(steps[3][:2]).norm()
    assert_close(params[0], before[0] - 0.1 * steps[3][0] / (norm + 1e-6))
    assert_close(params[2], before[2] - 0.1 * steps[3][2])


REFUSED = [
    ({"max_norm": -1.0}, ValueError, r"max_norm must be a number at least 0 or None, not -1.0"),
    ({"max_norm": "1"}, TypeError, r"max_norm must be a number at least 0 or None, not '1'"),
    ({"max_norm": False}, TypeError, r"max_norm must be a number at least 0 or None, not False"),
    ({"skip_nonfinite": True}, TypeError, r"skip_nonfinite must be an integer at least 1 or None, not True"),
    ({"max_norm": math.nan}, ValueError, r"max_norm must be .*not nan"),
    ({"max_value": -0.5}, ValueError, r"max_value must be a number at least 0 or None, not -0.5"),
    ({"skip_nonfinite": 0}, ValueError, r"skip_nonfinite must be an integer at least 1 or None, not 0"),
    ({"skip_nonfinite": 1.5}, ValueError, r"skip_nonfinite must be an integer .*not 1.5"),
    ({"lookahead": 0}, ValueError, r"lookahead must be an integer at least 1 or None, not 0"),
    ({"lookahead": 2, "lookahead_alpha": 1.5}, ValueError, r"lookahead_alpha must be .*\[0, 1\], not 1.5"),
    ({"lookahead_alpha": 0.3}, ValueError, r"lookahead_alpha=0.3 has no effect without lookahead"),
    ({"average": 1.0}, ValueError, r"average must be a number in \[0, 1\) or None, not 1.0"),
    ({"average": 0.9, "average_every": 0}, ValueError, r"average_every must be an integer at least 1, not 0"),
    ({"average_state": "int8"}, ValueError, r"average_state='int8' has no effect without average"),
    (
        {"average": 0.9, "average_state": "int4"},
        ValueError,
        r"average_state must be 'float32' or .*not 'int4'",
    ),
    ({"average": 0.9, "average_state": 8}, TypeError, r"average_state must be .*not 8"),
    ({"max_step_rms": 0.0}, ValueError, r"max_step_rms must be a number above 0 or None, not 0.0"),
    ({"trust_coefficient": 0.1}, ValueError, r"trust_coefficient=0.1 has no effect without lars"),
    ({"decay_by": "sometimes"}, ValueError, r"decay_by must be 'lr' or .*not 'sometimes'"),
    ({"decay_by": "independent"}, ValueError, r"decay_by='independent' requires decoupled weight decay"),
    ({"cautious_decay": True}, ValueError, r"cautious_decay=True requires decoupled weight decay"),
    (
        {"lamb": True, "decay_by": "corrected", "decoupled_weight_decay": True},
        ValueError,
        r"lamb=True scales weight decay with the step, which decay_by='corrected' does not",
    ),
    (
        {"average": 0.9, "average_state": "int8", "differentiable": True},
        ValueError,
        r"differentiable=True needs .*average_state='int8'",
    ),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=str)
def test_what_is_wrong_is_refused_by_name_and_nothing_changes(options, error, match):
    with pytest.raises(error, match=match):
        tw.SGD([leaf(rand(5))], lr=0.1, **options)
    param = leaf(rand(5))
    optimizer = tw.SGD([param], lr=0.1)
    with pytest.raises(error, match=match):
        optimizer.add_param_group({"params": [leaf(rand(3))], **options})
    with pytest.raises(error, match=match):
        tw.SGD([{"params": [leaf(rand(3))], **options}], lr=0.1)
    assert len(optimizer.param_groups) == 1
    follow(optimizer, [param], gradients([param], 1))


def test_a_rule_of_ones_own_with_a_name_that_an_addition_needs():
    def update(g, slow, s, on):
        return s.lr * g, slow + g

    rule = Rule(
        name="own",
        update=update,
        scalars=lambda h, t: {"lr": h.lr},
        slots=(Slot("slow"),),
        hypers=(LR,),
        counters=(),
    )
    own = type("Own", (tw.Optimizer,), {"rule": rule})
    params = [leaf(rand(5))]
    optimizer = own(params, {"lr": 0.1}, average=0.9)
    follow(optimizer, params, gradients(params, 2))
    assert_close(optimizer.state[params[0]]["slow"], sum(g for (g,) in gradients(params, 2)))
    with pytest.raises(ValueError, match="lookahead needs the name 'slow', which own uses itself"):
        own(params, {"lr": 0.1}, lookahead=2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_norm": -1.0}, "max_norm must be"),
        ({"average": 2.0}, "average must be"),
        ({"decay_by": "independent"}, "requires decoupled"),
    ],
    ids=str,
)
def test_a_checkpoint_with_a_wrong_addition_is_refused_and_nothing_changes(options, match):
    params = [leaf(rand(50))]
    optimizer = tw.SGD(params, lr=0.1, momentum=0.9, average=0.5)
    follow(optimizer, params, gradients(params, 2))
    wrong = copy.deepcopy(optimizer.state_dict())
    wrong["param_groups"][0].update(options)
    before = everything(optimizer)
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(wrong)
    assert_unchanged(before, everything(optimizer))


# --- averaged() ---


@pytest.mark.parametrize("options", [{}, {"average_state": "int8"}, {"state": "int8"}], ids=str)
def test_averaged_weights_are_exchanged_and_put_back(options):
    model = nn.Sequential(nn.Linear(80, 70), nn.BatchNorm1d(70), nn.Linear(70, 1))
    optimizer = tw.AdamW(model.named_parameters(), lr=0.05, average=0.8, **options)
    batches = [rand(16, 80, seed=i).float() for i in range(4)]
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    weights, buffers = copy.deepcopy((list(model.parameters()), list(model.buffers())))
    before, average = everything(optimizer), optimizer.averaged_weights()
    assert average.keys() == {name for name, _ in model.named_parameters()}

    def evaluate():
        with optimizer.averaged(model):
            for name, p in model.named_parameters():
                assert torch.equal(p, average[name])
            torch.optim.swa_utils.update_bn(batches, model)
            assert not torch.equal(model[1].running_mean, buffers[0])
            with pytest.raises(RuntimeError, match="averages already"), optimizer.averaged():
                pass
            with pytest.raises(RuntimeError, match="no step can be taken while"):
                optimizer.step()
            assert all(torch.equal(p, average[name]) for name, p in model.named_parameters())
            raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        evaluate()
    assert all(map(torch.equal, model.parameters(), weights))
    assert all(map(torch.equal, model.buffers(), buffers))
    after = everything(optimizer)
    assert_unchanged(([], before[1], before[2]), ([], after[1], after[2]))
    with optimizer.averaged():
        model(batches[0])
    assert not torch.equal(model[1].running_mean, buffers[0])  # whose model is not given
    optimizer.zero_grad()
    model(batches[0]).square().mean().backward()
    optimizer.step()


def test_there_is_no_average_before_a_step_or_without_being_asked():
    for optimizer in (tw.Adagrad([leaf(rand(5))], average=0.9), tw.SGD([leaf(rand(5))], lr=0.1)):
        with pytest.raises(RuntimeError, match="there is no average"), optimizer.averaged():
            pass
        assert optimizer.averaged_weights() == {}


def test_parameters_that_were_not_stepped_stay_in_averaged():
    params = [leaf(rand(5)), leaf(rand(6))]
    optimizer = tw.Adagrad(params, lr=0.1, average=0.5)
    for _ in range(3):
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
    with optimizer.averaged():
        assert not torch.equal(params[0], rand(5))
        assert torch.equal(params[1], rand(6))
    assert optimizer.averaged_weights().keys() == {0}


# --- plans ---


def test_plans_are_handed_on_with_what_is_added():
    POOL._plans.clear()
    options = {"max_value": 0.5, "average": 0.9, "lookahead": 2}
    runs = []
    for seed in range(3):
        mine, theirs = ([leaf(rand(5, seed=seed)), leaf(rand(7, seed=seed))] for _ in range(2))
        runs.append((tw.SGD(mine, lr=0.1, **options), mine, Oracle(theirs, "SGD", lr=0.1, **options), theirs))
    plans = set()
    for i in (0, 1, 2, 0, 1, 2, 2, 1, 0):
        optimizer, mine, oracle, theirs = runs[i]
        (grads,) = gradients(mine, 1, seed=10 + i)
        follow(optimizer, mine, [grads])
        oracle.step(grads)
        assert_alike(optimizer, mine, oracle, theirs)
        plans.add(id(optimizer._stepper.plan))
    assert INTERPRETED or len(plans) < len(runs) + 1
    other = tw.SGD([leaf(rand(5)), leaf(rand(7))], lr=0.1, max_value=0.5)  # alike, but for what is added
    params = other.param_groups[0]["params"]
    follow(other, params, gradients(params, 1))
    assert "average" not in other.state[params[0]]
    with_measures = tw.SGD([leaf(rand(5))], lr=0.1, max_norm=1.0)
    params = with_measures.param_groups[0]["params"]
    follow(with_measures, params, gradients(params, 3))
    assert not with_measures._stepper.plan.can_be_handed_on


def test_an_optimizer_with_measures_keeps_nobody_alive():
    params = [leaf(rand(50))]
    optimizer = tw.AdamW(params, max_norm=1.0, average=0.9, skip_nonfinite=2, statistics=True)
    follow(optimizer, params, gradients(params, 2))
    refs = [weakref.ref(params[0]), *map(weakref.ref, optimizer.state[params[0]].values())]
    del params, optimizer
    gc.collect()
    assert all(ref() is None for ref in refs)


# --- parameters in pieces ---

SHARDED = [
    {"max_norm": 1.0, "max_value": 0.5, "average": 0.9, "lookahead": 2},
    {"cautious": True, "max_step_rms": 0.5, "statistics": True},
    {"lamb": True, "skip_nonfinite": 2},
    {"lars": True, "trust_coefficient": 0.5},
]


def step_shards(rank, folder):
    """Step parameters of which two processes have a half each, and whole ones beside them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    warnings.simplefilter("ignore")

    def shard(tensor):
        return distribute_tensor(tensor.detach(), mesh, [Shard(0)])

    for options in SHARDED:
        wholes = [leaf(rand(10, 6)), leaf(rand(7))]
        shards = [shard(p).requires_grad_() for p in wholes]
        a, b = tw.SGD(shards, lr=0.1, **options), tw.SGD(wholes, lr=0.1, **options)
        for i, grads in enumerate(gradients(wholes, 3)):
            if i == 1 and "skip_nonfinite" in options:
                grads[0][-1] = math.nan  # in the second half
            give(wholes, grads)
            for p, g in zip(shards, grads, strict=True):
                p.grad = shard(g)
            a.step()
            b.step()
        for p, q in zip(shards, wholes, strict=True):
            assert_close(p.full_tensor(), q)
        for key, value in a.averaged_weights().items():
            assert_close(value.full_tensor(), b.averaged_weights()[key])
        for mine, theirs in zip(a.statistics(), b.statistics(), strict=True):
            assert {k: pytest.approx(float(v)) for k, v in mine.items()} == {
                k: float(v) for k, v in theirs.items()
            }
        assert a.skipped_steps == b.skipped_steps == ("skip_nonfinite" in options)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not WANTS_ALL or INTERPRETED, reason="needs THALWEG_TEST_ADDITIONS=all: it takes ten seconds"
)
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_what_is_measured_of_pieces_is_of_the_whole(tmp_path):
    torch.multiprocessing.spawn(step_shards, (str(tmp_path),), nprocs=2)
