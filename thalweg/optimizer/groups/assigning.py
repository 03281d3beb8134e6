"""Parameters to groups, with the options that rules and the other arguments give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from thalweg.optimizer.groups.decay import check_decay, exempt_from_decay
from thalweg.optimizer.groups.layers import LayerDecay, depths_of
from thalweg.optimizer.groups.merging import Assigned, Group, put
from thalweg.optimizer.groups.params import params_of
from thalweg.optimizer.groups.rules import DEFAULTS, base_of, first_matches, rules_of
from thalweg.optimizer.groups.selectors import Selector
from thalweg.optimizer.groups.table import table


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
    params = params_of(model)
    checked = rules_of(DEFAULTS if rules is None else rules)
    base = base_of(lr, weight_decay)
    taken = [param for param in params if frozen or param.tensor.requires_grad]
    if not taken:
        raise ValueError("no parameter of the model requires a gradient; frozen=True takes all of them")
    rule_of = first_matches(checked, params, taken, model)
    exempt = exempt_from_decay(no_decay, params)
    check_decay(checked, rule_of, exempt)
    depths = depths_of(model, params, layer_decay, depth)
    decay = LayerDecay(layer_decay, max(depths.values(), default=0))
    groups: list[Group] = []
    for param in taken:
        options = {**base, **rule_of[param.name].options}
        reason = str(rule_of[param.name])
        if param.name in exempt:
            options["weight_decay"] = 0.0
            reason += ", no decay"
        if layer_decay is not None:
            options["lr"] = decay.of(options.get("lr"), depths[param.name], param.name)
            reason += f", depth {depths[param.name]}"
        put(groups, Assigned(param, options, reason))
    left_out = len(params) - len(taken)
    return ParamGroups([_made(group) for group in groups], table(groups, left_out))


def _made(group: Group) -> dict[str, Any]:
    params = [one.param for one in group.members]
    return {
        "params": [param.tensor for param in params],
        "param_names": [param.name for param in params],
        **group.options,
    }
