"""How deep in a model each parameter lies, read from the module tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

__all__ = ["layer_depths"]

CONTAINERS = (nn.Sequential, nn.ModuleList)


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Return the depth of every parameter of `model` by name, from 0 on.

    Layers are the blocks of the model: children of a `Sequential` or `ModuleList` in which at least two of
    the same class stand together, where that class has modules of its own (transformer blocks, residual
    blocks). Of blocks within blocks the outer ones count (attention heads and experts are no layers),
    unless the inner ones stand in a `Sequential`, which is run in order (the blocks of a stage). A model
    without blocks has the children of its outermost containers as layers, where a child with nothing but
    vectors (a norm) belongs to the layer before it.

    What comes before the first layer (the stem: embeddings, patches) lies at depth 0, what comes after the
    last one (the head, with the norm before it) deepest, as in BEiT (Bao et al. 2021, arXiv 2106.08254).
    What lies between two layers belongs to the second. The order is that in which the modules were
    registered.

    Returns:
        The depths, without gaps. Empty if the model has no layers: no `Sequential` and no `ModuleList`
        with parameters.
    """
    names = [name for name, _ in model.named_parameters()]
    layers = _layers(model)
    places = [_place(name, layers) for name in names]
    if all(place is None for place in places):
        return {}
    depths: list[int] = []
    following = 1 + max(place for place in places if place is not None)
    for place in reversed(places):
        following = following if place is None else place
        depths.append(following)
    depths.reverse()
    first = next(i for i, place in enumerate(places) if place is not None)
    depths[:first] = [-1] * first
    rank = {depth: i for i, depth in enumerate(sorted(set(depths)))}
    return {name: rank[depth] for name, depth in zip(names, depths, strict=True)}


def _place(name: str, layers: dict[str, int]) -> int | None:
    """Return the layer that a parameter lies in."""
    parts = name.split(".")
    prefixes = (".".join(parts[:i]) for i in range(1, len(parts)))
    return next((layers[prefix] for prefix in prefixes if prefix in layers), None)


def _layers(model: nn.Module) -> dict[str, int]:
    """Return the number of the layer of each module that is one, or belongs to one, by name."""
    kinds = {kind for module in model.modules() for kind in _blocks(module)}
    if kinds:
        return {name: i for i, name in enumerate(_of_kinds("", model, kinds))}
    found: dict[str, int] = {}
    latest = -1
    for name, child in _of_containers("", model):
        if any(param.dim() > 1 for param in child.parameters()):
            latest += 1
        if latest >= 0:
            found[name] = latest
    return found


def _blocks(module: nn.Module) -> set[type[nn.Module]]:
    """Return the classes of which a container has at least two, and which have modules of their own."""
    if not isinstance(module, CONTAINERS):
        return set()
    counts = Counter(type(child) for child in module.children() if _is_composite(child))
    return {kind for kind, count in counts.items() if count > 1}


def _is_composite(module: nn.Module) -> bool:
    # A Sequential within a Sequential, or a subclass such as torchvision's Conv2dNormActivation, is a part of
    # a block or holds blocks.
    return not isinstance(module, CONTAINERS) and any(True for _ in module.children())


def _of_kinds(path: str, module: nn.Module, kinds: set[type[nn.Module]]) -> Iterator[str]:
    for name, child in module.named_children():
        inside = f"{path}{name}"
        if isinstance(module, CONTAINERS) and type(child) in kinds and not _holds_blocks_in_order(child):
            yield inside
        else:
            yield from _of_kinds(f"{inside}.", child, kinds)


def _holds_blocks_in_order(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.Sequential) and _blocks(inner) for inner in module.modules())


def _of_containers(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        inside = f"{path}{name}"
        if isinstance(module, CONTAINERS):
            yield inside, child
        else:
            yield from _of_containers(f"{inside}.", child)
