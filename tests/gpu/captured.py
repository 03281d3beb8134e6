"""An optimizer whose step is a graph, beside one that takes every step eagerly."""

from __future__ import annotations

import torch
from devices import capture
from runs import assert_equal, start, with_storage
from support import give, gradients, ours

BASE = 2  # eager steps before a capture, which make the state
SHAPES = ((1030,), (30,), ())


class Captured:
    """An optimizer whose step is captured, and a twin that takes every step eagerly."""

    def __init__(self, configuration, device, **storage):
        name, kwargs = with_storage(configuration, **storage)
        self.lr = torch.tensor(kwargs["lr"], device=device)
        shapes = ((4096,), *SHAPES) if storage else SHAPES
        self.params, self.others = start(device, shapes=shapes), start(device, shapes=shapes)
        self.optimizer = ours((name, {**kwargs, "lr": self.lr}), self.params)
        self.twin = ours((name, kwargs), self.others)
        self.steps = [[g.to(device) for g in grads] for grads in gradients(self.params, 12)]
        self.static = [torch.zeros_like(p) for p in self.params]
        for _ in range(BASE):
            self.eager()
        self.give_static()
        self.graph = capture(device, self.optimizer.step)

    def give_static(self):
        for p, g in zip(self.params, self.static, strict=True):
            p.grad = g

    def _twin(self):
        grads = self.steps.pop(0)
        give(self.others, grads)
        self.twin.param_groups[0]["lr"] = self.lr.item()
        self.twin.step()
        return grads

    def eager(self, own_gradients=False):
        grads = self._twin()
        if own_gradients:
            give(self.params, grads)
        else:
            self.give_static()
            torch._foreach_copy_(self.static, grads)
        self.optimizer.step()

    def replay(self):
        torch._foreach_copy_(self.static, self._twin())
        self.graph.replay()

    def check(self):
        assert_equal((self.params, self.optimizer), (self.others, self.twin))
