"""Plans that optimizers hand on to each other, where they are alike in all but where their tensors lie.

Some programs make an optimizer for each task, layer or member of an ensemble and step it a few times; a plan
of its own would cost each of them more than these steps. What a plan is made for is compared before every
step anyway, so another optimizer's plan that passes that comparison, with its own groups and state written
into the tables, is as good as a new one. A plan belongs to whom it was handed to last: who finds it gone
makes one of its own, and keeps it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from thalweg.stepping.plan import Plan
from thalweg.stepping.settings import AllSettings, Groups

MOST_PARAMS = 16
"""Of an optimizer whose plan is handed on. With more, what a plan costs is little beside torch's step."""

_MOST_PLANS = 64


class Pool(threading.local):
    """The plans of a thread that may be handed on, those that were used last at the end."""

    def __init__(self) -> None:
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()

    def put(self, key: Hashable, plan: Plan) -> None:
        """Offer a plan to others."""
        self._plans[key] = plan
        if len(self._plans) > _MOST_PLANS:
            self._plans.popitem(last=False)

    def take(self, key: Hashable) -> Plan | None:
        """Return a plan that may fit, which nobody else is offered any more."""
        return self._plans.pop(key, None)


POOL = Pool()


def key_of(
    groups: Groups, settings: AllSettings, params: Sequence[Tensor], group_of: Sequence[int]
) -> Hashable | None:
    """Return what two optimizers have in common that may hand on a plan; None for one that may not."""
    if len(params) > MOST_PARAMS or settings.is_volatile:
        return None
    choices = tuple(one.choices for one in settings.groups)
    sizes = tuple(len(group) for group in groups)
    return choices, sizes, tuple(group_of), tuple((p.dtype, p.shape) for p in params)


def is_as_made(state: Mapping[Any, Any], params: Sequence[Tensor]) -> bool:
    """Say whether `state` is that of an optimizer that was just made, or of its parameters in their order."""
    if not state:
        return True
    owns = list(state.values())
    plain = all(type(own) is dict for own in owns) and len(set(map(id, owns))) == len(owns)
    return plain and list(map(id, state)) == list(map(id, params))
