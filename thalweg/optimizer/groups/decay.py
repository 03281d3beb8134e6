"""Which parameters do not decay."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from thalweg.optimizer.groups.params import Param
from thalweg.optimizer.groups.rules import CATCH_ALL, Rule
from thalweg.optimizer.groups.selectors import check_selector, is_named_by, parts, said, selects

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

WEIGHTED = (
    nn.Linear,
    nn.Bilinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
"""Modules whose weights decay whatever their shape."""

EMBEDDING = re.compile(r"(^|_)emb(ed(s|dings?)?)?(_|$)|(^|_)tokens?$")
"""Names of parameters that are embeddings without being an `nn.Embedding`: pos_embed, cls_token."""


def exempt_from_decay(no_decay: Any, params: list[Param]) -> set[str]:
    """Return the names of the parameters that are not to decay."""
    if isinstance(no_decay, bool):
        return {param.name for param in params if no_decay and _is_exempt(param)}
    selector = tuple(no_decay) if isinstance(no_decay, list) else no_decay
    check_selector(selector, "no_decay, if not True or False,")
    for one in parts(selector):
        if isinstance(one, (str, re.Pattern)) and not any(is_named_by(one, param.name) for param in params):
            raise ValueError(f"no_decay: {said(one)!r} selects no parameter")
    return {param.name for param in params if selects(selector, param)}


def _is_exempt(param: Param) -> bool:
    owner = param.modules[-1]
    if param.tensor.dim() <= 1 or "bias" in param.own_name or EMBEDDING.search(param.own_name):
        return True
    if isinstance(owner, (*NORMS, *EMBEDDINGS)):
        return True
    # Gains of norms on images and of layer scales are often (C, 1, 1); a linear weight may be (1, C).
    return sum(size > 1 for size in param.tensor.shape) <= 1 and not isinstance(owner, WEIGHTED)


def check_decay(rules: list[Rule], rule_of: dict[str, Rule], exempt: set[str]) -> None:
    """Raise if a rule asks for a decay, and all that it selects is exempt: it would silently do nothing."""
    for i, rule in enumerate(rules):
        names = [name for name, its in rule_of.items() if its is rule]
        asks = rule.options.get("weight_decay") and rule.selector != CATCH_ALL
        if asks and names and exempt.issuperset(names):
            raise ValueError(
                f"rule {str(rule)!r} (rules[{i}]) has weight_decay={rule.options['weight_decay']!r}, but "
                "no_decay leaves none of its parameters to decay; say with no_decay= what is not to decay"
            )
