"""Checkpoints: which of a checkpoint's groups and parameters are which of ours."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.optimizer.saving import EXECUTION, Groups, RecipeOf
from thalweg.rule import Recipe
from thalweg.storage import choices as storage

Sources = list[tuple[dict[str, Any], list[Any]]]
"""For each group, the checkpoint's group that it takes its values from, and its parameters' ids there."""


def sources_by_name(
    recipe_of: RecipeOf, groups: Sequence[Mapping[str, Any]], saved: Groups
) -> Sources | None:
    """Match by name; None where there are no names on one side, or not the same ones.

    Raises:
        ValueError: if parameters of one group come from several groups, which do not agree.
    """
    mine, theirs = names_of(groups), names_of(saved)
    if mine is None or theirs is None:
        return None
    place = {
        name: (i, param_id)
        for i, (source, names) in enumerate(zip(saved, theirs, strict=True))
        for name, param_id in zip(names, source["params"], strict=True)
    }
    own = {name for names in mine for name in names}
    if own != place.keys():
        warnings.warn(
            "the checkpoint's parameter names differ from the optimizer's, so parameters are "
            f"matched by position; only in one of them: {sorted(own ^ place.keys())[:6]}",
            stacklevel=4,
        )
        return None
    sources: Sources = []
    for i, (group, names) in enumerate(zip(groups, mine, strict=True)):
        places = [place[name] for name in names]
        origins = [saved[j] for j in sorted({j for j, _ in places})] or [dict(group)]
        _check_agreement(recipe_of(groups[i]), i, origins)
        sources.append((origins[0], [param_id for _, param_id in places]))
    return sources


def sources_by_position(groups: Sequence[Mapping[str, Any]], saved: Groups) -> Sources:
    """Match by position.

    Raises:
        ValueError: if there are not as many groups, or parameters in one.
    """
    if len(groups) != len(saved):
        raise ValueError(f"the checkpoint has {len(saved)} parameter groups, the optimizer has {len(groups)}")
    for i, (group, source) in enumerate(zip(groups, saved, strict=True)):
        if len(group["params"]) != len(source["params"]):
            raise ValueError(
                f"parameter group {i} has {len(source['params'])} parameters in the checkpoint "
                f"and {len(group['params'])} in the optimizer"
            )
    return [(source, source["params"]) for source in saved]


def names_of(groups: Sequence[Mapping[str, Any]]) -> list[list[str]] | None:
    """Return the parameters' names, group by group; None where there is not one name for each of them.

    Several models in one optimizer may bring the same names, and then names tell nothing apart.
    """
    names = [group.get("param_names") for group in groups]
    for group, own in zip(groups, names, strict=True):
        if not isinstance(own, (list, tuple)) or len(own) != len(group["params"]):
            return None
    every = [name for own in names for name in own or ()]
    if not all(isinstance(name, str) for name in every) or len(set(every)) != len(every):
        return None
    return [list(own or ()) for own in names]


def _check_agreement(recipe: Recipe, index: int, origins: Groups) -> None:
    unsaid = {**storage.DEFAULTS, **recipe.extras}
    first = {**unsaid, **origins[0]}
    for origin in origins[1:]:
        other = {**unsaid, **origin}
        for key in (first.keys() | other.keys()) - {"params", "param_names", *EXECUTION}:
            if not _are_alike(first.get(key), other.get(key)):
                raise ValueError(
                    f"parameter group {index} takes its parameters from several groups of the "
                    f"checkpoint, which differ in {key!r}: {first.get(key)!r} and {other.get(key)!r}"
                )


def _are_alike(one: Any, other: Any) -> bool:
    """Say whether values are equal; what cannot be compared is not."""
    try:
        return one is other or bool(one == other)
    except Exception:  # the user's own values may raise anything
        return False
