"""Adamax."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from thalweg.optimizer import Optimizer, Options, Params, arguments
from thalweg.rule import BETAS, CAPTURABLE, COMMON, EPS, LR, WEIGHT_DECAY, Rule, Slot
from thalweg.rule.maths import lerp, maximum


def adamax(g, exp_avg, exp_inf, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
    exp_inf = maximum(s.beta2 * exp_inf, abs(g) + s.eps)
    return s.step_size * exp_avg / exp_inf, exp_avg, exp_inf


def scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of step `t.step`."""
    beta1, beta2 = h.betas
    return {
        "one_minus_beta1": 1 - beta1,
        "beta2": beta2,
        "step_size": h.lr / (1 - beta1**t.step),
        "eps": h.eps,
    }


RULE = Rule(
    name="adamax",
    update=adamax,
    scalars=scalars,
    slots=(Slot("exp_avg"), Slot("exp_inf", signed=False)),
    hypers=(LR, BETAS, EPS, WEIGHT_DECAY, CAPTURABLE, *COMMON),
)


class Adamax(Optimizer):
    r"""Adamax: Adam with a decaying maximum in place of the root of the average of squares.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
        u_t &= \max(\beta_2 u_{t-1},\ |g_t| + \epsilon) \\
        p_t &= p_{t-1} - \frac{\gamma}{1 - \beta_1^t}\, \frac{m_t}{u_t}

    Kingma and Ba 2015, arXiv 1412.6980, algorithm 2; the epsilon is torch's.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\gamma`, at least 0; a float or a one-element tensor.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        weight_decay: :math:`\lambda`, at least 0: :math:`\lambda p` is added to the gradient.
        maximize, foreach, capturable, differentiable, options: see `thalweg.Optimizer`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """

    rule = RULE

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), **options)
