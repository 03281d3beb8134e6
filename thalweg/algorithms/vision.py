"""RMSprop as vision models are trained with it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from thalweg.algorithms.rmsprop import RMSprop
from thalweg.optimizer import Params
from thalweg.optimizer.groups import param_groups

LR_AT_256 = 0.016
"""0.256 for a batch of 4,096, in EfficientNet."""

RECIPE = {"alpha": 0.9, "eps": 1e-3, "momentum": 0.9, "debias": True, "eps_inside_sqrt": True}


def rmsprop_for_vision(
    params: nn.Module | Params,
    lr: float | Tensor | None = None,
    *,
    batch_size: int | None = None,
    weight_decay: float = 1e-5,
    **options: Any,
) -> RMSprop:
    r"""Return RMSprop with the settings of MnasNet, MobileNetV3 and EfficientNet.

    .. math::
        v_t &= 0.9\, v_{t-1} + 0.1\, g_t^2 \\
        b_t &= 0.9\, b_{t-1} + g_t / \sqrt{\hat v_t + 0.001} \\
        p_t &= p_{t-1} - \gamma\, b_t

    with a learning rate of 0.016 for each 256 samples of a batch, a weight decay of 1e-5 that is added to
    the gradient, and none on norms, biases and embeddings. Tan and Le 2019, arXiv 1905.11946, section 5.2;
    Howard et al. 2019, arXiv 1905.02244; timm's `--opt rmsproptf --opt-eps .001 --weight-decay 1e-5 --lr
    .016`. Their schedule is `thalweg.schedules.staircase(optimizer, every=2.4 * steps_per_epoch, warmup=5 *
    steps_per_epoch)`; they also average weights, with 0.9999 a step.

    Two things differ from TensorFlow's RMSprop and timm's RMSpropTF:

    - There :math:`v_0 = 1`, which this RMSprop has no argument for. Here :math:`v_0 = 0`, and :math:`\hat
      v_t = v_t / (1 - 0.9^t)`. With small gradients their first few dozen steps are shorter, so warm up, as
      the recipe does.
    - There the buffer sums steps that have been multiplied by the learning rate, here the rate multiplies the
      buffer, as in torch. It is the same while the rate is.

    Args:
        params: a model, of which `thalweg.param_groups` makes groups; or parameters or groups, which are
            taken as they are, with `weight_decay` for all that have none of their own.
        lr: learning rate :math:`\gamma`.
        batch_size: samples of a step, on all devices, from which the rate follows: 0.016 * batch_size / 256.
            One of the two is given.
        weight_decay: at least 0.
        **options: further arguments of `RMSprop`, or others in place of these.

    Raises:
        ValueError, TypeError: if an argument is not allowed, or both or none of `lr` and `batch_size` are
            given.
    """
    if (lr is None) == (batch_size is None):
        raise ValueError(
            "give lr, or batch_size, from which the rate follows (0.016 for each 256 samples), not "
            f"lr={lr!r} and batch_size={batch_size!r}"
        )
    rate = lr if batch_size is None else LR_AT_256 * _checked(batch_size) / 256
    groups = param_groups(params, weight_decay=weight_decay) if isinstance(params, nn.Module) else params
    return RMSprop(groups, **{"lr": rate, "weight_decay": weight_decay, **RECIPE, **options})


def _checked(batch_size: Any) -> Any:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be an int of at least 1, not {batch_size!r}")
    return batch_size
