"""Hyperparameters that keep their meaning when the batch size changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from thalweg.rule import BETAS, EPS, LR, Hyper

__all__ = ["half_life", "half_life_of", "scaled_to"]

BATCH_SIZE = Hyper("batch_size")
SAMPLES = Hyper("samples")
BETA = Hyper("beta")
KAPPA = Hyper("kappa")
ALPHA = Hyper("alpha", high=1.0)

RULES = ("sqrt", "linear")


def half_life(samples: float, batch_size: float) -> float:
    r"""Return the beta of an average that forgets half within so many samples.

    .. math:: \beta = 2^{-B / H}

    After :math:`H / B` steps a gradient weighs half of what it weighed, whatever the batch size :math:`B`.
    Marek et al. 2025, arXiv 2507.07101, hold the half-life of the second moment (:math:`\beta_2`, `alpha`)
    constant in tokens; averages of weights scale likewise (Busbridge et al. 2023, arXiv 2307.13813).

    Args:
        samples: the half-life :math:`H`, above 0, in samples or tokens.
        batch_size: :math:`B`, above 0, in the same unit: what one step sees, on all devices and with all
            accumulated gradients.

    Returns:
        A float in [0, 1): with `batch_size=512 * 1024` tokens and a half-life of 10 million, 0.964.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """
    return float(2.0 ** (-_positive(BATCH_SIZE, batch_size) / _positive(SAMPLES, samples)))


def half_life_of(beta: float, batch_size: float) -> float:
    r"""Return within how many samples an average forgets half: the inverse of `half_life`.

    .. math:: H = -B / \log_2 \beta

    Args:
        beta: :math:`\beta`, in (0, 1).
        batch_size: :math:`B`, above 0, in samples or tokens.

    Returns:
        The half-life in the same unit: 0.999 at `batch_size=256` forgets half in 177,357 samples.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """
    return -_positive(BATCH_SIZE, batch_size) / math.log2(_positive(BETA, beta, below=1.0))


def scaled_to(options: Mapping[str, Any], kappa: float, *, rule: str) -> dict[str, Any]:
    r"""Return an optimizer's options for a batch :math:`\kappa` times as large.

    `rule="sqrt"`, for Adam, RMSprop and other optimizers that divide by a root of an average of squares.
    Malladi et al. 2022, arXiv 2205.10287: `lr` times :math:`\sqrt\kappa`, `eps` by :math:`\sqrt\kappa`,
    :math:`1 - \beta` times :math:`\kappa`. The last holds for small :math:`\kappa (1 - \beta)`. What is
    returned is :math:`\beta^\kappa`, which is the same to first order, keeps the half-life in samples
    exactly (see `half_life`) and never leaves [0, 1). `alpha` scales as `betas` do. With `eps_inside_sqrt`,
    `eps` is divided by :math:`\kappa`.

    `rule="linear"`, for SGD: `lr` times :math:`\kappa`. Goyal et al. 2017, arXiv 1706.02677, who warm up,
    and see it fail above some batch size.

    All else is as it was. A decoupled weight decay, which shrinks weights by `lr * weight_decay` a step,
    forgets as much per sample as before if `weight_decay` is multiplied by :math:`\sqrt\kappa` with "sqrt",
    and left alone with "linear" (its timescale, Wang and Aitchison 2024, arXiv 2405.13698).

    Args:
        options: the options at the old batch size, as an optimizer or a group takes them. With "sqrt",
            options that are not named are not scaled: name `betas` and `eps` if they are to follow.
        kappa: new batch size by the old one, above 0.
        rule: "sqrt" or "linear".

    Returns:
        A new dict.

    Raises:
        ValueError, TypeError: if an argument is not allowed.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be {' or '.join(map(repr, RULES))}, not {rule!r}")
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict, not {options!r}")
    kappa = _positive(KAPPA, kappa)
    for hyper in (LR, EPS, BETAS, ALPHA):
        if hyper.name in options:
            hyper.check(options[hyper.name])
    scaled = dict(options)
    root = math.sqrt(kappa)
    if "lr" in options:
        scaled["lr"] = options["lr"] * (kappa if rule == "linear" else root)
    if rule == "linear":
        return scaled
    if "eps" in options:
        scaled["eps"] = options["eps"] / (kappa if options.get("eps_inside_sqrt") else root)
    if "betas" in options:
        scaled["betas"] = tuple(beta**kappa for beta in options["betas"])
    if "alpha" in options:
        scaled["alpha"] = options["alpha"] ** kappa
    return scaled


def _positive(hyper: Hyper, value: Any, below: float = math.inf) -> float:
    """Return a number above 0 and below a bound."""
    allowed = "a number above 0" if below == math.inf else f"a number in (0, {below:g})"
    try:
        number = float(hyper.read(value))
    except (TypeError, ValueError):
        raise TypeError(f"{hyper.name} must be {allowed}, not {value!r}") from None
    if not 0 < number < below:
        raise ValueError(f"{hyper.name} must be {allowed}, not {value!r}")
    return number
