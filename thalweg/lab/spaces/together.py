"""Several optimizers as one: Muon for the matrices, another for the rest."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


class Together(Optimizer):
    """Steps its optimizers one after the other; its groups are theirs, so schedules reach all of them.

    def muon(parameters, lr):
        parameters = list(parameters)
        matrices = [p for p in parameters if p.ndim == 2]
        others = [p for p in parameters if p.ndim != 2]
        return Together(torch.optim.Muon(matrices, lr=lr), thalweg.AdamW(others, lr=0.1 * lr))

    spaces = (Space("muon", muon, (Axis("lr", 1e-3, 1.0),)),)
    """

    def __init__(self, *optimizers: Optimizer) -> None:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.optimizers, self.param_groups = optimizers, groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of all."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Of all; the closure, if there is one, is the first one's affair."""
        loss = None
        for place, optimizer in enumerate(self.optimizers):
            given = optimizer.step(closure) if place == 0 and closure is not None else optimizer.step()
            loss = given if place == 0 else loss
            self.state.update(optimizer.state)
        return loss

    def train(self) -> None:
        """Of those that have it, as schedule-free ones."""
        self._tell("train")

    def eval(self) -> None:
        """Likewise."""
        self._tell("eval")

    def _tell(self, mode: str) -> None:
        for optimizer in self.optimizers:
            if callable(method := getattr(optimizer, mode, None)):
                method()
