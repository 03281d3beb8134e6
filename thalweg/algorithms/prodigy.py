"""Prodigy: Adam that finds its learning rate."""

from __future__ import annotations

import math
from typing import Any, Unpack

from torch import Tensor

from thalweg.optimizer import Optimizer, Options, Params, arguments
from thalweg.rule import (
    BETAS,
    COMMON,
    EPS,
    LR,
    WEIGHT_DECAY,
    Counter,
    Hyper,
    Measure,
    Rule,
    Slot,
    lerp,
    maximum,
    minimum,
    sqrt,
    square,
    times,
    two_parts,
    where,
)


def prodigy(g, exp_avg, exp_avg_sq, prodigy_sum, prodigy_start, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    exp_avg = lerp(exp_avg, s.d * g, s.one_minus_beta1)
    exp_avg_sq = times(exp_avg_sq, s.beta2, s.beta2_rest) + square(g, s, s.d_sq_one_minus_beta2)
    step = s.rate * exp_avg / (sqrt(exp_avg_sq) + s.d_eps)
    return step, exp_avg, exp_avg_sq, summed(g, prodigy_sum, s), prodigy_start


def summed(g: Any, prodigy_sum: Any, s: Any) -> Any:
    """Return the decaying sum of gradients, each with its weight in the estimate of d."""
    return s.beta3 * prodigy_sum + s.gain * g


def rate(h: Any, t: Any) -> Any:
    """Return what the direction is multiplied by: d lr, and with `use_bias_correction` Adam's factors."""
    if not h.use_bias_correction:
        return t.d * h.lr
    beta1, beta2 = h.betas
    return t.d * h.lr * (1 - beta2**t.step) ** 0.5 / (1 - beta1**t.step)


def advance(h: Any, t: Any, m: Any) -> None:
    """Estimate d from what the last steps have summed up, count the step, and add to the sums."""
    known = t.d_denominator > 0
    estimate = where(known, h.d_coef * t.d_numerator / where(known, t.d_denominator, 1.0), 0.0)
    d, most = where(t.d > 0, t.d, h.d0), maximum(where(t.d_max > 0, t.d_max, h.d0), estimate)
    first = where(d > h.d0, d, maximum(d, estimate))
    t.d_max = most
    t.d = where(t.step > 0, minimum(most, first * h.growth_rate), d)
    t.step = t.step + 1
    weight = t.d / h.d0 * rate(h, t)
    t.d_numerator = h.beta3 * t.d_numerator + weight * m.prodigy_product
    t.d_denominator = m.prodigy_size


def scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of step `t.step`."""
    beta1, beta2 = h.betas
    step_size = rate(h, t)
    return {
        "d": t.d,
        "one_minus_beta1": 1 - beta1,
        **two_parts("beta2", beta2),
        "d_sq_one_minus_beta2": t.d * t.d * (1 - beta2),
        "rate": step_size,
        "d_eps": t.d * h.eps,
        "beta3": h.beta3,
        "gain": t.d / h.d0 * (t.d if h.safeguard_warmup else step_size),
        **two_parts("shrink", 1 - step_size * h.weight_decay),
    }


RULE = Rule(
    name="prodigy",
    update=prodigy,
    scalars=scalars,
    slots=(
        Slot("exp_avg", over="exp_avg_sq"),
        Slot("exp_avg_sq", signed=False, squares=True),
        Slot("prodigy_sum"),
        Slot("prodigy_start", stored_by="prodigy_start_state", copies=True),
    ),
    counters=tuple(map(Counter, ("step", "d", "d_max", "d_numerator", "d_denominator"))),
    advance=advance,
    measures=(
        Measure("prodigy_product", lambda x: x.g * (x.slots.prodigy_start - x.p), at="clipped", over="all"),
        Measure(
            "prodigy_size", lambda x: abs(summed(x.g, x.slots.prodigy_sum, x.s)), at="clipped", over="all"
        ),
    ),
    decoupled=True,
    hypers=(
        LR,
        BETAS,
        Hyper("beta3", high=1.0, open_high=True),
        EPS,
        WEIGHT_DECAY,
        Hyper("d0", open_low=True),
        Hyper("d_coef", open_low=True),
        Hyper("growth_rate", low=1.0, infinite=True),
        Hyper("use_bias_correction", flag=True),
        Hyper("safeguard_warmup", flag=True),
        *COMMON,
    ),
)


class Prodigy(Optimizer):
    r"""Prodigy: AdamW whose learning rate is estimated from how far the weights have to go.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, d_t g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, d_t^2 g_t^2 \\
        r_t &= \beta_3 r_{t-1} + \tfrac{d_t}{d_0} d_t \gamma \langle g_t, p_0 - p_t \rangle, \qquad
        s_t = \beta_3 s_{t-1} + \tfrac{d_t}{d_0} d_t \gamma\, g_t \\
        p_{t+1} &= p_t - d_t \gamma \left( \frac{m_t}{\sqrt{v_t} + d_t \epsilon} + \lambda p_t \right), \qquad
        d_{t+1} = \max\!\left(d_t, \frac{r_t}{\lVert s_t \rVert_1}\right)

    Mishchenko and Defazio 2024, arXiv 2306.06101, algorithm 4. Sums are over all parameters of the optimizer:
    one pass that only reads comes before the step. The estimate of the distance is `state[p]["d"]`, the same
    of every parameter.

    Args:
        params: parameters or groups.
        lr: :math:`\gamma`, by which the estimate is multiplied; 1, unless a schedule says otherwise.
        betas: :math:`\beta_1, \beta_2` in [0, 1).
        beta3: :math:`\beta_3` in [0, 1); the root of :math:`\beta_2`, if None.
        eps: :math:`\epsilon`, at least 0.
        weight_decay: :math:`\lambda`, at least 0, decoupled.
        d0: :math:`d_0`, the estimate at first, above 0.
        d_coef: multiplies new estimates, above 0.
        growth_rate: the most that the estimate may grow by in a step, at least 1.
        use_bias_correction: Adam's bias corrections.
        safeguard_warmup: leave `lr` out of the sums' weights, for schedules with a warm-up.
        foreach, maximize, differentiable, fused, options: see `thalweg.Optimizer`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """

    rule = RULE

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        BETAS.check(betas)
        beta3 = float(betas[1]) ** 0.5 if beta3 is None else beta3
        super().__init__(params, arguments(locals()), **options)
