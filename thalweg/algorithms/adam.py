"""Adam and AdamW."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from thalweg.optimizer import Optimizer, Options, Params, arguments
from thalweg.rule import (
    BETAS,
    CAPTURABLE,
    COMMON,
    DEGREES,
    EPS,
    LR,
    WEIGHT_DECAY,
    Hyper,
    Rest,
    Rule,
    Series,
    Slot,
    no_decay_of_gradients,
    positive_eps,
    roots,
)
from thalweg.rule.maths import lerp, maximum, sqrt, square, times, two_parts


def adam(g, exp_avg, exp_avg_sq, max_exp_avg_sq, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    exp_avg = lerp(exp_avg, g, s.one_minus_beta1)
    exp_avg_sq = times(exp_avg_sq, s.beta2, s.beta2_rest) + square(g, s, s.one_minus_beta2)
    second = exp_avg_sq
    if on.amsgrad:
        second = max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
    step = s.step_size * exp_avg / (sqrt(second) * s.inverse_debias + s.eps)
    return step, exp_avg, exp_avg_sq, max_exp_avg_sq


def scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of step `t.step`, with both averages' bias corrections folded in."""
    beta1, beta2 = h.betas
    return {
        "one_minus_beta1": 1 - beta1,
        **two_parts("beta2", beta2),
        "one_minus_beta2": 1 - beta2,
        "step_size": h.lr / (1 - beta1**t.step),
        "inverse_debias": (1 - beta2**t.step) ** -0.5,
        "eps": h.eps,
    }


def flags(h: Any) -> dict[str, bool]:
    """Return the static choices."""
    return {"amsgrad": h.amsgrad}


MOST_ERROR = 1e-6
"""What the series of a rest may leave out at most, of how far it moves a weight."""


def half(h: Any, t: Any) -> float:
    """Return where the series of a rest that begins with step `t.step` is made about."""
    beta1, beta2 = map(float, h.betas)
    return roots.half(beta1, beta2, float(h.eps), t.step - 1)


def series_error(h: Any, degree: int) -> float:
    """Return a bound of what the series of a rest leaves out."""
    beta1, beta2 = map(float, h.betas)
    return roots.error(beta1, beta2, degree)


def unrest(h: Any) -> str | None:
    """Say what leaves nothing that could be said at once of steps with zero gradients."""
    said = no_decay_of_gradients(h) or positive_eps(h)
    if said or series_error(h, DEGREES[-1]) <= MOST_ERROR:
        return said
    return f"betas must have the first well below the root of the second with sparse='exact', not {h.betas!r}"


RULE = Rule(
    name="adam",
    update=adam,
    scalars=scalars,
    flags=flags,
    slots=(
        Slot("exp_avg", over="exp_avg_sq"),
        Slot("exp_avg_sq", signed=False, squares=True),
        Slot("max_exp_avg_sq", signed=False, when="amsgrad", maximum_of="exp_avg_sq"),
    ),
    hypers=(
        LR,
        BETAS,
        EPS,
        WEIGHT_DECAY,
        Hyper("amsgrad", flag=True),
        Hyper("decoupled_weight_decay", flag=True),
        CAPTURABLE,
        *COMMON,
    ),
    rest=Rest(
        {"p": ("p",), "exp_avg": ("exp_avg",), "exp_avg_sq": ("exp_avg_sq",)},
        unrest,
        Series("exp_avg", lambda on: "max_exp_avg_sq" if on["amsgrad"] else "exp_avg_sq", half, series_error),
    ),
)


def as_in_torch(lr: Any, betas: Any, foreach: bool | None, capturable: bool) -> tuple[Any, Any]:
    """Return `betas` as torch's Adam keeps them: a tuple, and what are tensors 0-dim.

    Raises:
        ValueError: where torch's constructor does, although it would make no difference here.
        TypeError: if `betas` are not two numbers.
    """
    BETAS.check(betas)
    pair = betas[0], betas[1]
    if not any(all(isinstance(beta, kind) for beta in pair) for kind in (float, Tensor)):
        raise ValueError(f"betas must be either both floats or both Tensors, not {betas!r}")
    if foreach and not capturable:
        for name, value in (("lr", lr), ("betas[0]", pair[0]), ("betas[1]", pair[1])):
            if isinstance(value, Tensor):
                raise ValueError(f"{name} as a Tensor is not supported for capturable=False and foreach=True")
    first, second = (beta.squeeze() if isinstance(beta, Tensor) else beta for beta in pair)
    return first, second


class Adam(Optimizer):
    r"""Adam: momentum over the root of an average of squares, both corrected for their start at zero.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
        p_t &= p_{t-1} - \gamma\, \frac{m_t / (1 - \beta_1^t)}
                                       {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Kingma and Ba 2015, arXiv 1412.6980, algorithm 1. AMSGrad: Reddi et al. 2018, arXiv 1904.09237,
    with the maximum taken before the bias correction, as in torch.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\gamma`, at least 0; a float or a one-element tensor.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1): two floats or two one-element tensors.
        eps: :math:`\epsilon`, at least 0.
        weight_decay: :math:`\lambda`, at least 0: :math:`\lambda p` is added to the gradient.
        amsgrad: divide by the largest :math:`v` so far.
        decoupled_weight_decay: shrink `p` by :math:`\gamma\lambda` instead, which is AdamW.
        maximize, foreach, capturable, differentiable, fused, options: see `thalweg.Optimizer`. With tensors
            for `lr` or `betas`, `foreach` is refused as in torch, unless `capturable`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """

    rule = RULE

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        betas = as_in_torch(lr, betas, foreach, capturable)
        super().__init__(params, arguments(locals()), **options)


class AdamW(Adam):
    r"""Adam with decoupled weight decay: `p` shrinks by :math:`\gamma\lambda` beside Adam's step.

    Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2, where the decay is multiplied by the
    learning rate as in torch. Arguments are those of `Adam`, but `weight_decay` is 0.01 by default.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, **arguments(locals()), decoupled_weight_decay=True, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True  # also of a checkpoint of Adam, as in torch
