"""Adagrad and Adadelta, which divide by the history of squared gradients."""

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
from thalweg.rule.maths import sqrt, square, times, two_parts


def adagrad(g, sum, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    sum = sum + square(g, s)
    return s.rate * g / (sqrt(sum) + s.eps), sum


def adagrad_scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of step `t.step`."""
    return {"rate": h.lr / (1 + (t.step - 1) * h.lr_decay), "eps": h.eps}


def adadelta(g, square_avg, acc_delta, s, on):  # type: ignore[no-untyped-def]  # noqa: D103
    square_avg = times(square_avg, s.rho, s.rho_rest) + square(g, s, s.one_minus_rho)
    delta = sqrt(acc_delta + s.eps) / sqrt(square_avg + s.eps) * g
    acc_delta = times(acc_delta, s.rho, s.rho_rest) + s.one_minus_rho * delta * delta
    return s.lr * delta, square_avg, acc_delta


def adadelta_scalars(h: Any, t: Any) -> dict[str, Any]:
    """Return the scalars of a step."""
    return {"lr": h.lr, **two_parts("rho", h.rho), "one_minus_rho": 1 - h.rho, "eps": h.eps}


def unrest(h: Any) -> str | None:
    """Say what leaves nothing that could be said at once of steps with zero gradients."""
    return no_decay_of_gradients(h) or positive_eps(h)


ADAGRAD = Rule(
    name="adagrad",
    update=adagrad,
    scalars=adagrad_scalars,
    slots=(Slot("sum", signed=False, initial="initial_accumulator_value", squares=True, by_row="rowwise"),),
    hypers=(
        LR,
        Hyper("lr_decay"),
        WEIGHT_DECAY,
        Hyper("initial_accumulator_value"),
        EPS,
        Hyper("rowwise", flag=True, extra=True),
        *COMMON,
    ),
    eager=True,
    rest=Rest({"p": ("p",)}, unrest),
)

ADADELTA = Rule(
    name="adadelta",
    update=adadelta,
    scalars=adadelta_scalars,
    slots=(Slot("square_avg", signed=False, squares=True), Slot("acc_delta", signed=False)),
    hypers=(LR, Hyper("rho", high=1.0), EPS, WEIGHT_DECAY, CAPTURABLE, *COMMON),
    rest=Rest({"p": ("p",), "square_avg": ("square_avg",), "acc_delta": ("acc_delta",)}, unrest),
)


class Adagrad(Optimizer):
    r"""Adagrad: the gradient over the root of the sum of all its squares.

    .. math::
        s_t &= s_{t-1} + g_t^2 \\
        p_t &= p_{t-1} - \frac{\gamma}{1 + (t - 1)\,\eta}\, \frac{g_t}{\sqrt{s_t} + \epsilon}

    Duchi, Hazan and Singer 2011, JMLR 12, the diagonal form. A row-sparse gradient moves the rows that
    it names and no others. State exists from construction on, as in torch.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\gamma`, at least 0; a float or a one-element tensor.
        lr_decay: :math:`\eta`, at least 0.
        weight_decay: :math:`\lambda`, at least 0: :math:`\lambda p` is added to the gradient; of a
            row-sparse gradient's parameter, to the rows that it names.
        initial_accumulator_value: :math:`s_0`, at least 0.
        eps: :math:`\epsilon`, at least 0.
        rowwise: keep one number for each row, an index of the first dimension: :math:`s_t = s_{t-1}` and the
            mean of :math:`g_t^2` over the row, as recommendation models do for their embeddings (Mudigere et
            al. 2022, arXiv 2104.05158). A vector's rows are its elements. It is `state={"sum": "row"}` of
            parameters of any size; a row-sparse gradient must index the first dimension alone.
        maximize, foreach, differentiable, fused, options: see `thalweg.Optimizer`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """

    rule = ADAGRAD

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        rowwise: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), **options)

    def share_memory(self) -> None:
        """Move the state into shared memory, for training by several processes."""
        for state in self.state.values():
            for value in state.values():
                value.share_memory_()
        self._stepper = None  # sharing moves the memory behind the tensors


class Adadelta(Optimizer):
    r"""Adadelta: steps in the units of the parameter, from averages of squared steps and gradients.

    .. math::
        v_t &= \rho v_{t-1} + (1 - \rho)\, g_t^2 \\
        d_t &= \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}}\, g_t \\
        u_t &= \rho u_{t-1} + (1 - \rho)\, d_t^2 \\
        p_t &= p_{t-1} - \gamma\, d_t

    Zeiler 2012, arXiv 1212.5701, algorithm 1.

    Args:
        params: parameters or groups.
        lr: learning rate :math:`\gamma`, at least 0; a float or a one-element tensor.
        rho: :math:`\rho`, in [0, 1].
        eps: :math:`\epsilon`, at least 0.
        weight_decay: :math:`\lambda`, at least 0: :math:`\lambda p` is added to the gradient.
        maximize, foreach, capturable, differentiable, options: see `thalweg.Optimizer`.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """

    rule = ADADELTA

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), **options)
