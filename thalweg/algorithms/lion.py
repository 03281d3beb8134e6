"""Lion."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from thalweg.optimizer import Optimizer, Options, Params, arguments
from thalweg.rule import BETAS, COMMON, LR, WEIGHT_DECAY, Rule, Slot
from thalweg.rule.maths import lerp, sign


def lion(g, exp_avg, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    step = s.lr * sign(lerp(exp_avg, g, s.one_minus_beta1))
    return step, lerp(exp_avg, g, s.one_minus_beta2)


def scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of a step."""
    beta1, beta2 = h.betas
    return {"lr": h.lr, "one_minus_beta1": 1 - beta1, "one_minus_beta2": 1 - beta2}


RULE = Rule(
    name="lion",
    update=lion,
    scalars=scalars,
    decoupled=True,
    slots=(Slot("exp_avg"),),
    counters=(),
    hypers=(LR, BETAS, WEIGHT_DECAY, *COMMON),
)


class Lion(Optimizer):
    r"""Lion: the sign of a momentum, so that every element moves by the same amount.

    .. math::
        p_t &= p_{t-1} - \gamma\,\bigl(\operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1)\, g_t)
            + \lambda\, p_{t-1}\bigr) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2)\, g_t

    Chen et al. 2023, arXiv 2302.06675, algorithm 2. A learning rate three to ten times smaller than
    Adam's, with a decay larger by as much, is the paper's advice.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\gamma`, at least 0; a float or a one-element tensor.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        weight_decay: :math:`\lambda`, at least 0; decoupled.
        maximize, foreach, differentiable, fused, options: see `thalweg.Optimizer`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """

    rule = RULE

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), **options)
