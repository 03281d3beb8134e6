"""The contract with torch: groups, state, hooks, AMP and checkpoints, for all rules in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from thalweg import checkpoint
from thalweg.rule import Rule
from thalweg.state import prepare

if TYPE_CHECKING:
    from thalweg.stepper import Stepper

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class Optimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` that steps all parameters of all groups by its `rule`.

    Subclasses name their rule and a constructor.

    Args:
        params: parameters, named parameters, or groups, as in torch.
        defaults: the hyperparameters of groups that do not say otherwise.

    Raises:
        ValueError, TypeError: if a hyperparameter is not allowed; the message says what is.
    """

    rule: ClassVar[Rule]
    _stepper: Stepper | None

    # GradScaler then leaves unscaling and skipping to `step`. On the class: an attribute of the
    # instance would be lost by deepcopy and pickle.
    _step_supports_amp_scaling = True

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.rule.check(defaults)
        self._stepper = None
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._stepper = None
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as in torch; hyperparameters are checked first."""
        if isinstance(param_group, dict):
            self.rule.check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        if self.rule.eager:
            group = self.param_groups[-1]
            on = self.rule.flags(self.rule.numbers(group))
            for param in group["params"]:
                prepare(self.rule, on, param, self.state[param], group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every parameter that has a gradient.

        Under a `torch.amp.GradScaler` gradients are unscaled on the way, and an overflow leaves
        parameters and state as they are.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What `closure` returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            self._step()
        return loss

    @torch._disable_dynamo  # under torch.compile a step is a graph break, as its work is no torch graph
    def _step(self) -> None:
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and float(found_inf) != 0:
            return
        scale = getattr(self, "grad_scale", None)
        inverse_scale = None if scale is None else 1.0 / float(scale)
        if self._stepper is None:
            # The machinery of a step is imported with the first one: `import thalweg` stays light.
            from thalweg.stepper import Stepper

            self._stepper = Stepper(self.rule)
        self._stepper.step(self.param_groups, self.state, inverse_scale)

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot of state and groups in torch's layout, which `torch.optim` loads.

        Its tensors are copies: later steps do not change it.
        """
        return checkpoint.snapshot(super().state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a checkpoint of this optimizer or of its `torch.optim` namesake.

        Parameters are matched by name where both sides were given the same names, in whatever order
        or groups, and else by position. State takes the dtype that this optimizer keeps it in.
        Hyperparameters come from the checkpoint; `foreach`, `fused`, `capturable` and
        `differentiable` stay as they were constructed.

        Raises:
            ValueError: if parameters cannot be matched or a hyperparameter is not allowed. The
                optimizer is then as it was.
        """
        state_dict = dict(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre_hook(self, state_dict)
            state_dict = state_dict if changed is None else dict(changed)
        state, groups = checkpoint.load(self.rule, self.param_groups, state_dict)
        self.__setstate__({"state": state, "param_groups": groups})
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)
