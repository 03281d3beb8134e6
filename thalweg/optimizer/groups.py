"""Parameter groups from a model: rules by name or class, no decay where none is due, rates by depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thalweg.optimizer.depths import layer_depths
from thalweg.rule import LR, WEIGHT_DECAY

__all__ = ["ParamGroups", "Selector", "param_groups"]

Selector = (
    str | re.Pattern[str] | type[nn.Module] | Callable[[str, nn.Module, Tensor], bool] | tuple[Any, ...]
)

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

CATCH_ALL = "*"

DEFAULTS: tuple[tuple[Selector, dict[str, Any]], ...] = ((CATCH_ALL, {}),)

RESERVED = ("params", "param_names")

SHOWN, WIDTH = 3, 60
"""How many names a line of the table shows, and about how many characters of them."""


class ParamGroups(list[dict[str, Any]]):
    """Parameter groups, which any torch optimizer takes; printed, a table of what was assigned.

    Each group has `params`, `param_names` and its options. The table is that of the call that made the
    groups; an optimizer writes its defaults into the groups that it is given, as into any, so make them
    anew for another optimizer.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], table: str) -> None:
        super().__init__(groups)
        self.table = table

    def __repr__(self) -> str:
        return self.table


@dataclass(frozen=True)
class _Param:
    """A parameter with its place in the model.

    Args:
        name: its dotted name.
        tensor: the parameter.
        modules: those that contain it, from the model to the one that owns it; of a parametrized one
            (`torch.nn.utils.parametrize`), to the module that is parametrized.
        own_name: the last part of the name; of a parametrized one, what it was before.
    """

    name: str
    tensor: Tensor
    modules: tuple[nn.Module, ...]
    own_name: str


@dataclass(frozen=True)
class _Rule:
    """A rule of the caller's: whom it selects, and the options of those."""

    selector: Selector
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return _said(self.selector)


@dataclass(frozen=True)
class _Assigned:
    """A parameter with the options of its group, and why it has them."""

    param: _Param
    options: dict[str, Any]
    reason: str


@dataclass
class _Group:
    options: dict[str, Any]
    members: list[_Assigned] = field(default_factory=list)


def param_groups(
    model: nn.Module,
    rules: Sequence[tuple[Selector, Mapping[str, Any]]] | None = None,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    no_decay: bool | Selector | list[Selector] = True,
    layer_decay: float | None = None,
    depth: Callable[[str], int] | None = None,
    frozen: bool = False,
) -> ParamGroups:
    """Return the parameters of `model` as groups for an optimizer of this package or of torch.

    A selector is one of

    - a string: a glob on the parameter's dotted name, case-sensitive, where `*` also matches dots;
    - a compiled regular expression, which is searched for in that name;
    - a module class: parameters of its instances, and of whatever these contain;
    - a predicate on (name, the module that owns the parameter, the parameter);
    - a tuple of these: any of them.

    A parameter that goes by several names (tied weights) appears once, under the first. Groups whose options
    are the same are one. Groups and parameters are in the order of `model.named_parameters()`.

    Args:
        model: the model, before it is wrapped, compiled or sharded, which change names.
        rules: pairs of a selector and options. Of the rules that select a parameter the first one holds.
            Options are what the optimizer's groups may have: `lr`, `betas`, `state`, ...; they are passed on
            as they are. By default one rule, `("*", {})`.
        lr: learning rate of parameters whose rule has none; by default the optimizer's.
        weight_decay: likewise.
        no_decay: what has a weight decay of 0, whatever its rule says. True: biases and all else that is 0-
            or 1-dimensional; the norms of `torch.nn`; what has but one dimension of more than 1, such as
            gains of (1, C, 1, 1), outside of the linear, convolutional and recurrent modules of `torch.nn`;
            `nn.Embedding`, `nn.EmbeddingBag`, and parameters called `*_embed`, `*_token` and the like.
            False: nothing. Else a selector or a list of them: what they select.
        layer_decay: in (0, 1]: the `lr` of each group is multiplied by this to the power of its layers'
            distance from the deepest one. Written as `lr`, so that every scheduler respects it. Clark et al.
            2020 (ELECTRA, arXiv 2003.10555); Bao et al. 2021 (BEiT, arXiv 2106.08254).
        depth: the depth of a parameter by its name, from 0 on, for `layer_decay`; by default it is read from
            the module tree, as `thalweg.optimizer.depths.layer_depths` describes.
        frozen: also take parameters that require no gradient, which are left out by default.

    Returns:
        The groups, a list. Printed, it is a table: of each group its rule, options, tensors, parameters and
        first names.

    Raises:
        ValueError: if a parameter is selected by no rule, a rule selects no parameter or only those that
            earlier ones have (but for a `"*"`), or has a weight decay of which `no_decay` leaves nothing; a
            parameter is not initialized (lazy modules), there is none to train, or an argument is not
            allowed.
        TypeError: if an argument is of another kind.
    """
    params = _params_of(model)
    checked = _rules_of(DEFAULTS if rules is None else rules)
    base = _base(lr, weight_decay)
    taken = [param for param in params if frozen or param.tensor.requires_grad]
    if not taken:
        raise ValueError("no parameter of the model requires a gradient; frozen=True takes all of them")
    rule_of = _first_matches(checked, params, taken, model)
    exempt = _exempt(no_decay, params)
    _check_decay(checked, rule_of, exempt)
    depths = _depths(model, params, layer_decay, depth)
    decay = _LayerDecay(layer_decay, max(depths.values(), default=0))
    groups: list[_Group] = []
    for param in taken:
        options = {**base, **rule_of[param.name].options}
        reason = str(rule_of[param.name])
        if param.name in exempt:
            options["weight_decay"] = 0.0
            reason += ", no decay"
        if layer_decay is not None:
            options["lr"] = decay.of(options.get("lr"), depths[param.name], param.name)
            reason += f", depth {depths[param.name]}"
        _put(groups, _Assigned(param, options, reason))
    left_out = len(params) - len(taken)
    return ParamGroups([_made(group) for group in groups], _table(groups, left_out))


def _params_of(model: nn.Module) -> list[_Param]:
    """Return all parameters, each once, under its first name."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    found = [_param(model, name, tensor) for name, tensor in model.named_parameters()]
    for param in found:
        if is_lazy(param.tensor):
            raise ValueError(
                f"parameter {param.name!r} is not initialized: run a batch through the model first, "
                "and then make its groups"
            )
    return found


def _param(model: nn.Module, name: str, tensor: Tensor) -> _Param:
    *path, own_name = name.split(".")
    if "parametrizations" in path:
        place = path.index("parametrizations")
        path, own_name = path[:place], [*path, own_name][place + 1]
    modules = [model]
    for part in path:
        modules.append(getattr(modules[-1], part))
    return _Param(name, tensor, tuple(modules), own_name)


def _rules_of(rules: Any) -> list[_Rule]:
    wanted = "rules must be a sequence of pairs of a selector and a dict of options"
    if isinstance(rules, (str, Mapping)) or not isinstance(rules, Iterable):
        raise TypeError(f"{wanted}, not {rules!r}")
    checked = []
    for i, rule in enumerate(rules):
        if not isinstance(rule, (tuple, list)) or len(rule) != 2 or not isinstance(rule[1], Mapping):
            raise TypeError(f"{wanted}; rules[{i}] is {rule!r}")
        _check_selector(rule[0], f"the selector of rules[{i}]")
        _check_options(rule[1], f"rule {_said(rule[0])!r}")
        checked.append(_Rule(rule[0], dict(rule[1])))
    return checked


def _check_selector(selector: Any, where: str) -> None:
    if isinstance(selector, tuple):
        for one in selector:
            _check_selector(one, where)
        return
    is_class = isinstance(selector, type)
    if is_class and issubclass(selector, nn.Module):
        return
    if is_class or not (isinstance(selector, (str, re.Pattern)) or callable(selector)):
        raise TypeError(
            f"{where} must be a glob, a compiled regular expression, a subclass of torch.nn.Module, a "
            f"predicate on (name, module, parameter) or a tuple of these, not {selector!r}"
        )


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


def _base(lr: Any, weight_decay: Any) -> dict[str, Any]:
    base = {"lr": lr, "weight_decay": weight_decay}
    base = {name: value for name, value in base.items() if value is not None}
    for hyper in (LR, WEIGHT_DECAY):
        if hyper.name in base:
            hyper.check(base[hyper.name])
    return base


def _selects(selector: Any, param: _Param) -> bool:
    if isinstance(selector, tuple):
        return any(_selects(one, param) for one in selector)
    if isinstance(selector, (str, re.Pattern)):
        return _names(selector, param.name)
    if isinstance(selector, type):
        return any(isinstance(module, selector) for module in param.modules)
    return bool(selector(param.name, param.modules[-1], param.tensor))


def _names(selector: str | re.Pattern[str], name: str) -> bool:
    if isinstance(selector, str):
        return fnmatchcase(name, selector)
    return selector.search(name) is not None


def _first_matches(
    rules: list[_Rule], params: list[_Param], taken: list[_Param], model: nn.Module
) -> dict[str, _Rule]:
    """Return the rule of each parameter, also of frozen ones, whose rules have no typo either."""
    matches = {
        param.name: [i for i, rule in enumerate(rules) if _selects(rule.selector, param)] for param in params
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
        if first != name and _names(selector, name):
            return f"; {name!r} is the same tensor as {first!r}, and goes by that name"
    return ""


def _exempt(no_decay: Any, params: list[_Param]) -> set[str]:
    """Return the names of the parameters that are not to decay."""
    if isinstance(no_decay, bool):
        return {param.name for param in params if no_decay and _is_exempt(param)}
    selector = tuple(no_decay) if isinstance(no_decay, list) else no_decay
    _check_selector(selector, "no_decay, if not True or False,")
    for one in _parts(selector):
        if isinstance(one, (str, re.Pattern)) and not any(_names(one, param.name) for param in params):
            raise ValueError(f"no_decay: {_said(one)!r} selects no parameter")
    return {param.name for param in params if _selects(selector, param)}


def _parts(selector: Any) -> Iterator[Any]:
    if not isinstance(selector, tuple):
        yield selector
        return
    for one in selector:
        yield from _parts(one)


def _is_exempt(param: _Param) -> bool:
    owner = param.modules[-1]
    if param.tensor.dim() <= 1 or "bias" in param.own_name or EMBEDDING.search(param.own_name):
        return True
    if isinstance(owner, (*NORMS, *EMBEDDINGS)):
        return True
    # Gains of norms on images and of layer scales are often (C, 1, 1); a linear weight may be (1, C).
    return sum(size > 1 for size in param.tensor.shape) <= 1 and not isinstance(owner, WEIGHTED)


def _check_decay(rules: list[_Rule], rule_of: dict[str, _Rule], exempt: set[str]) -> None:
    """Raise if a rule asks for a decay, and all that it selects is exempt: it would silently do nothing."""
    for i, rule in enumerate(rules):
        names = [name for name, its in rule_of.items() if its is rule]
        asks = rule.options.get("weight_decay") and rule.selector != CATCH_ALL
        if asks and names and exempt.issuperset(names):
            raise ValueError(
                f"rule {str(rule)!r} (rules[{i}]) has weight_decay={rule.options['weight_decay']!r}, but "
                "no_decay leaves none of its parameters to decay; say with no_decay= what is not to decay"
            )


def _depths(
    model: nn.Module, params: list[_Param], layer_decay: Any, depth: Callable[[str], int] | None
) -> dict[str, int]:
    """Return the depth of each parameter, frozen or not: what is trained does not change where it lies."""
    if layer_decay is None:
        if depth is not None:
            raise ValueError("depth has no effect without layer_decay")
        return {}
    is_number = isinstance(layer_decay, (int, float)) and not isinstance(layer_decay, bool)
    if not is_number or not 0 < layer_decay <= 1:
        error = ValueError if is_number else TypeError
        raise error(f"layer_decay must be a number in (0, 1], not {layer_decay!r}")
    if depth is None:
        found = layer_depths(model)
        if not found:
            raise ValueError(
                "layer_decay finds no layers: the model has no Sequential and no ModuleList with parameters; "
                "depth= can say how deep each parameter lies, by its name"
            )
        return found
    return {param.name: _checked_depth(depth(param.name), param.name) for param in params}


def _checked_depth(depth: Any, name: str) -> int:
    if not isinstance(depth, Integral) or isinstance(depth, bool) or depth < 0:
        raise ValueError(f"depth({name!r}) must be an int of at least 0, not {depth!r}")
    return int(depth)


class _LayerDecay:
    """Rates by depth; of a tensor one for each depth, so that groups which are alike are one."""

    def __init__(self, layer_decay: float | None, deepest: int) -> None:
        self.layer_decay = layer_decay
        self.deepest = deepest
        self.tensors: dict[tuple[int, int], Tensor] = {}

    def of(self, lr: Any, depth: int, name: str) -> Any:
        if lr is None:
            raise ValueError(f"layer_decay needs an lr to multiply: pass lr=, or one in the rule of {name!r}")
        assert self.layer_decay is not None
        scale = float(self.layer_decay) ** (self.deepest - depth)
        if not isinstance(lr, Tensor):
            return lr * scale
        return lr if scale == 1 else self.tensors.setdefault((id(lr), depth), lr * scale)


def _put(groups: list[_Group], assigned: _Assigned) -> None:
    for group in groups:
        if _alike(group.options, assigned.options):
            group.members.append(assigned)
            return
    groups.append(_Group(assigned.options, [assigned]))


def _alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(_is_same(value, b[key]) for key, value in a.items())


def _is_same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    # Tensors are changed in place, so equal ones are one group's only if they are one tensor.
    if any(isinstance(value, Tensor) for side in (a, b) for value in _flat(side)):
        return isinstance(a, (tuple, list)) and type(a) is type(b) and _all_same(a, b)
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False


def _flat(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _all_same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(_is_same(x, y) for x, y in zip(a, b, strict=True))


def _made(group: _Group) -> dict[str, Any]:
    params = [one.param for one in group.members]
    return {
        "params": [param.tensor for param in params],
        "param_names": [param.name for param in params],
        **group.options,
    }


def _said(selector: Any) -> str:
    """Return a selector in few words."""
    if isinstance(selector, tuple):
        return " or ".join(map(_said, selector))
    if isinstance(selector, str):
        return selector
    if isinstance(selector, re.Pattern):
        return f"/{selector.pattern}/"
    return getattr(selector, "__name__", None) or repr(selector)


def _table(groups: list[_Group], left_out: int) -> str:
    lines = [("group", "rule", "options", "tensors", "parameters", "first names")]
    for i, group in enumerate(groups):
        for reason in dict.fromkeys(one.reason for one in group.members):
            tensors = [one.param for one in group.members if one.reason == reason]
            count = sum(param.tensor.numel() for param in tensors)
            lines.append(
                (str(i), reason, _options(group.options), str(len(tensors)), f"{count:,}", _listed(tensors))
            )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(_aligned(i, cell, width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([*(row.rstrip() for row in rows), _total(groups, left_out)])


def _aligned(column: int, cell: str, width: int) -> str:
    return cell.rjust(width) if column in (3, 4) else cell.ljust(width)


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in options.items()) or "the optimizer's"


def _value(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() == 1:
        return f"tensor({value.item():.6g})"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _listed(params: list[_Param]) -> str:
    shown = [params[0].name]
    for param in params[1:SHOWN]:
        if len(", ".join([*shown, param.name])) <= WIDTH:
            shown.append(param.name)
    return ", ".join([*shown, "..."] if len(shown) < len(params) else shown)


def _total(groups: list[_Group], left_out: int) -> str:
    tensors = [one.param.tensor for group in groups for one in group.members]
    text = f"{len(groups)} groups, {len(tensors)} tensors, {sum(t.numel() for t in tensors):,} parameters"
    return f"{text}; {left_out} frozen tensors left out" if left_out else text
