"""Parameters in groups, and by what each group is stepped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Unpack

import torch

from thalweg import additions
from thalweg.optimizer import saving
from thalweg.optimizer.arguments import Options, Params
from thalweg.optimizer.compiling import uncompiled, undecorated
from thalweg.optimizer.saving import RecipeOf
from thalweg.rule import Recipe, Rule
from thalweg.storage import choices as storage


class Grouped(torch.optim.Optimizer):
    """Has groups of parameters, with hyperparameters and options that were checked, and a recipe for each."""

    rule: ClassVar[Rule]

    @uncompiled
    def __init__(self, params: Params, defaults: dict[str, Any], **options: Unpack[Options]) -> None:
        unknown = options.keys() - Options.__optional_keys__
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {min(unknown)!r}")
        defaults = {**defaults, **storage.DEFAULTS, **options}
        additions.check_effect(defaults)
        self._check(defaults)
        _check_fused(defaults)
        super().__init__(params, defaults)
        self._claim_scaling()

    def recipe_of(self, group: Mapping[str, Any]) -> Recipe:
        """Return what the steps of a group are made by: the rule, and the additions that it asks for."""
        return self._recipes()(group)

    def _rules(self) -> Callable[[Mapping[str, Any]], Rule]:
        """Return what says which rule a group follows, and does not hold the optimizer."""
        rule = self.rule
        return lambda group: rule

    def _recipes(self) -> RecipeOf:
        """Return `recipe_of` as a function that does not hold the optimizer, which its stepper must not."""
        rule_of = self._rules()
        return lambda group: additions.recipe_of(rule_of(group), group)

    def _check(self, group: Mapping[str, Any]) -> None:
        storage.check(additions.check(self.rule, group), group)

    @staticmethod
    def _joined(defaults: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a group says, and of the defaults what has an effect beside it."""
        return additions.joined(defaults, group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as in torch; hyperparameters are checked first."""
        said = self.defaults.keys() | additions.NAMES
        if isinstance(param_group, dict) and not said.isdisjoint(param_group):
            whole = self._joined(self.defaults, param_group)
            additions.check_effect(whole)
            self._check(whole)  # the defaults alone have been checked
        undecorated(super().add_param_group)(param_group)
        group = self.param_groups[-1]
        for name in additions.idle(group):
            del group[name]  # a default of what the group does without
        saving.without_defaults(self.recipe_of(group), group)

    @uncompiled
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parameters, as in torch.

        Args:
            set_to_none: have no gradients (default), which saves their memory; else fill them with zeros.
        """
        undecorated(super().zero_grad)(set_to_none)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            recipe = self.recipe_of(group)
            for name in self.defaults.keys() - {*storage.DEFAULTS, *recipe.extras, *additions.NAMES}:
                group.setdefault(name, self.defaults[name])
            saving.without_defaults(recipe, group)
        self._claim_scaling()

    def _claim_scaling(self) -> None:
        """Have GradScaler leave unscaling and skipping to `step`, if `fused=True` was asked for, as in torch.

        Every `step` can do that. But whoever finds the attribute takes gradients to be scaled still: trainers
        refuse to clip them, or do not learn of skipped steps.
        """
        if self.defaults.get("fused"):
            # Again after deepcopy and pickle, which drop attributes, but not over what a user has set since.
            vars(self).setdefault("_step_supports_amp_scaling", True)


def _check_fused(defaults: Mapping[str, Any]) -> None:
    """Refuse with `fused` what torch refuses with it, although it has no effect here."""
    if not defaults.get("fused"):
        return
    if defaults.get("differentiable"):
        raise RuntimeError("`fused` does not support `differentiable`")
    if defaults.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
