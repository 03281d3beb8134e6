"""Schedules of the learning rate: pure functions of the step, as torch's own `LambdaLR`.

A factor is what a group's `initial_lr` is multiplied by; each schedule has a function of the same name with
`_factor` that returns it, to plot or to test. Steps are counted from 0: step 0 is the first update.

    import thalweg as tw

    optimizer = tw.AdamW(model.parameters(), lr=1e-3)
    schedule = tw.schedules.wsd(optimizer, steps=10_000, warmup=500, decay=0.2)
    for batch in batches:
        ...
        optimizer.step()
        schedule.step()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

# Whole schedules that were pickled before find their factors here.
from thalweg.optimizer.factors import Phases as Phases
from thalweg.optimizer.factors import Stairs as Stairs
from thalweg.optimizer.factors import cosine_phases, linear_phases, stairs, whole_number, wsd_phases

__all__ = [
    "Schedule",
    "cosine",
    "cosine_factor",
    "linear",
    "linear_factor",
    "staircase",
    "staircase_factor",
    "wsd",
    "wsd_factor",
]


class Schedule(LambdaLR):
    """torch's `LambdaLR` of one factor for all groups, which sets the rate when its state is loaded.

    torch's schedulers leave the groups' `lr` alone then. Built after the optimizer's state was loaded, they
    have just set it to that of step 0, at which the first step after a resume is taken (PyTorch issue
    65342).

    Args:
        optimizer: any torch optimizer, whose groups' `lr` are the full rates.
        factor: the factor by step: a callable with the plain numbers that make it up in its `__dict__`.
        last_step: index of the last step that was done, as torch's `last_epoch`: n - 1 after n steps, -1 at
            the beginning. From 0 on it needs groups with `initial_lr`, as in the optimizer's checkpoint.

    Raises:
        KeyError: if `last_step` is 0 or more, and a group has no `initial_lr`.
        ValueError, TypeError: if an argument is not allowed.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float], last_step: int = -1
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
        super().__init__(optimizer, factor, last_epoch=whole_number("last_step", last_step, -1))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, the schedule's numbers too, and set the groups' rates.

        Raises:
            ValueError: if it is the state of another kind of schedule, or of another number of groups.
                Nothing has been changed then.
        """
        _check_state(state_dict, vars(self.lr_lambdas[0]) if self.lr_lambdas else {}, len(self.base_lrs))
        super().load_state_dict(state_dict)
        for group, lr in zip(self.optimizer.param_groups, self.get_last_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr.reshape(()) if isinstance(lr, Tensor) else lr)
            else:
                group["lr"] = float(lr)


def linear(
    optimizer: torch.optim.Optimizer,
    steps: int,
    warmup: float = 0,
    end: float = 0.0,
    *,
    last_step: int = -1,
) -> Schedule:
    r"""Return a schedule of warm-up and linear decay.

    With :math:`W` the steps of the warm-up, :math:`N` all steps and :math:`e` the end, the factor of step
    :math:`t` is

    .. math::
        f(t) = \begin{cases}
            (t + 1) / (W + 1) & t < W \\
            e + (1 - e)\,(N - t) / (N - W) & W \le t < N \\
            e & t \ge N
        \end{cases}

    Neither the first step of the warm-up nor the last step of the run has a rate of 0: such a step costs a
    batch and moves nothing. The full rate is that of step :math:`W`, the end that of step :math:`N`, the
    first one after the run.

    Linear decay to 0: Defazio et al. 2023, arXiv 2310.07831. Warm-up: Goyal et al. 2017, arXiv 1706.02677.

    Args:
        optimizer: any torch optimizer; each group's `lr` is its full rate.
        steps: steps of the run, at least 1.
        warmup: steps below the full rate: an int up to `steps`, or a float in [0, 1), a share of `steps`,
            rounded down.
        end: the factor after the run, in [0, 1].
        last_step: index of the last step that was done, to go on; see `Schedule`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """
    return Schedule(optimizer, linear_phases(steps, warmup, end), last_step)


def linear_factor(step: int, steps: int, warmup: float = 0, end: float = 0.0) -> float:
    """Return the factor of a step, as `linear` describes."""
    return linear_phases(steps, warmup, end)(whole_number("step", step))


def cosine(
    optimizer: torch.optim.Optimizer,
    steps: int,
    warmup: float = 0,
    end: float = 0.0,
    *,
    last_step: int = -1,
) -> Schedule:
    r"""Return a schedule of warm-up and half a cosine.

    As `linear`, with :math:`e + (1 - e)\,(1 + \cos(\pi (t - W) / (N - W))) / 2` between warm-up and end.
    Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts.

    Args:
        optimizer: any torch optimizer; each group's `lr` is its full rate.
        steps: steps of the run, at least 1.
        warmup: steps below the full rate: an int up to `steps`, or a float in [0, 1), a share of `steps`.
        end: the factor after the run, in [0, 1]; 0.1 is usual for language models.
        last_step: index of the last step that was done, to go on; see `Schedule`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """
    return Schedule(optimizer, cosine_phases(steps, warmup, end), last_step)


def cosine_factor(step: int, steps: int, warmup: float = 0, end: float = 0.0) -> float:
    """Return the factor of a step, as `cosine` describes."""
    return cosine_phases(steps, warmup, end)(whole_number("step", step))


def wsd(
    optimizer: torch.optim.Optimizer,
    steps: int,
    warmup: float = 0,
    decay: float = 0.2,
    end: float = 0.0,
    shape: str = "1-sqrt",
    *,
    last_step: int = -1,
) -> Schedule:
    r"""Return a schedule of warm-up, a stable phase and a decay.

    With :math:`D` the steps of the decay and :math:`x = (t - (N - D)) / D`, the factor is 1 between warm-up
    and step :math:`N - D`, and then :math:`e + (1 - e)\,s(x)`, with :math:`s(x)` being

    - `"1-sqrt"`: :math:`1 - \sqrt{x}`, better than linear in Hägele et al. 2024, arXiv 2405.18392;
    - `"linear"`: :math:`1 - x`;
    - `"cosine"`: :math:`(1 + \cos(\pi x)) / 2`.

    The warm-up and what comes after the run are as in `linear`. The name, and the schedule with an
    exponential decay, are those of MiniCPM (Hu et al. 2024, arXiv 2404.06395).

    A run is made longer from a checkpoint of its stable phase, as no rate until then depends on `steps`:
    build the schedule anew with more `steps` and `last_step`.

    Args:
        optimizer: any torch optimizer; each group's `lr` is its full rate.
        steps: steps of the run, at least 1.
        warmup: steps below the full rate: an int, or a float in [0, 1), a share of `steps`, rounded down.
        decay: steps of the decay, likewise; 0 for none, which leaves the full rate until `steps`.
        end: the factor after the run, in [0, 1].
        shape: "1-sqrt", "linear" or "cosine".
        last_step: index of the last step that was done, to go on; see `Schedule`.

    Raises:
        ValueError, TypeError: if an argument is not allowed, or warm-up and decay take more than all steps.
    """
    return Schedule(optimizer, wsd_phases(steps, warmup, decay, end, shape), last_step)


def wsd_factor(
    step: int,
    steps: int,
    warmup: float = 0,
    decay: float = 0.2,
    end: float = 0.0,
    shape: str = "1-sqrt",
) -> float:
    """Return the factor of a step, as `wsd` describes."""
    return wsd_phases(steps, warmup, decay, end, shape)(whole_number("step", step))


def staircase(
    optimizer: torch.optim.Optimizer,
    every: float,
    factor: float = 0.97,
    warmup: int = 0,
    *,
    last_step: int = -1,
) -> Schedule:
    r"""Return a schedule that multiplies the rate by a factor at even distances.

    The factor of step :math:`t` is :math:`c^{\lfloor t / E \rfloor}`, and :math:`(t + 1) / (W + 1)` in a
    warm-up of :math:`W` steps, after which the rate is what it were without. EfficientNet (Tan and Le 2019,
    arXiv 1905.11946) and its kin: 0.97 every 2.4 epochs, after a warm-up of 5.

    Args:
        optimizer: any torch optimizer; each group's `lr` is its full rate.
        every: steps between two falls :math:`E`, above 0. It may be a fraction: 2.4 epochs of 417 steps are
            1,000.8.
        factor: :math:`c`, in (0, 1].
        warmup: steps of the warm-up :math:`W`, an int.
        last_step: index of the last step that was done, to go on; see `Schedule`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """
    return Schedule(optimizer, stairs(every, factor, warmup), last_step)


def staircase_factor(step: int, every: float, factor: float = 0.97, warmup: int = 0) -> float:
    """Return the factor of a step, as `staircase` describes."""
    return stairs(every, factor, warmup)(whole_number("step", step))


def _check_state(state: Mapping[str, Any], own: Mapping[str, Any], groups: int) -> None:
    factors = state.get("lr_lambdas")
    if not isinstance(factors, list) or any(
        not isinstance(factor, Mapping) or factor.keys() != own.keys() for factor in factors
    ):
        raise ValueError(f"the state is not of this kind of schedule, which has {', '.join(own)}")
    if len(factors) != groups:
        raise ValueError(f"the state is of {len(factors)} parameter groups; the optimizer has {groups}")
