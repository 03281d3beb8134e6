"""RMSprop, with what it is missed for: bias correction, Nesterov's momentum, the other epsilon."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from thalweg.optimizer import Optimizer, Options, Params, arguments
from thalweg.rule import (
    CAPTURABLE,
    COMMON,
    EPS,
    LR,
    WEIGHT_DECAY,
    Hyper,
    Rest,
    Rule,
    Slot,
    no_decay_of_gradients,
    positive_eps,
)
from thalweg.rule.maths import lerp, maximum, sqrt, square, times, two_parts


def rmsprop(g, square_avg, grad_avg, max_square_avg, momentum_buffer, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    square_avg = times(square_avg, s.alpha, s.alpha_rest) + square(g, s, s.one_minus_alpha)
    second = square_avg
    if on.centered:
        grad_avg = lerp(grad_avg, g, s.one_minus_alpha)
        second = maximum(second - grad_avg * grad_avg, 0.0)
    if on.debias:
        second = second * s.debias
    if on.amsgrad:
        second = max_square_avg = maximum(max_square_avg, second)
    g = g / (sqrt(second + s.eps) if on.eps_inside_sqrt else sqrt(second) + s.eps)
    if on.momentum:
        momentum_buffer = s.momentum * momentum_buffer + s.gain * g
        ahead = s.momentum * momentum_buffer + s.gain * g if on.nesterov else momentum_buffer
        g = ahead * s.debias_momentum if on.debias else ahead
    return s.lr * g, square_avg, grad_avg, max_square_avg, momentum_buffer


def scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of step `t.step`; an average that starts at zero is divided by its weight."""
    ahead = t.step + 1 if h.nesterov else t.step
    return {
        "lr": h.lr,
        **two_parts("alpha", h.alpha),
        "one_minus_alpha": 1 - h.alpha,
        "eps": h.eps,
        "momentum": h.momentum,
        "gain": 1 - h.momentum if h.momentum_ema else 1.0,
        "debias": 1 / (1 - h.alpha**t.step) if h.debias else 1.0,
        "debias_momentum": 1 / (1 - h.momentum**ahead) if h.momentum_ema else 1.0,
    }


def flags(h: Any) -> dict[str, bool]:
    """Return the static choices."""
    return {
        "momentum": h.momentum > 0,
        "centered": h.centered,
        "nesterov": h.nesterov,
        "debias": h.debias,
        "eps_inside_sqrt": h.eps_inside_sqrt,
        "amsgrad": h.amsgrad,
    }


def conflict(h: Any) -> str | None:
    """Say which hyperparameters do not go together."""
    if (h.nesterov or h.momentum_ema) and h.momentum <= 0:
        name = "nesterov" if h.nesterov else "momentum_ema"
        return f"{name}=True requires a momentum, not momentum={h.momentum}"
    if h.momentum_ema and h.momentum >= 1:
        return f"momentum_ema=True requires a momentum in (0, 1), not momentum={h.momentum}"
    if h.debias and h.alpha >= 1:
        return f"debias=True requires an alpha in [0, 1), not alpha={h.alpha}"
    return None


def unrest(h: Any) -> str | None:
    """Say what leaves nothing that could be said at once of steps with zero gradients."""
    if h.centered and h.amsgrad:
        return "centered must be False with sparse='exact' and amsgrad, not True: a variance may grow at rest"
    return no_decay_of_gradients(h) or positive_eps(h)


RULE = Rule(
    name="rmsprop",
    update=rmsprop,
    scalars=scalars,
    flags=flags,
    conflict=conflict,
    slots=(
        Slot("square_avg", signed=False, squares=True, whole_with="centered"),
        Slot("grad_avg", when="centered"),
        Slot("max_square_avg", signed=False, when="amsgrad", maximum_of="square_avg"),
        Slot("momentum_buffer", when="momentum"),
    ),
    hypers=(
        LR,
        Hyper("alpha", high=1.0),
        EPS,
        WEIGHT_DECAY,
        Hyper("momentum", unsaid=0.0),  # as in torch, whose first RMSprop had none
        Hyper("centered", flag=True),
        Hyper("nesterov", flag=True, extra=True),
        Hyper("debias", flag=True, extra=True),
        Hyper("eps_inside_sqrt", flag=True, extra=True),
        Hyper("momentum_ema", flag=True, extra=True),
        Hyper("decoupled_weight_decay", flag=True, extra=True),
        Hyper("amsgrad", flag=True, extra=True),
        CAPTURABLE,
        *COMMON,
    ),
    rest=Rest(
        {
            "p": ("p", "momentum_buffer"),
            "square_avg": ("square_avg",),
            "grad_avg": ("grad_avg",),
            "momentum_buffer": ("momentum_buffer",),
        },
        unrest,
    ),
)


class RMSprop(Optimizer):
    r"""RMSprop: the gradient over the root of an average of its squares.

    .. math::
        v_t &= \alpha v_{t-1} + (1 - \alpha)\, g_t^2 \\
        u_t &= g_t / (\sqrt{v_t} + \epsilon) \\
        b_t &= \mu\, b_{t-1} + u_t \\
        p_t &= p_{t-1} - \gamma\, b_t

    Hinton 2012, Neural Networks for Machine Learning, lecture 6e. Centered: Graves 2013,
    arXiv 1308.0850, equations 38 to 42; the variance is kept from falling below 0, where rounding
    would otherwise make NaN of it.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\gamma`, at least 0; a float or a one-element tensor.
        alpha: :math:`\alpha`, in [0, 1].
        eps: :math:`\epsilon`, at least 0.
        weight_decay: :math:`\lambda`, at least 0: :math:`\lambda p` is added to the gradient.
        momentum: :math:`\mu`, at least 0; 0 keeps no buffer.
        centered: subtract the squared average of the gradient from :math:`v_t`, which is never corrected: the
            variance of a single gradient would be none, and the first step of any length.
        nesterov: step along :math:`u_t + \mu b_t`, Nesterov's momentum as SGD has it (Sutskever et
            al. 2013); with `momentum_ema`, along :math:`(1 - \mu) u_t + \mu b_t` (Dozat 2016).
        debias: divide :math:`v_t` (if centered, less what is subtracted) by the weight that it has gathered
            since it was zero: :math:`v_t / (1 - \alpha^t)`, as Adam does (Kingma and Ba 2015, arXiv
            1412.6980, section 3). Without it the first step is :math:`1 / \sqrt{1 - \alpha}` times too long.
        eps_inside_sqrt: :math:`u_t = g_t / \sqrt{v_t + \epsilon}`, the form of TensorFlow's vision
            recipes, whose epsilon of 1e-3 goes with it (Tan and Le 2019, arXiv 1905.11946).
        momentum_ema: :math:`b_t = \mu b_{t-1} + (1 - \mu) u_t`, so that the learning rate keeps its
            meaning when :math:`\mu` changes.
        decoupled_weight_decay: shrink `p` by :math:`\gamma\lambda` instead of adding to the gradient
            (Loshchilov and Hutter 2019, arXiv 1711.05101).
        amsgrad: divide by the root of the largest :math:`v` so far (Reddi et al. 2018,
            arXiv 1904.09237, section 4).
        maximize, foreach, capturable, differentiable, options: see `thalweg.Optimizer`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """

    rule = RULE

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        nesterov: bool = False,
        debias: bool = False,
        eps_inside_sqrt: bool = False,
        momentum_ema: bool = False,
        decoupled_weight_decay: bool = False,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), **options)
