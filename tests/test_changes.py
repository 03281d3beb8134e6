"""Random changes between steps, beside torch.optim, in a process that may not die.

A step reads libtorch's and CPython's memory by address, so that what a user changes between two steps and is
not seen is a wrong result at best. Each example is a list of changes with a step after each. Both sides
raise, or their parameters agree; where ours raises, its parameters and state are as before; and memory around
parameters and state stays as it was. `THALWEG_CHANGES_SECONDS=900` runs for so long, with new examples;
`python tests/test_changes.py EXAMPLE` runs one again, as JSON like that in the journal of a failure.
"""

from __future__ import annotations

import collections
import copy
import faulthandler
import gc
import json
import os
import pickle
import random
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from support import assert_close, leaf, rand
from torch import Tensor

import thalweg as tw
from thalweg.lowering.look.look import Look

SECONDS = float(os.environ.get("THALWEG_CHANGES_SECONDS", "0"))
JOURNAL = "THALWEG_CHANGES_JOURNAL"

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "SGD": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, {}, "float64"),
    "SGD32": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, {}, "float32"),
    "plain": ("SGD", {"lr": 0.1, "weight_decay": 0.1}, {}, "float64"),
    "AdamW": ("AdamW", {"lr": 0.01}, {}, "float64"),
    "AdamW32": ("AdamW", {"lr": 0.01, "amsgrad": True}, {}, "float32"),
    "RMSprop": ("RMSprop", {"lr": 0.01, "momentum": 0.5, "centered": True}, {}, "float64"),
    "int8": ("AdamW", {"lr": 0.01}, {"state": "int8"}, "float32"),
    "bfloat16": ("RMSprop", {"lr": 0.01, "momentum": 0.5}, {"state": "bfloat16"}, "float32"),
    "weights": ("AdamW", {"lr": 0.01}, {"state": "int8", "weight_bits": 24}, "bfloat16"),
}
"""Class, its arguments, those that only ours takes, and the dtype of parameters."""

REFUSED = {
    r"must have the shape of its parameter": "torch broadcasts",
    r"has a gradient of shape": "torch broadcasts",
    r"several elements in one place": "torch skips what is not written",
    r"requires a momentum and zero dampening": "torch asks that of the constructor only",
    r"holds codes, so|must have codes of": "torch has no codes",
    r"state '\w+' must be (a tensor|one number)": "torch does not always look",
}
"""What ours alone may refuse."""

GUARD, FRAME = 77.0, 24
SHAPES = ((3, 4), (4, 4), (5,), (), (2, 1, 3), (1, 2, 1, 2, 1, 2), (0, 3), (2, 3, 2, 2))
LARGE = (70, 60)  # smaller state is not packed
KEYS = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg")


def numbers(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


class Side:
    """One of two optimizers that go the same way."""

    def __init__(self, configuration: str, is_ours: bool) -> None:
        name, arguments, own, dtype = CONFIGURATIONS[configuration]
        self.is_ours = is_ours
        self.is_packed = bool(own)
        self.dtype = getattr(torch, dtype)
        self.guards: list[tuple[Tensor, Tensor]] = []
        self.later: list[Callable[[], None]] = []
        self.lazy: list[tuple[Tensor, Tensor]] = []
        kind = getattr(tw if is_ours else torch.optim, name)
        self.make = lambda params: kind(
            params, **copy.deepcopy(arguments), **(own if is_ours else {"foreach": False})
        )
        rng = random.Random(1)
        self.params = [self.parameter(rng) for _ in range(4)]
        groups = [{"params": self.params[:3]}, {"params": self.params[3:], "lr": 0.02}]
        self.optimizers = [self.make(groups)]
        for p in self.params:
            self.give(p, rng)

    @property
    def optimizer(self) -> Any:
        return self.optimizers[0]

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:
        return self.optimizer.state

    def shape(self, rng: random.Random) -> tuple[int, ...]:
        return LARGE if self.is_packed and rng.random() < 0.6 else rng.choice(SHAPES)

    def parameter(self, rng: random.Random) -> Tensor:
        value = numbers(rng, self.shape(rng), self.dtype)
        return self.guarded(value, rng).requires_grad_()

    def guarded(self, value: Tensor, rng: random.Random, kind: str | None = None) -> Tensor:
        """Return the values in memory whose surroundings may not change."""
        shape = list(value.shape)
        kind = kind or rng.choice(["plain", "plain", "plain", "transposed", "strided", "wide"])
        order = list(range(len(shape)))
        if kind == "transposed":
            order.reverse()
        strides, step = [0] * len(shape), 2 if kind == "strided" else 1
        for d in reversed(order):
            strides[d] = step
            step *= max(shape[d], 1) + (kind == "wide" and d == order[-1])
        base = torch.full((step + 2 * FRAME,), GUARD).to(value.dtype)
        mine = torch.zeros(base.shape, dtype=torch.bool)
        mine.as_strided(shape, strides, FRAME).fill_(True)
        view = base.as_strided(shape, strides, FRAME)
        view.copy_(value)
        self.guards.append((base, ~mine))
        return view.detach()

    def give(self, p: Tensor, rng: random.Random) -> None:
        p.grad = None
        p.grad = numbers(rng, tuple(p.shape), p.dtype)

    def keep_lazily(self, tensor: Tensor) -> None:
        """Keep a copy that is made when one of both is written."""
        value = tensor.detach().clone()
        self.lazy.append((torch._lazy_clone(tensor.detach()), value))

    def check_guards(self) -> None:
        for lazy, value in self.lazy:
            assert torch.equal(lazy.nan_to_num(), value.nan_to_num()), "a lazy copy was written"
        self.lazy.clear()  # looking at it is no copy: what comes next starts anew
        for base, others in self.guards:
            rest = base[others].float()
            assert bool((rest == torch.full((), GUARD).to(base.dtype).float()).all()), (
                "memory around was written"
            )

    def repair(self, rng: random.Random) -> None:
        """Make everything usable again, but keep the optimizers, which may remember too much."""
        self.guards.clear()
        self.params = [self.parameter(rng) for _ in range(4)]
        new = self.make([{"params": self.params[:3]}, {"params": self.params[3:], "lr": 0.02}])
        for optimizer in self.optimizers:
            optimizer.state.clear()
            optimizer.param_groups[:] = [dict(g, params=list(g["params"])) for g in new.param_groups]
        for p in self.params:
            self.give(p, rng)

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def snapshot(self) -> list[Any]:
        states = [
            (key, name, value.detach().clone() if isinstance(value, Tensor) else value)
            for optimizer in self.optimizers
            for key, own in optimizer.state.items()
            if isinstance(own, dict)
            for name, value in own.items()
        ]
        there = [p for p in self.listed() if p.untyped_storage().nbytes() or not p.numel()]
        return [[p.detach().clone() for p in there], states]

    def listed(self) -> list[Tensor]:
        return [p for group in self.groups for p in group["params"]]


class World:
    """Both sides, and whether their values can still be compared."""

    def __init__(self, configuration: str) -> None:
        self.sides = [Side(configuration, False), Side(configuration, True)]
        self.theirs, self.ours = self.sides
        self.tolerance: float | None = None
        self.usual = {torch.float64: 1e-8, torch.float32: 2e-3}.get(self.ours.dtype)
        self.be_strict()

    def be_strict(self) -> None:
        self.tolerance = None if self.ours.is_packed else self.usual

    def repair(self, seed: int) -> None:
        for side in self.sides:
            side.repair(random.Random(seed))
        torch.set_default_dtype(torch.float32)
        self.be_strict()

    def change(self, name: str, seed: int) -> None:
        errors = [self._try(lambda side=side: self._apply(side, name, seed)) for side in self.sides]
        if any(errors):
            assert errors[0] or self._may_refuse(errors[1]), f"only ours refuses {name}: {errors[1]!r}"
            self.repair(seed)
        self.step(seed)

    def _apply(self, side: Side, name: str, seed: int) -> None:
        said = CHANGES[name](side, random.Random(seed))
        if said == "loose":
            self.tolerance = None
        elif said is not None and self.tolerance is not None:
            self.tolerance = max(self.tolerance, float(said))

    def step(self, seed: int) -> None:
        before = self.ours.snapshot()
        errors = [self._try(side.step) for side in self.sides]
        for side in self.sides:
            for do in side.later:
                do()
            side.later.clear()
        self.ours.check_guards()
        if errors[1]:
            self._check_error(errors[0], errors[1])
            # The reference is made of torch's operations, which raise where they are, as in torch.
            is_torchs = str(errors[0]) == str(errors[1]) or "inference" in str(errors[1])
            if len(self.ours.optimizers) == 1 and not is_torchs:
                _check_alike(before, self.ours.snapshot())
        if any(errors):
            self.repair(seed)
            return
        if self.tolerance is not None:
            self._compare(self.tolerance)

    def _compare(self, tolerance: float) -> None:
        mine = once(self.ours.listed())
        for p, q in zip(mine, self.theirs.listed(), strict=True):
            scale = max(1.0, float(q.detach().abs().max())) if q.numel() else 1.0
            torch.testing.assert_close(
                p.detach().double(),
                q.detach().double(),
                rtol=tolerance,
                atol=tolerance * scale,
                equal_nan=True,
            )

    def _check_error(self, theirs: Exception | None, ours: Exception) -> None:
        assert theirs is not None or self._may_refuse(ours), f"only ours raises: {ours!r}"
        vague = (KeyError, AttributeError, IndexError, AssertionError)
        assert not isinstance(ours, vague) or type(theirs) is type(ours), (
            f"{ours!r} where torch says {theirs!r}"
        )

    @staticmethod
    def _may_refuse(error: Exception | None) -> bool:
        return any(re.search(pattern, str(error)) for pattern in REFUSED)

    @staticmethod
    def _try(do: Callable[[], Any]) -> Exception | None:
        try:
            do()
        except Exception as error:
            return error
        return None


def _check_alike(before: list[Any], after: list[Any]) -> None:
    for p, q in zip(before[0], after[0], strict=True):
        assert torch.equal(p.nan_to_num(), q.nan_to_num()), "an error came after a parameter had moved"
    assert [one[:2] for one in before[1]] == [one[:2] for one in after[1]], (
        "an error came after state had changed"
    )
    for (_, name, p), (_, _, q) in zip(before[1], after[1], strict=True):
        if isinstance(p, Tensor) and p.layout == torch.strided and isinstance(q, Tensor):
            assert torch.equal(p.nan_to_num(), q.nan_to_num()), f"an error came after {name} had moved"


# --- changes: a function of a side and of what decides, alike on both sides ---
# They return what the comparison may still ask for: a tolerance, "loose" for nothing at all.

CHANGES: dict[str, Callable[[Side, random.Random], Any]] = {}


def change(function: Callable[[Side, random.Random], Any]) -> Callable[[Side, random.Random], Any]:
    CHANGES[function.__name__] = function
    return function


def pick(side: Side, rng: random.Random) -> Tensor:
    return rng.choice(side.params)


def once(params: Any) -> list[Tensor]:
    return list({id(p): p for p in params}.values())


def pick_state(side: Side, rng: random.Random) -> tuple[dict[str, Any], str] | None:
    """Return a parameter's state and a key that it has."""
    own = side.state.get(pick(side, rng))
    keys = rng.sample(KEYS, len(KEYS))
    if side.is_packed and side.is_ours and isinstance(own, dict):
        keys = rng.sample(sorted(map(str, own)), len(own))
    if not isinstance(own, dict):
        return None
    return next(((own, key) for key in keys if isinstance(own.get(key), Tensor)), None)


@change
def nothing(side, rng):
    pass


@change
def give_all(side, rng):
    for p in side.params:
        side.give(p, rng)


@change
def repair(side, rng):
    side.repair(rng)


@change
def data_alike(side, rng):
    p = pick(side, rng)
    p.data = side.guarded(numbers(rng, tuple(p.shape), p.dtype), rng)


@change
def data_same_layout(side, rng):
    p = pick(side, rng)
    p.data = side.guarded(numbers(rng, tuple(p.shape), p.dtype), rng, "plain")


@change
def data_of_another_shape(side, rng):
    p = pick(side, rng)
    p.data = side.guarded(numbers(rng, side.shape(rng), p.dtype), rng)
    if rng.random() < 0.6:
        side.give(p, rng)
        side.state.pop(p, None)


@change
def data_transposed(side, rng):
    p = pick(side, rng)
    p.data = p.data.permute(*reversed(range(p.dim())))
    if rng.random() < 0.5:
        side.give(p, rng)


@change
def data_cut(side, rng):
    p = pick(side, rng)
    if p.dim() and len(p) > 1:
        p.data = p.data[1:]
    if rng.random() < 0.5:
        side.give(p, rng)
        side.state.pop(p, None)


@change
def data_channels_last(side, rng):
    p = pick(side, rng)
    if p.dim() == 4:
        p.data = p.data.contiguous(memory_format=torch.channels_last)


@change
def data_of_another_dtype(side, rng):
    p = pick(side, rng)
    dtype = rng.choice([torch.float32, torch.float64, torch.bfloat16, torch.float16])
    p.data = p.data.to(dtype)
    if rng.random() < 0.7:
        side.give(p, rng)
    if rng.random() < 0.5:
        side.state.pop(p, None)
    return "loose"


@change
def data_negated_lazily(side, rng):
    p = pick(side, rng)
    p.data = torch._neg_view(numbers(rng, tuple(p.shape), p.dtype))


@change
def data_copied_on_write(side, rng):
    side.keep_lazily(pick(side, rng))


@change
def set_to(side, rng):
    p = pick(side, rng)
    shape = tuple(p.shape) if rng.random() < 0.5 else side.shape(rng)
    with torch.no_grad():
        p.set_(side.guarded(numbers(rng, shape, p.dtype), rng))
    if rng.random() < 0.6:
        side.give(p, rng)
        side.state.pop(p, None)


@change
def storage_grows(side, rng):
    p = pick(side, rng)
    p.untyped_storage().resize_(p.untyped_storage().nbytes() + 4096)


@change
def storage_goes_and_comes(side, rng):
    p = pick(side, rng)
    value = numbers(rng, tuple(p.shape), p.dtype)
    p.data = value.clone()
    p.grad = None
    size = p.untyped_storage().nbytes()
    p.untyped_storage().resize_(0)

    def back():
        p.untyped_storage().resize_(size)
        p.data.copy_(value)

    side.later.append(back)


@change
def resized_in_place(side, rng):
    p = pick(side, rng)
    value = numbers(rng, side.shape(rng), p.dtype)
    p.data = numbers(rng, tuple(p.shape), p.dtype)
    p.data.resize_(value.shape).copy_(value)
    side.give(p, rng)
    side.state.pop(p, None)


@change
def requires_grad_toggled(side, rng):
    p = pick(side, rng)
    p.requires_grad_(not p.requires_grad)


@change
def grad_none(side, rng):
    pick(side, rng).grad = None


@change
def grad_all_none(side, rng):
    side.optimizer.zero_grad()


@change
def grad_new(side, rng):
    side.give(pick(side, rng), rng)


@change
def grad_transposed(side, rng):
    p = pick(side, rng)
    p.grad = None
    p.grad = numbers(rng, tuple(reversed(p.shape)), p.dtype).permute(*reversed(range(p.dim())))


@change
def grad_expanded(side, rng):
    p = pick(side, rng)
    p.grad = None
    p.grad = numbers(rng, (1,) * p.dim(), p.dtype).expand(p.shape)


@change
def grad_guarded(side, rng):
    p = pick(side, rng)
    p.grad = None
    p.grad = side.guarded(numbers(rng, tuple(p.shape), p.dtype), rng)


@change
def grad_sparse(side, rng):
    p = pick(side, rng)
    if p.dim():
        p.grad = None
        p.grad = numbers(rng, tuple(p.shape), p.dtype).to_sparse(rng.randint(1, p.dim()))
    return "loose"


@change
def grad_of_another_dtype(side, rng):
    p = pick(side, rng)
    p.grad = None
    p.grad_dtype = None
    p.grad = numbers(rng, tuple(p.shape), rng.choice([torch.float32, torch.bfloat16, torch.float64]))
    return "loose"


@change
def grad_data_replaced(side, rng):
    p = pick(side, rng)
    if p.grad is not None and p.grad.layout == torch.strided:
        shape = tuple(p.shape) if rng.random() < 0.5 else side.shape(rng)
        p.grad.data = side.guarded(numbers(rng, shape, p.grad.dtype), rng)


@change
def grad_negated_lazily(side, rng):
    p = pick(side, rng)
    p.grad = None
    p.grad = torch._neg_view(numbers(rng, tuple(p.shape), p.dtype))


@change
def grad_of_another(side, rng):
    p, q = pick(side, rng), pick(side, rng)
    if q.grad is not None and q.shape == p.shape and q.dtype == p.dtype == q.grad.dtype:
        p.grad = None
        p.grad = q.grad


@change
def state_replaced(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        own[key] = side.guarded(own[key].detach().clone(), rng)


@change
def state_moved(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        own[key] = side.guarded(own[key].detach().clone(), rng, "plain")


@change
def state_all_guarded(side, rng):
    for p in side.params:
        for key, value in side.state.get(p, {}).items():
            if isinstance(value, Tensor):
                side.state[p][key] = side.guarded(value.detach().clone(), rng, "plain")


@change
def state_data_replaced(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        own[key].data = side.guarded(own[key].detach().clone(), rng)


@change
def state_cut(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        own[key] = own[key][:1] if own[key].dim() else torch.zeros(2)


@change
def state_cut_in_place(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        own[key] = own[key].detach().clone()
        own[key].resize_(max(own[key].numel() - 1, 0))
    return "loose"


@change
def state_expanded(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        one = side.guarded(torch.ones((1,) * own[key].dim(), dtype=own[key].dtype), rng, "plain")
        own[key] = one.expand(own[key].shape)


@change
def state_requires_grad(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        if own[key].is_floating_point():
            own[key] = side.guarded(own[key].detach().clone(), rng).requires_grad_()


@change
def state_behind_a_graph(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        if own[key].is_floating_point():
            leaf = side.guarded(own[key].detach().clone(), rng, "transposed").requires_grad_()
            own[key] = leaf.view_as(leaf)
    return "loose"


@change
def state_item_deleted(side, rng):
    if found := pick_state(side, rng):
        del found[0][found[1]]
    return "loose"


@change
def state_of_one_cleared(side, rng):
    own = side.state.get(pick(side, rng))
    if isinstance(own, dict):
        own.clear()


@change
def state_of_one_is_new(side, rng):
    side.state[pick(side, rng)] = {}


@change
def state_cleared(side, rng):
    side.state.clear()


@change
def state_cast(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        own[key] = own[key].to(rng.choice([torch.float32, torch.float64, torch.bfloat16]))
    return "loose"


@change
def state_to_another_object(side, rng):
    if found := pick_state(side, rng):
        found[0][found[1]] = rng.choice(
            [None, 3, 2.5, torch.nn.Parameter(found[0][found[1]].clone().float())]
        )
    return "loose"


@change
def state_negated_lazily(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        if own[key].is_floating_point():
            own[key] = torch._neg_view(-own[key])


@change
def state_copied_on_write(side, rng):
    if found := pick_state(side, rng):
        side.keep_lazily(found[0][found[1]])


@change
def counter_in_a_row(side, rng):
    own = side.state.get(pick(side, rng))
    if isinstance(own, dict) and isinstance(own.get("step"), Tensor) and own["step"].dim() == 0:
        row = torch.full((7,), float(own["step"]), dtype=own["step"].dtype)
        own["step"] = rng.choice([row[2], row[::3][1], row[4:5].reshape(())])


@change
def state_in_another_mapping(side, rng):
    p = pick(side, rng)
    if isinstance(side.state.get(p), dict):
        kind = rng.choice([collections.OrderedDict, lambda own: collections.defaultdict(list, own), dict])
        side.state[p] = kind(side.state[p])
        if rng.random() < 0.5 and side.state[p]:
            key = next(iter(side.state[p]))
            side.state[p][key] = side.state[p].pop(key)


@change
def state_reordered(side, rng):
    kept = list(side.state.items())
    rng.shuffle(kept)
    side.state.clear()
    side.state.update(kept)


@change
def whole_state_in_another_mapping(side, rng):
    kept = collections.OrderedDict(side.state)
    for p in side.params:
        if p in kept and rng.random() < 0.5:
            kept.move_to_end(p)
    side.optimizer.state = kept if rng.random() < 0.5 else collections.defaultdict(dict, kept)


@change
def state_shared(side, rng):
    p, q = pick(side, rng), pick(side, rng)
    alike = p.shape == q.shape and not side.is_packed  # codes and numbers would take turns
    if alike and p in side.state and q in side.state:
        side.state[p] = side.state[q]
    return "loose"


@change
def counter_shared(side, rng):
    p, q = (side.state.get(pick(side, rng)) for _ in range(2))
    if isinstance(p, dict) and isinstance(q, dict) and "step" in q and "step" in p:
        p["step"] = q["step"]
    return "loose"


@change
def foreign_added(side, rng):
    own = side.state.get(pick(side, rng))
    if isinstance(own, dict) and own:
        own[f"mine{rng.randint(0, 2)}"] = rng.choice([1, torch.ones(3), torch.ones((1,) * 10), "text", [1]])
    side.state[f"foreign{rng.randint(0, 2)}"] = rng.choice([1, {"a": torch.ones(2)}, None])


@change
def foreign_removed(side, rng):
    for own in list(side.state.values()):
        if isinstance(own, dict):
            for key in [key for key in own if str(key).startswith("mine")]:
                del own[key]
    for key in [key for key in side.state if isinstance(key, str)]:
        del side.state[key]


@change
def group_added(side, rng):
    p = side.parameter(rng)
    side.give(p, rng)
    side.params.append(p)
    side.optimizer.add_param_group({"params": [p], "lr": 0.05})


@change
def group_removed(side, rng):
    if len(side.groups) > 1:
        gone = side.groups.pop(rng.randrange(len(side.groups)))
        side.params = [p for p in side.params if not any(p is q for q in gone["params"])] or side.listed()
    if not side.params:
        side.repair(rng)


@change
def groups_reordered(side, rng):
    side.groups.reverse()


@change
def groups_copied(side, rng):
    kind = rng.choice([dict, collections.OrderedDict])
    side.groups[:] = [kind(group) for group in side.groups]


@change
def group_keys_reordered(side, rng):
    group = rng.choice(side.groups)
    items = sorted(group.items(), reverse=rng.random() < 0.5)
    group.clear()
    group.update(items)


@change
def group_of_a_user(side, rng):
    rng.choice(side.groups)[f"mine{rng.randint(0, 1)}"] = rng.choice([1, object(), [2]])


@change
def list_copied(side, rng):
    group = rng.choice(side.groups)
    group["params"] = rng.choice([list, list, tuple])(group["params"])


@change
def list_edited(side, rng):
    group = rng.choice(side.groups)
    group["params"] = once(group["params"])
    if rng.random() < 0.5:
        group["params"].reverse()
    else:
        p = side.parameter(rng)
        side.give(p, rng)
        side.params.append(p)
        group["params"].append(p)


@change
def parameter_replaced(side, rng):
    """Another tensor in the old one's place, as likely as not at its address."""
    group = rng.choice(side.groups)
    group["params"] = once(group["params"])
    if not group["params"]:
        return
    i = rng.randrange(len(group["params"]))
    side.state.pop(group["params"][i], None)
    at = next(j for j, p in enumerate(side.params) if p is group["params"][i])
    group["params"][i] = side.params[at] = None
    gc.collect()
    group["params"][i] = side.params[at] = side.parameter(rng)
    side.give(side.params[at], rng)


@change
def listed_twice(side, rng):
    group = rng.choice(side.groups)
    if side.is_ours and group["params"]:  # torch steps it twice, which is meant to differ
        group["params"] = [*group["params"], group["params"][0]]
    else:
        group["params"] = list(group["params"])


@change
def learning_rate(side, rng):
    rng.choice(side.groups)["lr"] = rng.choice([0.1, 0.03, torch.tensor(0.05, dtype=torch.float64)])
    return 1e-5


@change
def learning_rate_in_place(side, rng):
    for group in side.groups:
        if isinstance(group["lr"], Tensor):
            group["lr"] *= 0.5


@change
def betas_in_place(side, rng):
    group = rng.choice(side.groups)
    if "betas" in group:
        group["betas"] = list(group["betas"])
        group["betas"][0] = rng.choice([0.9, 0.5])


@change
def flag_toggled(side, rng):
    group = rng.choice(side.groups)
    name = rng.choice(["maximize", "amsgrad", "nesterov", "centered"])
    if name in group:
        group[name] = not group[name]


@change
def decay_toggled(side, rng):
    group = rng.choice(side.groups)
    group["weight_decay"] = 0.0 if group["weight_decay"] else 0.1


@change
def momentum_toggled(side, rng):
    group = rng.choice(side.groups)
    if "momentum" in group:
        group["momentum"] = 0.0 if group["momentum"] else 0.9
        if not group["momentum"] and group.get("nesterov"):
            group["nesterov"] = False


# Additions that change no parameter, so that torch, which has none of them, still goes the same way.
ADDED: list[dict[str, Any]] = [
    {},
    {"max_norm": 1e30},
    {"average": 0.9},
    {"average": 0.9, "average_every": 2, "average_state": "int8"},
    {"lookahead": 10**9, "lookahead_state": "bfloat16"},
    {"statistics": True},
    {"skip_nonfinite": 10**9, "max_step_rms": 1e30},
    {"average": 0.5, "lookahead": 10**9, "max_norm": torch.tensor(1e30), "statistics": True},
]


@change
def added(side, rng):
    group, what = rng.choice(side.groups), rng.choice(ADDED)
    if side.is_ours:
        for key in {key for one in ADDED for key in one} & group.keys():
            del group[key]
        group.update(what)


@change
def added_everywhere(side, rng):
    what = rng.choice(ADDED)
    if side.is_ours:
        for group in side.groups:
            group.update(what)


@change
def state_of_additions_changed(side, rng):
    p, key, kind = pick(side, rng), rng.choice(("average", "slow")), rng.randrange(5)
    own = side.state.get(p)
    if side.is_packed or not isinstance(own, dict) or not isinstance(own.get(key), Tensor):
        return
    value = own[key]
    if kind == 0:
        del own[key]
    elif kind == 1:
        own[key] = side.guarded(value.detach().clone(), random.Random(1), "strided")
    elif kind == 2:
        own[key] = value.to(torch.float64 if value.dtype == torch.float32 else torch.float32)
    elif kind == 3:
        own[key] = value.t().contiguous().t() if value.dim() == 2 else value.clone()
    else:
        side.keep_lazily(value)


@change
def averaged_meanwhile(side, rng):
    if not side.is_ours or not side.optimizer.averaged_weights():
        return
    with side.optimizer.averaged():
        pass
    side.optimizer.statistics()


@change
def loaded_own(side, rng):
    side.optimizer.load_state_dict(copy.deepcopy(side.optimizer.state_dict()))
    return 1e-5


@change
def loaded_shared(side, rng):
    side.optimizer.load_state_dict(side.optimizer.state_dict())
    return 1e-5


@change
def deep_copied(side, rng):
    side.optimizers, side.params = copy.deepcopy((side.optimizers, side.params))
    side.guards.clear()


@change
def pickled(side, rng):
    side.optimizers, side.params = pickle.loads(pickle.dumps((side.optimizers, side.params)))
    side.guards.clear()
    for p in side.params:
        side.give(p, rng)


@change
def second_optimizer(side, rng):
    if len(side.optimizers) == 1:
        side.optimizers.append(side.make(once(side.listed())))


@change
def first_optimizer_alone(side, rng):
    del side.optimizers[1:]


@change
def memory_shared(side, rng):
    p, q = pick(side, rng), pick(side, rng)
    if p is not q and p.numel() > 1 and p.dtype == q.dtype:
        flat = p.data.reshape(-1)
        q.data = rng.choice([flat, flat[1:], p.data, flat[: p.numel() // 2]])
        side.give(q, rng)
        side.state.pop(q, None)
    return "loose"


@change
def swapped(side, rng):
    p = pick(side, rng)
    q = side.parameter(rng)
    q.grad = numbers(rng, tuple(q.shape), q.dtype)
    torch.utils.swap_tensors(p, q)
    side.state.pop(p, None)


@change
def state_swapped(side, rng):
    if found := pick_state(side, rng):
        own, key = found
        torch.utils.swap_tensors(own[key], own[key].detach().clone())


@change
def default_dtype(side, rng):
    torch.set_default_dtype(rng.choice([torch.float32, torch.float64]))


@change
def inside_inference_mode(side, rng):
    with torch.inference_mode():
        side.step()


# --- the process ---


def run(example: Any) -> None:
    """Run one example: a configuration, and changes with what decides about them."""
    if JOURNAL in os.environ:
        Path(os.environ[JOURNAL]).write_text(json.dumps(example))
    configuration, changes = example
    torch.set_default_dtype(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        world = World(configuration)
        world.step(0)
        for name, seed in changes:
            world.change(name, seed)
    torch.set_default_dtype(torch.float32)


def main() -> None:
    torch.set_num_threads(2)
    faulthandler.enable()
    if len(sys.argv) > 1:
        return DEADLY[sys.argv[1]]() if sys.argv[1] in DEADLY else run(json.loads(sys.argv[1]))
    changes = st.lists(
        st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 999)), min_size=5, max_size=30
    )
    examples = st.tuples(st.sampled_from(sorted(CONFIGURATIONS)), changes)
    end = time.monotonic() + SECONDS
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=not SECONDS,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    test = settings(hypothesis.given(examples)(run))
    test()
    while time.monotonic() < end:
        test()
    return None


EXAMPLES = 250


def test_steps_follow_whatever_changes(tmp_path):
    journal = tmp_path / "example.json"
    child = start({JOURNAL: str(journal)})
    if child.returncode:
        died = f"died of signal {-child.returncode}" if child.returncode < 0 else "failed"
        pytest.fail(f"{died}; the last example was\n{journal.read_text()}\n{child.stdout}{child.stderr}")


def start(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, __file__, *arguments], {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True)


# --- what was found ---


def both(name: str, shape: tuple[int, ...], **options: Any) -> list[tuple[Tensor, Any]]:
    """Return a parameter with a gradient and torch's optimizer of it, and with ours; stepped once."""
    found = []
    for library in (torch.optim, tw):
        p = rand(*shape).requires_grad_()
        p.grad = rand(*shape, seed=1)
        found.append((p, getattr(library, name)([p], lr=0.1, **options)))
        found[-1][1].step()
    return found


def step_alike(pairs: list[tuple[Tensor, Any]], steps: int = 3) -> None:
    for _ in range(steps):
        for _, optimizer in pairs:
            optimizer.step()
    assert_close(pairs[1][0], pairs[0][0])


@pytest.mark.parametrize(
    "kind", [collections.OrderedDict, collections.defaultdict], ids=lambda kind: kind.__name__
)
def test_state_may_be_in_any_dict(kind):
    pairs = both("AdamW", (3, 4))
    for p, optimizer in pairs:
        own = kind() if kind is collections.OrderedDict else kind(list)
        own.update(optimizer.state[p])
        optimizer.state[p] = own
    step_alike(pairs)
    assert pairs[1][1]._stepper.plan.seen is not None, "the slow way was taken"


def test_a_mapping_with_an_order_of_its_own_gives_nobody_the_state_of_another():
    params = [leaf(rand(4, 4), torch.float32), leaf(rand(3), torch.float32)]
    optimizer = tw.AdamW(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.state = collections.OrderedDict(optimizer.state)
    optimizer.state.move_to_end(params[0])
    look = Look(optimizer.param_groups, optimizer.state, [id(p) for p in params])
    assert not look.complete
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in params] == [2, 2]


def test_parameters_that_share_a_dict_of_state_are_not_given_the_memory_of_another():
    params = [leaf(rand(300, 40), torch.float32), leaf(rand(5), torch.float32)]
    optimizer = tw.AdamW(params, lr=0.1)
    shared: dict[str, Tensor] = {}
    optimizer.state.update((p, shared) for p in params)
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="must have the shape of its parameter"):
        optimizer.step()


def test_state_that_requires_a_gradient_is_brought_home_too():
    pairs = both("AdamW", (3, 4))
    for p, optimizer in pairs:
        value = optimizer.state[p]["exp_avg"]
        optimizer.state[p]["exp_avg"] = value.t().contiguous().t().requires_grad_()
    step_alike(pairs)
    p, optimizer = pairs[1]
    optimizer.state[p]["exp_avg"] = torch.zeros(3, 1, dtype=p.dtype, requires_grad=True).expand(3, 4)
    optimizer.step()
    assert optimizer.state[p]["exp_avg"].is_contiguous()  # twelve places for twelve numbers


@pytest.mark.parametrize("layout", ["expanded", "strided"])
def test_scales_anywhere_in_memory_are_taken_for_what_they_say(layout):
    p = leaf(rand(100, 100), torch.float32)
    p.grad = torch.ones_like(p)
    optimizer = tw.AdamW([p], lr=0.1, state="int8")
    optimizer.step()
    scales = optimizer.state[p]["exp_avg_scale"]
    around = torch.full((2 * len(scales),), 7, dtype=scales.dtype)
    view = around[:1].expand(len(scales)) if layout == "expanded" else around[::2]
    view[:1].copy_(scales[:1]) if layout == "expanded" else view.copy_(scales)
    optimizer.state[p]["exp_avg_scale"] = view
    optimizer.step()
    rest = around[1:] if layout == "expanded" else around[1::2]
    assert (rest == 7).all()


def test_codes_with_gaps_between_them_are_read():
    found = []
    for gaps in (False, True):
        p = leaf(rand(100, 100), torch.float32)
        p.grad = rand(100, 100, seed=1, dtype=torch.float32)
        optimizer = tw.AdamW([p], lr=0.1, state="int8")
        optimizer.step()
        codes = optimizer.state[p]["exp_avg_ratios"]
        if gaps:
            optimizer.state[p]["exp_avg_ratios"] = torch.stack([codes, codes], dim=2)[:, :, 0]
        p.grad = torch.zeros_like(p)
        optimizer.step()
        found.append(p)
    assert_close(found[1], found[0], 1e-2)


def test_a_counter_with_a_lazy_sign_is_read():
    pairs = both("AdamW", (3,))
    for p, optimizer in pairs:
        optimizer.state[p]["step"] = torch._neg_view(torch.tensor(-2.0))
    step_alike(pairs)


@pytest.mark.parametrize("value", [None, torch.zeros(2), "two"], ids=str)
def test_a_counter_that_is_no_number_is_refused(value):
    _, (p, optimizer) = both("AdamW", (3,))
    optimizer.state[p]["step"] = value
    with pytest.raises(ValueError, match="state 'step' must be one number, not"):
        optimizer.step()


@pytest.mark.parametrize("value", [3, "three"], ids=str)
def test_a_slot_that_is_no_tensor_is_refused(value):
    _, (p, optimizer) = both("AdamW", (3,))
    optimizer.state[p]["exp_avg"] = value
    with pytest.raises(ValueError, match="state 'exp_avg' must be a tensor, not"):
        optimizer.step()


def test_a_counter_that_requires_a_gradient_is_as_exact_as_any():
    shape = (1,) * 10  # stepped by the reference
    pairs = both("AdamW", shape)
    for p, optimizer in pairs:
        optimizer.state[p]["step"].requires_grad_()
    step_alike(pairs)


@pytest.mark.parametrize("lazily", [lambda x: torch._neg_view(-x), lambda x: x.conj().resolve_conj().conj()])
def test_sparse_gradients_of_parameters_with_lazy_signs(lazily):
    found = []
    for library in (torch.optim, tw):
        p = rand(4, 3).to(torch.complex128).mul(1 + 2j).requires_grad_()
        p.data = lazily(p.data)
        p.grad = torch.full((4, 3), 1j, dtype=torch.complex128).to_sparse(1)
        library.SGD([p], lr=0.1).step()
        found.append(p.detach().resolve_neg().resolve_conj())
    assert_close(found[1], found[0])


def test_an_expanded_gradient_that_the_step_unscales_is_exchanged():
    p, q = leaf(rand(4, 3)), leaf(rand(2))
    optimizer = tw.SGD([p, q], lr=0.1, fused=True)
    p.grad = torch.full((1,), 4.0, dtype=p.dtype).expand(4, 3)
    q.grad = torch.full_like(q, 4.0)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)
    optimizer.step()
    assert_close(p, rand(4, 3) - 0.2)
    assert_close(p.grad, torch.full((4, 3), 2.0, dtype=p.dtype))
    assert_close(q.grad, torch.full((2,), 2.0, dtype=q.dtype))


def test_a_nested_parameter_without_a_gradient_is_nobodys_trouble():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]).requires_grad_()
    p = leaf(rand(3))
    p.grad = torch.ones_like(p)
    optimizer = tw.SGD([p, nested], lr=0.1)
    for _ in range(2):
        optimizer.step()
    assert_close(p, rand(3) - 0.2)


def test_parameters_that_overlap_are_stepped_in_their_order():
    found = []
    for library in (torch.optim, tw):
        base = rand(8)
        params = [leaf(rand(3)), base[2:].requires_grad_(), base[:6].requires_grad_()]
        for i, p in enumerate(params):
            p.grad = rand(len(p), seed=i)
        library.SGD(params, lr=0.1, weight_decay=0.5).step()
        found.append(base)
    assert_close(found[1], found[0])


# What may kill the process. Each is run in one of its own.


def gradients_of_a_step_that_failed() -> None:
    p, q = leaf(rand(4, 4), torch.float32), leaf(rand(3), torch.float32)
    optimizer = tw.SGD([p, q], lr=0.1, momentum=0.9)
    p.grad, q.grad = torch.eye(4).to_sparse(), torch.ones(3)
    optimizer.step()
    p.grad, kept = torch.ones(4, 4), optimizer.state[q]["momentum_buffer"]
    optimizer.state[q]["momentum_buffer"] = torch.ones(7)
    with pytest.raises(ValueError, match="must have the shape"):
        optimizer.step()
    optimizer.state[q]["momentum_buffer"], p.grad = kept, None
    optimizer.param_groups[0]["params"] = [p, q]
    optimizer.step()
    p.grad = torch.eye(4).to_sparse()
    before = p.detach().clone()
    optimizer.step()
    assert (p != before).any(1).all()


def gradients_that_another_thread_drops() -> None:
    p = torch.zeros(6000, 6000, requires_grad=True)
    optimizer = tw.SGD([p], lr=0.1, momentum=0.9)
    for _ in range(8):
        p.grad = torch.ones_like(p)

        def drop() -> None:
            time.sleep(0.004)
            # Freed a little later, when nobody finds it here any more: who reads `p.grad` while torch is
            # freeing it reads what is no more, in torch's own optimizers too.
            gradient = p.grad
            p.grad = None
            time.sleep(0.002)
            del gradient

        thread = threading.Thread(target=drop)
        thread.start()
        optimizer.step()
        thread.join()


DEADLY = {f.__name__: f for f in (gradients_of_a_step_that_failed, gradients_that_another_thread_drops)}


@pytest.mark.parametrize("name", DEADLY)
def test_the_process_lives(name):
    child = start({}, name)
    assert not child.returncode, child.stdout + child.stderr


if __name__ == "__main__":
    main()
