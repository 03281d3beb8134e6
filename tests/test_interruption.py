"""Ctrl-C at any call of a first step: the optimizer is as before or has stepped, and goes on rightly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from children import PATIENCE_SECONDS
from support import leaf, ours, rand

from thalweg.lowering import machine
from thalweg.lowering.cpu import kernels as cpu
from thalweg.stepping.pool import POOL

CONFIGURATIONS = [
    ("SGD", {"lr": 0.5, "momentum": 0.5, "dampening": 0.5}),
    ("AdamW", {"lr": 0.5}),
    ("NAdam", {"lr": 0.5, "state": "int8"}),
]


class Interruption:
    """Raises KeyboardInterrupt at the n-th call, Python's or C's."""

    def __init__(self, n: int) -> None:
        self._left = n

    @property
    def has_come(self) -> bool:
        # Where nobody can take it, as while a generator is closed, Python drops an exception.
        return self._left <= 0

    def __call__(self, frame, event, argument):
        if event in ("call", "c_call") and argument is not sys.setprofile:
            self._left -= 1
            if self._left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt


def fresh(configuration):
    params = [leaf(rand(*shape), torch.float32) for shape in ((70, 70), (5,))]
    optimizer = ours(configuration, params)
    for p in params:
        p.grad = torch.ones_like(p)
    return params, optimizer


def trajectory(configuration, steps=3):
    """Return the parameters before the first step and after each."""
    params, optimizer = fresh(configuration)
    found = [[p.detach().clone() for p in params]]
    for _ in range(steps):
        optimizer.step()
        found.append([p.detach().clone() for p in params])
    return found


def is_at(params, expected):
    # int8 state is rounded by other words where a step that was taken was not counted.
    return all(torch.allclose(p, q, rtol=0, atol=1e-2) for p, q in zip(params, expected, strict=True))


def forget_kernels():
    """Have the next step link everything again, from the files on disk."""
    for function in (cpu.kernel, cpu._rows_kernel, cpu._run):
        function.cache_clear()
    machine._ADDRESSES.clear()
    POOL._plans.clear()


def interrupted(configuration, n, expected):
    """Interrupt a first step at the n-th call and go on; return whether there was such a call."""
    # No `suppress`, which would be interrupted itself.
    params, optimizer = fresh(configuration)
    interruption = Interruption(n)
    try:
        sys.setprofile(interruption)
        optimizer.step()
        sys.setprofile(None)
    except KeyboardInterrupt:
        torch.set_grad_enabled(True)  # torch's own context, left by an exception, may have been cut off
    done = next((i for i in (0, 1) if is_at(params, expected[i])), None)
    assert done is not None, f"after an interruption at call {n} the step is half done"
    for steps in (1, 2):
        optimizer.step()
        assert is_at(params, expected[done + steps]), f"steps after an interruption at call {n} are wrong"
    return interruption.has_come


def interrupt_everywhere(index, every, least, forget=False, alone=False):
    configuration = CONFIGURATIONS[index]
    expected = trajectory(configuration)
    n = 1
    while True:
        if forget:
            forget_kernels()
        if alone:
            POOL._plans.clear()  # nobody hands on a plan
        if not interrupted(configuration, n, expected):
            break
        n += every
    assert n > least


def in_a_process_of_its_own(*arguments):
    """Interrupt there: locks of Python's and LLVM's that are cut off while they are given back stay taken."""
    here = str(Path(__file__).parent)
    script = (
        f"import sys; sys.path.insert(0, {here!r}); import test_interruption as t; t.interrupt_everywhere"
    )
    result = subprocess.run(
        [sys.executable, "-c", f"{script}{arguments}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize(("index", "every"), [(0, 1), (1, 3), (2, 7)], ids=["SGD", "AdamW", "NAdam"])
def test_a_first_step_may_be_interrupted_at_any_call(index, every):
    in_a_process_of_its_own(index, every, 500, False, True)


def test_a_first_step_by_anothers_plan_may_be_interrupted_at_any_call():
    in_a_process_of_its_own(1, 1, 100)


def test_a_first_step_may_be_interrupted_where_kernels_are_made():
    in_a_process_of_its_own(0, 11, 1500, True)
