"""RAdam: Adam that waits for its variance estimate."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from thalweg.optimizer import Optimizer, Options, Params, arguments
from thalweg.rule import BETAS, CAPTURABLE, COMMON, EPS, LR, WEIGHT_DECAY, Hyper, Rule, Slot
from thalweg.rule.maths import lerp, maximum, sqrt, square, times, two_parts, where


def radam(g, exp_avg, exp_avg_sq, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
    exp_avg_sq = times(exp_avg_sq, s.beta2, s.beta2_rest) + square(g, s, s.one_minus_beta2)
    denominator = where(s.rectified > 0, sqrt(exp_avg_sq) + s.eps, 1.0)
    return s.rate * exp_avg / denominator, exp_avg, exp_avg_sq


def scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of step `t.step`; `rectified` is 1 once the variance can be trusted, else 0."""
    beta1, beta2 = h.betas
    debias2 = 1 - beta2**t.step
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t.step * beta2**t.step / debias2
    trusted = length > 5
    over = (length - 4) * (length - 2) * longest
    under = where(trusted, (longest - 4) * (longest - 2) * length, 1.0)
    rectification = sqrt(maximum(over / under, 0.0)) * debias2**0.5
    step_size = h.lr / (1 - beta1**t.step)
    return {
        "one_minus_beta1": 1 - beta1,
        **two_parts("beta2", beta2),
        "one_minus_beta2": 1 - beta2,
        "rectified": where(trusted, 1.0, 0.0),
        "rate": step_size * where(trusted, rectification, 1.0),
        "eps": h.eps,
    }


RULE = Rule(
    name="radam",
    update=radam,
    scalars=scalars,
    slots=(Slot("exp_avg", over="exp_avg_sq"), Slot("exp_avg_sq", signed=False, squares=True)),
    hypers=(
        LR,
        BETAS,
        EPS,
        WEIGHT_DECAY,
        Hyper("decoupled_weight_decay", flag=True),
        CAPTURABLE,
        *COMMON,
    ),
)


class RAdam(Optimizer):
    r"""RAdam: momentum alone until the average of squares is long enough, then Adam, rectified.

    .. math::
        \rho_t &= \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t),
            \qquad \rho_\infty = 2 / (1 - \beta_2) - 1 \\
        r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\,\rho_\infty}
                          {(\rho_\infty - 4)(\rho_\infty - 2)\,\rho_t}} \\
        p_t &= p_{t-1} - \gamma\, \frac{m_t}{1 - \beta_1^t}
            \cdot \begin{cases}
                r_t \sqrt{1 - \beta_2^t} / (\sqrt{v_t} + \epsilon) & \rho_t > 5 \\
                1 & \text{else}
            \end{cases}

    with :math:`m_t` and :math:`v_t` as in `Adam`. Liu et al. 2020, arXiv 1908.03265, algorithm 2; the
    threshold of 5 and the place of epsilon are torch's.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\gamma`, at least 0; a float or a one-element tensor.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        weight_decay: :math:`\lambda`, at least 0: :math:`\lambda p` is added to the gradient.
        decoupled_weight_decay: shrink `p` by :math:`\gamma\lambda` instead.
        maximize, foreach, capturable, differentiable, options: see `thalweg.Optimizer`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """

    rule = RULE

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), **options)
