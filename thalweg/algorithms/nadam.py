"""NAdam: Adam with Nesterov's momentum."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from thalweg.optimizer import Optimizer, Options, Params, arguments
from thalweg.rule import BETAS, CAPTURABLE, COMMON, EPS, LR, WEIGHT_DECAY, Counter, Hyper, Rule, Slot
from thalweg.rule.maths import lerp, maximum, sqrt, square, times, two_parts


def nadam(g, exp_avg, exp_avg_sq, max_exp_avg_sq, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
    exp_avg_sq = times(exp_avg_sq, s.beta2, s.beta2_rest) + square(g, s, s.one_minus_beta2)
    second = exp_avg_sq
    if on.amsgrad:
        second = max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
    ahead = s.rate_gradient * g + s.rate_momentum * exp_avg
    step = ahead / (sqrt(second) * s.inverse_debias + s.eps)
    return step, exp_avg, exp_avg_sq, max_exp_avg_sq


def warmed(h: Any, step: Any) -> Any:
    """Return the momentum of a step, which grows from half of beta1 to beta1."""
    return h.betas[0] * (1.0 - 0.5 * 0.96 ** (step * h.momentum_decay))


def advance(h: Any, t: Any) -> None:
    """Count the step and multiply its momentum into the product of all."""
    t.step = t.step + 1
    t.mu_product = t.mu_product * warmed(h, t.step)


def scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of step `t.step`."""
    beta1, beta2 = h.betas
    mu, mu_next = warmed(h, t.step), warmed(h, t.step + 1)
    return {
        "one_minus_beta1": 1 - beta1,
        **two_parts("beta2", beta2),
        "one_minus_beta2": 1 - beta2,
        "rate_gradient": h.lr * (1 - mu) / (1 - t.mu_product),
        "rate_momentum": h.lr * mu_next / (1 - t.mu_product * mu_next),
        "inverse_debias": (1 - beta2**t.step) ** -0.5,
        "eps": h.eps,
    }


def flags(h: Any) -> dict[str, bool]:
    """Return the static choices."""
    return {"amsgrad": h.amsgrad}


RULE = Rule(
    name="nadam",
    update=nadam,
    scalars=scalars,
    flags=flags,
    slots=(
        Slot("exp_avg", over="exp_avg_sq"),
        Slot("exp_avg_sq", signed=False, squares=True),
        Slot("max_exp_avg_sq", signed=False, when="amsgrad", maximum_of="exp_avg_sq"),
    ),
    counters=(Counter("step"), Counter("mu_product", initial=1.0)),
    advance=advance,
    hypers=(
        LR,
        BETAS,
        EPS,
        WEIGHT_DECAY,
        Hyper("momentum_decay"),
        Hyper("decoupled_weight_decay", flag=True),
        Hyper("amsgrad", flag=True, extra=True),
        CAPTURABLE,
        *COMMON,
    ),
)


class NAdam(Optimizer):
    r"""NAdam: Adam that looks ahead along its momentum.

    .. math::
        \mu_t &= \beta_1 \bigl(1 - \tfrac12\, 0.96^{t\psi}\bigr) \\
        p_t &= p_{t-1} - \gamma\, \frac{\frac{1 - \mu_t}{1 - \prod_{i \le t} \mu_i}\, g_t
            + \frac{\mu_{t+1}}{1 - \prod_{i \le t+1} \mu_i}\, m_t}
            {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with :math:`m_t` and :math:`v_t` as in `Adam`. Dozat 2016, Incorporating Nesterov Momentum into
    Adam, algorithm 2. AMSGrad: Reddi et al. 2018, arXiv 1904.09237.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\gamma`, at least 0; a float or a one-element tensor.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, at least 0.
        weight_decay: :math:`\lambda`, at least 0: :math:`\lambda p` is added to the gradient.
        momentum_decay: :math:`\psi`, at least 0.
        decoupled_weight_decay: shrink `p` by :math:`\gamma\lambda` instead.
        amsgrad: divide by the largest :math:`v` so far.
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
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), **options)
