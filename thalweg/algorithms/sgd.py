"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from thalweg.optimizer import Optimizer, Options, Params, arguments
from thalweg.rule import COMMON, LR, WEIGHT_DECAY, Hyper, Rest, Rule, Slot
from thalweg.rule.maths import where


def sgd(g, momentum_buffer, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    if on.momentum:
        momentum_buffer = s.momentum * momentum_buffer + s.gain * g
        g = g + s.momentum * momentum_buffer if on.nesterov else momentum_buffer
    return s.lr * g, momentum_buffer


def scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of a step. The first gradient enters the momentum undampened."""
    gain = where(t.first, 1.0, 1.0 - h.dampening)
    return {"lr": h.lr, "momentum": h.momentum, "gain": gain}


def flags(h: Any) -> dict[str, bool]:
    """Return the static choices."""
    return {"momentum": h.momentum != 0, "nesterov": h.nesterov}


def conflict(h: Any) -> str | None:
    """Say which hyperparameters do not go together."""
    if h.nesterov and (h.momentum <= 0 or h.dampening != 0):
        return (
            "Nesterov momentum requires a momentum and zero dampening, not "
            f"momentum={h.momentum} and dampening={h.dampening}"
        )
    return None


RULE = Rule(
    name="sgd",
    update=sgd,
    scalars=scalars,
    flags=flags,
    conflict=conflict,
    slots=(Slot("momentum_buffer", when="momentum"),),
    counters=(),
    hypers=(
        LR,
        Hyper("momentum"),
        Hyper("dampening", low=-float("inf")),
        WEIGHT_DECAY,
        Hyper("nesterov", flag=True),
        Hyper("decoupled_weight_decay", flag=True, extra=True),
        *COMMON,
    ),
    rest=Rest({"p": ("p", "momentum_buffer"), "momentum_buffer": ("p", "momentum_buffer")}),
)


class SGD(Optimizer):
    r"""Stochastic gradient descent, with heavy-ball or Nesterov momentum.

    .. math::
        b_t &= \mu\, b_{t-1} + (1 - \tau)\, g_t, \qquad b_1 = g_1 \\
        p_t &= p_{t-1} - \gamma\, b_t
            \quad\text{or, with Nesterov,}\quad p_{t-1} - \gamma\,(g_t + \mu\, b_t)

    Momentum: Polyak 1964; Nesterov's form: Sutskever et al. 2013, ICML. A row-sparse gradient moves
    the rows that it names and their momentum, and no others; with `sparse="exact"` these catch up later.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\gamma`, at least 0; a float or a one-element tensor.
        momentum: :math:`\mu`, at least 0; 0 keeps no state.
        dampening: :math:`\tau`, for the gradient's part in the momentum.
        weight_decay: :math:`\lambda`, at least 0: :math:`\lambda p` is added to the gradient.
        nesterov: look ahead along the momentum; needs `momentum` and no `dampening`.
        decoupled_weight_decay: shrink `p` by :math:`\gamma\lambda` instead of adding to the gradient
            (SGDW, Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 1).
        maximize, foreach, differentiable, fused, options: see `thalweg.Optimizer`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """

    rule = RULE

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), **options)
