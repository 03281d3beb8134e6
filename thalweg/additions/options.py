"""The arguments of every optimizer that ask for additions."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class Additions(TypedDict, total=False):
    """What every optimizer can be given, all of it also as keys of a parameter group; off by default.

    `docs/additions.md` has formulas, sources, costs, and the order in which they act.

    Attributes:
        skip_nonfinite: do not take a step, nor anything that belongs to it, whose gradients are not all
            finite, and raise FloatingPointError when this many steps in a row were not; at least 1.
        max_norm: scale gradients such that the norm of all of them is at most this, as
            `torch.nn.utils.clip_grad_norm_`; at least 0.
        max_value: clamp gradients to this size, as `torch.nn.utils.clip_grad_value_`; at least 0.
        lars: multiply a tensor's gradient, L2 decay included, by
            `trust_coefficient * ||p|| / (||g|| + weight_decay * ||p||)` (LARS), without decoupled decay.
        trust_coefficient: see `lars`; 0.001.
        cautious: leave out elements whose step and gradient disagree, and scale up the others.
        max_step_rms: bound the root mean square of a tensor's step, before the learning rate; above 0.
        lamb: multiply a tensor's step, decoupled decay included, by `||p|| / ||step||` (LAMB).
        decay_by: what decoupled decay is proportional to: `"lr"`, `"independent"` (to nothing:
            `weight_decay` of the weight at every step), or `"corrected"` (lr squared over the largest lr that
            there was, AdamC).
        dog: find the learning rate from the distance that the weights have come, and multiply `lr` by it;
            `lr=1` is meant (DoG).
        dog_first: the distance at first, as a share of 1 and the norm of the weights, above 0; 1e-6.
        schedule_free: take gradients between an average of the weights and a fast sequence of them, with this
            weight of the average, in (0, 1), in place of a schedule and of momentum; 0.9 is usual.
            `averaged()`, or `eval()`, has the average.
        schedule_free_state: how the fast weights are stored, `"float32"`, `"bfloat16"` or `"int8"`.
        cautious_decay: decay only what the step does not move away from zero.
        lookahead: every so many steps, weights meet slow ones that follow them; at least 1.
        lookahead_alpha: how far the slow ones then go, in [0, 1]; 0.5.
        lookahead_state: how the slow weights are stored, `"float32"`, `"bfloat16"` or `"int8"`.
        average: keep an exponential moving average of the weights with this decay, in [0, 1).
        average_every: every how many steps it is updated; 1.
        average_warmup: let its decay grow, as `1 - (1 + updates) ** (-2 / 3)`, until it is `average`.
        average_state: how it is stored, `"float32"`, `"bfloat16"` or `"int8"`.
        sparse: what becomes of rows that a row-sparse gradient does not name: `"lazy"` (default), they
            rest; `"exact"`, they make up for it when they are named again, or at `flush()`, and training
            is that of dense gradients (`docs/sparse.md`).
        statistics: measure norms of gradients, updates and weights, for `optimizer.statistics()`.
    """

    skip_nonfinite: int | None
    max_norm: float | Tensor | None
    max_value: float | Tensor | None
    lars: bool
    trust_coefficient: float | Tensor
    cautious: bool
    max_step_rms: float | Tensor | None
    lamb: bool
    decay_by: str
    dog: bool
    dog_first: float | Tensor
    schedule_free: float | Tensor | None
    schedule_free_state: str
    cautious_decay: bool
    lookahead: int | None
    lookahead_alpha: float | Tensor
    lookahead_state: str
    average: float | Tensor | None
    average_every: int
    average_warmup: bool
    average_state: str
    sparse: str
    statistics: bool
