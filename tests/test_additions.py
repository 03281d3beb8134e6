"""Additions: what they do to every rule, as plain torch operations do it around torch's own optimizers.

The oracles here are written from the papers and from torch's functions, and share nothing with the package.
`THALWEG_TEST_ADDITIONS=all` tries every addition with every rule; without it, each with a few.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import warnings

import pytest
import torch
from interpreter import INTERPRETED, smaller
from support import assert_close, follow, give, gradients, leaf, rand
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import thalweg as tw
from thalweg.stepping import plan

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

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
    """Every addition with a few rules, and every rule with some of them; or all with all."""
    wants_all = os.environ.get("THALWEG_TEST_ADDITIONS") == "all"
    names = list(RULES)
    for i, case in enumerate(CASES):
        allowed = [name for name in names if case not in DECOUPLED or name not in ONLY_L2]
        few = [allowed[(3 * i + 7 * k) % len(allowed)] for k in range(smaller(3, 1))]
        for name in allowed if wants_all else dict.fromkeys(few):
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
        monkeypatch.setattr(plan, "_kind", lambda sort: plan.ReferenceBatch)

    return switch


def compare(name, case, tensors, steps=None, **options):
    """Step ours and the oracle together, and compare after every step."""
    options = {**CASES[case], **options}
    optimizer, mine, oracle, theirs = pair(name, tensors, decoupled=case in DECOUPLED, **options)
    steps = steps or uneven(mine, smaller(6, 4))
    if "skip_nonfinite" in options:
        steps[1][0] = torch.full_like(mine[0], math.nan).detach()
        steps[4][2] = steps[4][2].clone().index_fill_(0, torch.tensor([5]), -math.inf)
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


@pytest.mark.parametrize(("name", "case"), matrix())
def test_an_addition_is_what_torch_does_around_its_optimizer(name, case):
    optimizer, oracle = compare(name, case, [rand(n, seed=n) for n in SIZES])
    if "statistics" in CASES[case]:
        (found,) = optimizer.statistics()
        assert found.keys() == oracle.statistics.keys()
        for key, value in found.items():
            assert float(value) == pytest.approx(oracle.statistics[key], rel=1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["SGD", "RAdam"])
def test_the_reference_adds_the_same(name, case, reference_only):
    reference_only()
    compare(name, case, [rand(n, seed=n) for n in (1, 7, 65, 0, 300)])
