"""The contract with torch, for all rules: groups, steps, weights that are evaluated, and checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.optimizer import loading, saving
from thalweg.optimizer.compiling import uncompiled, undecorated
from thalweg.optimizer.evaluated import Evaluated
from thalweg.optimizer.stepped import pairs


class Optimizer(Evaluated):
    """A `torch.optim.Optimizer` that steps all parameters of all groups by its `rule`.

    Subclasses name their rule and a constructor. Some arguments mean the same for all that have them:

    - `maximize`: ascend.
    - `foreach`: accepted as in torch, without effect: a step is always one launch.
    - `capturable`: keep the counters on the parameter's device.
    - `differentiable`: keep the graph through the step, at the reference's speed.
    - `fused`: unscale, and skip overflows, within the step under a `torch.amp.GradScaler`, as in torch; a
      step is always one launch. Not with `foreach` or `differentiable`.

    Args:
        params: parameters, named parameters, or groups, as in torch.
        defaults: the hyperparameters of groups that do not say otherwise.
        options: what every optimizer takes beside them, likewise: how state and weights are stored
            (`thalweg.storage.choices.Storage`), and what is added to the rule
            (`thalweg.additions.options.Additions`).

    Raises:
        ValueError, TypeError: if a hyperparameter is not allowed; the message says what is.
    """

    @uncompiled
    def state_dict(self) -> dict[str, Any]:
        """Return state and groups in torch's layout.

        As in torch, its tensors are those of the optimizer and not copies of them: later steps change them,
        and who wants them as they are now saves them or copies them (`copy.deepcopy`). It has torch's keys
        and no others, but where something is asked for that torch has not: codes of `state="int8"` lie under
        names of their own (`docs/storage.md`), which `torch.optim` refuses. With `sparse="exact"` all rows
        are brought up to date first, see `flush`.
        """
        if self._backward is not None:
            self._backward.settle()
        self.flush()
        saved = undecorated(super().state_dict)()
        groups = saved.get("param_groups", ())
        for group in groups if isinstance(groups, (list, tuple)) else ():
            if not isinstance(group, dict):
                continue  # a hook has made something of its own of it
            if isinstance(group.get("rounding_step"), Tensor):
                group["rounding_step"] = int(group["rounding_step"])  # a GPU has counted
            if isinstance(group.get("state"), dict):
                group["state"] = dict(
                    group["state"]
                )  # torch.distributed.checkpoint loads into what it is given
            saving.without_defaults(self.recipe_of(group), group)
        return saved

    @uncompiled
    def full_precision_state_dict(self) -> dict[str, Any]:
        """Return state and groups as `state_dict` does, with all slots in full precision, for `torch.optim`.

        Codes and bfloat16 are read as float32, into new tensors; scales, corrections and the settings of
        storage are left out. `load_state_dict` takes it too, and stores it as this optimizer is set to.
        """
        return saving.in_full_precision(self.recipe_of, self.state_dict(), self.param_groups)

    @uncompiled
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a checkpoint of this optimizer, of its `torch.optim` namesake, or of one with the same state.

        Parameters are matched by name where both sides were given the same names, one for each, in
        whatever order or groups, and else by position. State takes the form that this optimizer keeps it in.
        Hyperparameters come from the checkpoint, and flags that it does not name are off; `state`,
        `weight_bits`, `average_state`, `lookahead_state`, `foreach`, `fused`, `capturable` and
        `differentiable` stay as they were constructed, and so do additions that it does not name.

        As in torch, tensors of state that need no conversion are not copied: after
        `a.load_state_dict(b.state_dict())` both step the same ones, unless the dict was saved, or copied
        (`copy.deepcopy`), in between.

        Args:
            state_dict: what `state_dict` or `full_precision_state_dict` returned.

        Raises:
            ValueError: if parameters cannot be matched, a hyperparameter is not allowed, or the checkpoint
                is that of another algorithm: a hyperparameter, or state that every parameter has there, is
                missing. The optimizer is then as it was.
        """
        state_dict = dict(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre_hook(self, state_dict)
            state_dict = state_dict if changed is None else dict(changed)
        with self._at_home() as (own, _):
            state, groups = loading.load(self.recipe_of, own, state_dict)
            param_of = {home: param for param, home in pairs(self.param_groups, own)}
        state = defaultdict(dict, {param_of.get(key, key): value for key, value in state.items()})
        for group, before in zip(groups, self.param_groups, strict=True):
            group["params"] = before["params"]
        if self._backward is not None:
            self._backward.settle()
        stepper = self._stepper
        self.__setstate__({"state": state, "param_groups": groups})
        if stepper is not None and stepper.follow_a_checkpoint():
            self._stepper = stepper
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)
