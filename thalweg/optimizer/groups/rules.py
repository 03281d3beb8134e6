"""Rules of the caller's: a selector, and options for those that it is the first to select."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from thalweg.optimizer.groups.params import Param
from thalweg.optimizer.groups.selectors import Selector, check_selector, is_named_by, said, selects
from thalweg.rule import LR, WEIGHT_DECAY

CATCH_ALL = "*"

DEFAULTS: tuple[tuple[Selector, dict[str, Any]], ...] = ((CATCH_ALL, {}),)

RESERVED = ("params", "param_names")


@dataclass(frozen=True)
class Rule:
    """A rule of the caller's: whom it selects, and the options of those."""

    selector: Selector
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return said(self.selector)


def rules_of(rules: Any) -> list[Rule]:
    """Return the rules that a caller has given, checked."""
    wanted = "rules must be a sequence of pairs of a selector and a dict of options"
    if isinstance(rules, (str, Mapping)) or not isinstance(rules, Iterable):
        raise TypeError(f"{wanted}, not {rules!r}")
    checked = []
    for i, rule in enumerate(rules):
        if not isinstance(rule, (tuple, list)) or len(rule) != 2 or not isinstance(rule[1], Mapping):
            raise TypeError(f"{wanted}; rules[{i}] is {rule!r}")
        check_selector(rule[0], f"the selector of rules[{i}]")
        _check_options(rule[1], f"rule {said(rule[0])!r}")
        checked.append(Rule(rule[0], dict(rule[1])))
    return checked


def _check_options(options: Mapping[str, Any], where: str) -> None:
    for key in options:
        if not isinstance(key, str) or key in RESERVED:
            raise ValueError(f"{where}: options must be group keys other than {RESERVED}, not {key!r}")
    for hyper in (LR, WEIGHT_DECAY):
        if hyper.name in options:
            try:
                hyper.check(options[hyper.name])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{where}: {error}") from None


def base_of(lr: Any, weight_decay: Any) -> dict[str, Any]:
    """Return the options of whoever is given no others, checked."""
    base = {"lr": lr, "weight_decay": weight_decay}
    base = {name: value for name, value in base.items() if value is not None}
    for hyper in (LR, WEIGHT_DECAY):
        if hyper.name in base:
            hyper.check(base[hyper.name])
    return base


def first_matches(
    rules: list[Rule], params: list[Param], taken: list[Param], model: nn.Module
) -> dict[str, Rule]:
    """Return the rule of each parameter, also of frozen ones, whose rules have no typo either."""
    matches = {
        param.name: [i for i, rule in enumerate(rules) if selects(rule.selector, param)] for param in params
    }
    first = {hits[0] for hits in matches.values() if hits}
    any_of = {i for hits in matches.values() for i in hits}
    for i, rule in enumerate(rules):
        if i not in first and rule.selector != CATCH_ALL:
            why = (
                "only parameters that earlier rules have selected; the first that selects one holds"
                if i in any_of
                else f"no parameter{_hint(rule.selector, model)}"
            )
            raise ValueError(f"rule {str(rule)!r} (rules[{i}]) selects {why}")
    lost = [param.name for param in taken if not matches[param.name]]
    if lost:
        others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise ValueError(
            f"no rule selects parameter {lost[0]!r}{others}; a last rule ('*', {{}}) selects whatever is left"
        )
    return {name: rules[hits[0]] for name, hits in matches.items() if hits}


def _hint(selector: Any, model: nn.Module) -> str:
    """Return what may have been meant by names that are there, but are no parameter's."""
    if not isinstance(selector, (str, re.Pattern)):
        return ""
    if isinstance(selector, str) and any(name == selector for name, _ in model.named_modules()):
        return f"; it is a module, whose parameters are {selector + '.*'!r}"
    names: dict[int, str] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(tensor), name)
        if first != name and is_named_by(selector, name):
            return f"; {name!r} is the same tensor as {first!r}, and goes by that name"
    return ""
