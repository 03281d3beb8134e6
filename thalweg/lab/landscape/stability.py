"""The sharpness above which an optimizer's steps no longer settle.

On a quadratic with curvature c along a direction, a gradient step of rate lr multiplies the distance from the
minimum by 1 - lr c: it settles while c < 2 / lr. Momentum moves the bound, and an optimizer that divides the
gradient by P has it on P^-1 H in place of H (Cohen et al. 2021, arXiv 2103.00065; of Adam, Cohen et al. 2022,
arXiv 2207.14484).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from thalweg.lab.landscape.vectors import flat

ALTERING = (
    "lars",
    "lamb",
    "cautious",
    "cautious_decay",
    "max_step_rms",
    "dog",
    "schedule_free",
    "lookahead",
    "maximize",
)
"""What makes a group's steps others than its rule's."""


class UnknownError(ValueError):
    """No bound is known for an optimizer; the message says why."""


@dataclass(frozen=True)
class Stability:
    """Where steps stop being stable: while `sharpness(scale=scale, decay=decay)` is below `bound`, they are.

    Attributes:
        bound: on the largest eigenvalue of S (H + D) S, with S = diag(scale), D = diag(decay).
        scale: one vector over the parameters, P^(-1/2); None for ones. Where groups have different rates, P
            has their ratio to the first group's.
        decay: L2 decay that differs between parameters or is divided by P; None for none. A uniform one of
            plain gradient steps is taken off the bound instead, and decoupled decay multiplies it.
        formula: the bound in symbols.
    """

    bound: float
    scale: Tensor | None
    decay: Tensor | None
    formula: str


@dataclass(frozen=True)
class _Form:
    """How one group steps: by `rate * gain / P` of an average or sum with momentum `beta`.

    Attributes:
        beta: the momentum.
        gain: the factor of each gradient on its way into the momentum.
        is_nesterov: whether it looks ahead.
        divisor: P of a parameter from its state and the number of its steps; None for one.
        formula: the bound in symbols.
    """

    beta: float
    gain: float
    is_nesterov: bool
    divisor: Callable[[Mapping[str, Any]], Tensor] | None
    formula: str

    @property
    def bound(self) -> float:
        """That of a rate of 1 without decay."""
        ahead = 1 + 2 * self.beta if self.is_nesterov else 1.0
        return 2 * (1 + self.beta) / (ahead * self.gain)


def stability_bound(
    optimizer: Optimizer, params: Sequence[Tensor] | None = None, lr: float | None = None
) -> Stability:
    """The sharpness below which the steps of an optimizer are stable, as it stands.

    ======================  ==========================  ==========================================
    SGD, momentum mu        2 (1 + mu) / lr             on H
    SGD, Nesterov           2 (1 + mu) / ((1 + 2 mu) lr)  on H
    RMSprop                 the same                    P = sqrt(v) + eps
    Adam, AdamW             (2 + 2 b1) / ((1 - b1) lr)  P = (1 - b1^t) (sqrt(v / (1 - b2^t)) + eps)
    Adagrad                 2 / lr                      P = sqrt(sum) + eps
    ======================  ==========================  ==========================================

    With dampening, gradients count 1 - dampening. P is taken to stand still, as it nearly does. Gradients
    are those of the whole loss: noise and clipping are not in it.

    Args:
        optimizer: torch's or ours, after its steps.
        params: in whose order vectors are wanted; None for the optimizer's. Those that it does not have do
            not move: their scale is 0.
        lr: the first group's rate to take in place of its own, such as the highest of a schedule; others keep
            their ratio to it.

    Raises:
        UnknownError: no bound is known, for the reason it says.
    """
    groups = optimizer.param_groups
    kind = _kind(optimizer)
    for group in groups:
        for name in ALTERING:
            if group.get(name):
                raise UnknownError(f"no bound is known where {name} alters the steps")
    forms = [_FORMS[kind](group) for group in groups]
    if len({(form.beta, form.gain, form.is_nesterov) for form in forms}) > 1:
        raise UnknownError("no bound is known where groups have different momenta")
    own = float(groups[0]["lr"])
    rate = own if lr is None else float(lr)
    if not rate > 0 or not own > 0:
        raise UnknownError("a rate of zero does not move: there is no bound")
    wanted = [p for group in groups for p in group["params"]] if params is None else list(params)
    wanted = [p for p in wanted if p.requires_grad]
    scales, decays, shrink = _by_parameter(optimizer, forms, own)
    scale = flat([scales.get(p, torch.zeros_like(p)) for p in wanted])
    decay = flat([torch.full_like(p, decays.get(p, 0.0)) for p in wanted])
    bound = forms[0].bound / rate * (1 - rate * shrink / 2)
    formula = forms[0].formula
    is_plain = bool((scale == 1).all())
    if is_plain and bool((decay == decay[0]).all()):
        return Stability(bound - float(decay[0]), None, None, formula)
    return Stability(bound, None if is_plain else scale, decay if bool(decay.any()) else None, formula)


def _kind(optimizer: Optimizer) -> str:
    name, home = type(optimizer).__name__, type(optimizer).__module__
    if name in _FORMS and home.startswith(("torch.optim.", "thalweg.algorithms.")):
        return name
    raise UnknownError(f"no bound is known for {name}")


def _by_parameter(
    optimizer: Optimizer, forms: Sequence[_Form], rate: float
) -> tuple[dict[Tensor, Tensor], dict[Tensor, float], float]:
    """Each parameter's scale and L2 decay, and the largest decoupled decay."""
    scales, decays, shrink = {}, {}, 0.0
    states = _states(optimizer)
    for group, form in zip(optimizer.param_groups, forms, strict=True):
        decay, ratio = float(group.get("weight_decay", 0.0)), float(group["lr"]) / rate
        is_decoupled = type(optimizer).__name__ == "AdamW" or group.get("decoupled_weight_decay")
        if is_decoupled and decay and group.get("decay_by", "lr") != "lr":
            raise UnknownError("no bound is known where decay is not in proportion to the rate")
        shrink = max(shrink, decay * ratio if is_decoupled else 0.0)
        for param in group["params"]:
            divisor = _divisor(form, states.get(param), param)
            scales[param] = torch.sqrt(ratio / divisor)
            decays[param] = 0.0 if is_decoupled else decay
    return scales, decays, shrink


def _divisor(form: _Form, state: Mapping[str, Any] | None, param: Tensor) -> Tensor:
    if form.divisor is None:
        return torch.ones_like(param)
    if not state:
        # It has had no gradient, so it has not moved.
        return torch.full_like(param, math.inf)
    return form.divisor(state).detach().to(param.device)


def _states(optimizer: Optimizer) -> dict[Tensor, Mapping[str, Any]]:
    """State in full precision, by parameter."""
    full = getattr(optimizer, "full_precision_state_dict", None)
    if full is None:
        return dict(optimizer.state)
    document = full()
    names = [i for group in document["param_groups"] for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return {p: document["state"].get(name, {}) for p, name in zip(params, names, strict=True)}


def _sgd(group: Mapping[str, Any]) -> _Form:
    mu = float(group["momentum"])
    gain = 1 - float(group["dampening"]) if mu else 1.0
    return _Form(mu, gain, bool(group["nesterov"]), None, _formula(mu, bool(group["nesterov"])))


def _rmsprop(group: Mapping[str, Any]) -> _Form:
    mu, is_nesterov = float(group["momentum"]), bool(group.get("nesterov"))
    gain = 1 - mu if group.get("momentum_ema") else 1.0

    def divisor(state: Mapping[str, Any]) -> Tensor:
        debias = 1 / (1 - float(group["alpha"]) ** float(state["step"])) if group.get("debias") else 1.0
        second = state["square_avg"] * debias
        if group["centered"]:
            second = (second - (state["grad_avg"] * debias) ** 2).clamp(min=0)
        if group.get("amsgrad"):
            second = state["max_square_avg"]
        eps = float(group["eps"])
        return (second + eps).sqrt() if group.get("eps_inside_sqrt") else second.sqrt() + eps

    return _Form(mu, gain, is_nesterov, divisor, _formula(mu, is_nesterov))


def _adam(group: Mapping[str, Any]) -> _Form:
    beta1, beta2 = (float(beta) for beta in group["betas"])

    def divisor(state: Mapping[str, Any]) -> Tensor:
        step = float(state["step"])
        second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
        return (1 - beta1**step) * ((second / (1 - beta2**step)).sqrt() + float(group["eps"]))

    return _Form(beta1, 1 - beta1, False, divisor, "(2 + 2 \u03b21) / ((1 \u2212 \u03b21) lr)")


def _adagrad(group: Mapping[str, Any]) -> _Form:
    def divisor(state: Mapping[str, Any]) -> Tensor:
        later = 1 + (float(state["step"]) - 1) * float(group["lr_decay"])
        root: Tensor = state["sum"].sqrt() + float(group["eps"])
        return root * later

    return _Form(0.0, 1.0, False, divisor, _formula(0.0, False))


_FORMS: Mapping[str, Callable[[Mapping[str, Any]], _Form]] = {
    "SGD": _sgd,
    "RMSprop": _rmsprop,
    "Adam": _adam,
    "AdamW": _adam,
    "Adagrad": _adagrad,
}


def _formula(mu: float, is_nesterov: bool) -> str:
    if is_nesterov:
        return "2 (1 + \u03bc) / ((1 + 2 \u03bc) lr)"
    return "2 (1 + \u03bc) / lr" if mu else "2 / lr"
