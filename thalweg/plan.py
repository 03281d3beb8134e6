"""The plan: which tensors are stepped together.

A step's parameters are divided into batches that one kernel launch can run: same device, storage and flags,
across parameter groups. A plan stays for as long as parameters, gradients and flags stay alike, which
`Plan.read` checks at every step, before anything is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from thalweg.batches import Batch, DenseBatch, KernelBatch, ReferenceBatch, SparseBatch, StagedBatch
from thalweg.codecs import codec_of
from thalweg.engines import engine_for
from thalweg.layout import has_memory, is_plain, span
from thalweg.member import Member
from thalweg.rule import Rule
from thalweg.scaling import Scaling
from thalweg.tensors import Tensors


class Plan:
    """The batches of a step.

    Args:
        rule: the update rule.
        members: the parameters that have gradients.
        unscale: whether gradients carry GradScaler's scale.
    """

    def __init__(self, rule: Rule, members: Sequence[Member], unscale: bool) -> None:
        divided: dict[Any, list[Member]] = {}
        kinds = [_kind(rule, member) for member in members]
        for member, kind, layer in zip(members, kinds, _layers(members, kinds), strict=True):
            key = (kind, layer, *_alike(rule, member))
            divided.setdefault(key, []).append(member)
        self.batches = [key[0](rule, batch, unscale) for key, batch in divided.items()]
        self.drawing = sorted({member.group for member in members if member.draws})
        """The indices of the groups in which something is rounded by random words."""
        self.skips = all(isinstance(b, KernelBatch) and b.engine.skips for b in self.batches)
        """Whether all of it asks on its device whether gradients overflowed."""

    def read(self, tensors: Tensors) -> bool:
        """Look at this step's tensors; return False if they no longer fit the plan.

        That the gradients are of the kinds that the plan was made for is the caller's business.
        """
        return all(batch.read(tensors) for batch in self.batches)

    def run(self, hypers: Sequence[SimpleNamespace], scaling: Scaling) -> None:
        """Step everything that `read` has seen, unless `scaling` says that it overflowed.

        Args:
            hypers: the hyperparameters of each group.
            scaling: GradScaler's; its scale is there if the plan was made with `unscale`.
        """
        for batch in self.batches:
            batch.run(hypers, scaling)


def _layers(members: Sequence[Member], kinds: Sequence[type[Batch]]) -> list[int]:
    """Return 0 for each member, and 1, 2 ... for those that share memory with one of a lower layer.

    Threads must not step the same memory at once. Parameters may share it without being the same
    tensor; each is then stepped with its own gradient and state, one after the other, as in torch.
    """
    layers = [0] * len(members)
    ends: list[int] = []
    kernels = [i for i, kind in enumerate(kinds) if kind is not ReferenceBatch]
    for start, i in sorted((members[i].param.data_ptr(), i) for i in kernels):
        param = members[i].param
        size = span(param) * param.element_size()
        free = (layer for layer, end in enumerate(ends) if end <= start)
        layers[i] = next(free, len(ends))
        ends[layers[i] : layers[i] + 1] = [start + size]
    return layers


def _alike(rule: Rule, member: Member) -> tuple[Any, ...]:
    """Return what the members of a batch have in common beside their kind."""
    storage = (member.param.device, member.param.dtype, member.grad.dtype, *member.codecs.values())
    return storage, tuple(member.on.values()), tuple(rule.choices(member.options).values())


def _kind(rule: Rule, member: Member) -> type[Batch]:
    param, grad = member.param, member.grad
    tensors = (param, grad, *member.slots(rule).values())
    engine = engine_for(param.device)
    has_kernel = (
        engine is not None
        and grad.device == param.device
        and not member.options["differentiable"]
        and all(map(has_memory, tensors))
        and all(engine.supports(codec) for codec in (codec_of(grad.dtype), *member.codecs.values()))
    )
    if not has_kernel:
        return ReferenceBatch
    if grad.layout == torch.sparse_coo:
        return SparseBatch
    plain = is_plain(param) and is_plain(grad) and not param.is_complex()
    if plain and param.is_contiguous() and grad.is_contiguous():
        return DenseBatch
    return StagedBatch
