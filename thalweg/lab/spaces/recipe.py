"""A named way to train: an optimizer, and what else is different from the task as it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thalweg.lab.spaces.known import find
from thalweg.lab.spaces.space import Space


class Recipe:
    """What is compared where an optimizer alone says too little.

        recipes = (
            Recipe("plain", "adamw"),
            Recipe("careful", "adamw", fixed={"max_norm": 1.0, "average": 0.99}, schedule="cosine"),
            Recipe("large batches", "sgd", batch_size=256, steps=100),
        )

    The learning rate, and what else the optimizer's space holds, is searched for each recipe by itself.

    Args:
        name: what the user types, and what results are called.
        optimizer: a name or dotted path that has a space, or a space.
        fixed: constructor arguments of the optimizer, in place of searching them.
        source: why it is there, for the report.
        changes: attributes of the task that are others here: `schedule`, `clip_norm`, `accumulate`,
            `autocast`, `batch_size`, `steps`, `param_groups`, or any that the task's own methods read.
    """

    def __init__(
        self,
        name: str,
        optimizer: str | Space = "adamw",
        *,
        fixed: Mapping[str, Any] | None = None,
        source: str = "",
        **changes: Any,
    ) -> None:
        self.name, self.optimizer, self.source = name, optimizer, source
        self.fixed, self.changes = dict(fixed or {}), changes

    def __repr__(self) -> str:
        named = {"fixed": self.fixed, **self.changes} if self.fixed else self.changes
        words = [repr(self.name), repr(self.optimizer), *(f"{key}={value!r}" for key, value in named.items())]
        return f"Recipe({', '.join(words)})"

    def space(self, own: Sequence[Space] = ()) -> Space:
        """The space that is searched, under the recipe's name.

        Args:
            own: the spaces that the task brings.

        Raises:
            ValueError: the optimizer has none, or what is fixed is its learning rate.
        """
        try:
            base = self.optimizer if isinstance(self.optimizer, Space) else find(self.optimizer, own)
        except ValueError as error:
            raise ValueError(f"recipe {self.name!r}: {error}") from None
        first, *others = base.axes
        if first.name in self.fixed or "lr" in self.fixed:
            raise ValueError(f"recipe {self.name!r}: the learning rate is searched, it cannot be fixed")
        return replace(
            base,
            name=self.name,
            axes=(first, *(axis for axis in others if axis.name not in self.fixed)),
            fixed={**base.fixed, **self.fixed},
            changes={**base.changes, **self.changes},
            source=self.source or base.source,
        )


def resolve(names: Sequence[str], recipes: Sequence[Recipe], own: Sequence[Space] = ()) -> list[Space]:
    """The spaces of these recipes; ``all`` means every one there is.

    Raises:
        ValueError: one is not there.
    """
    by_name = {recipe.name: recipe for recipe in recipes}
    if list(names) == ["all"] and "all" not in by_name:
        names = list(by_name)
    for name in names:
        if name not in by_name:
            known = ", ".join(by_name) or "none; a task lists them in its attribute `recipes`"
            raise ValueError(f"unknown recipe {name!r}; there are: {known}")
    return [by_name[name].space(own) for name in names]
