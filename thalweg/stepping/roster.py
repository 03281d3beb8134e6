"""The parameters of an optimizer in their order, with what is remembered of each from step to step."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from thalweg.lowering.gpu.tables import Shared
from thalweg.stepping.gradients import can_step
from thalweg.stepping.member import Gradient
from thalweg.stepping.settings import Groups


class Roster:
    """The parameters of an optimizer, group after group, each once.

    Attributes:
        params: the parameters.
        group_of: the index of the group of each.
        gradients: what the gradient of each is, or was when there was one; None, if there was none yet.
        firsts: int32, whether state of it is new; cleared by steps.
        shared: what all of them share on devices.
    """

    def __init__(self) -> None:
        self.params: list[Tensor] = []
        self.group_of: list[int] = []
        self.gradients: list[Gradient | None] = []
        self.firsts = np.zeros(0, np.int32)
        self.shared = Shared()

    def arrange(self, groups: Groups) -> bool:
        """Follow the parameters to their places in the groups; say whether anything is other than before."""
        # A parameter that is listed twice belongs to the first place and is stepped once.
        places: dict[int, tuple[Tensor, int]] = {}
        for i, group in enumerate(groups):
            for param in group["params"]:
                places.setdefault(id(param), (param, i))
        group_of = [i for _, i in places.values()]
        if group_of == self.group_of and list(places) == list(map(id, self.params)):
            return False
        before = {id(param): i for i, param in enumerate(self.params)}
        origins = [before.get(one, -1) for one in places]
        self.shared.rearrange(origins)
        firsts, gradients = [*self.firsts.tolist(), 0], [*self.gradients, None]
        self.firsts = np.array([firsts[origin] for origin in origins], np.int32)
        self.gradients = [gradients[origin] for origin in origins]
        self.params = [param for param, _ in places.values()]
        self.group_of = group_of
        return True

    def note_gradients(self) -> None:
        """Take note of what gradients are; of one that is missing, what it was."""
        for i, param in enumerate(self.params):
            grad = param.grad
            if grad is not None:
                self.gradients[i] = Gradient.of(grad)
            elif not can_step(param):
                self.gradients[i] = None
