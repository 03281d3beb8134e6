"""Steps: whole ones, parts of one in backward, and steps on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thalweg.optimizer.backward import InBackward
from thalweg.optimizer.compiling import is_compiling, uncompiled
from thalweg.optimizer.grouped import Grouped
from thalweg.optimizer.offload import Offload
from thalweg.optimizer.priming import is_primed
from thalweg.optimizer.saving import Groups, State
from thalweg.rule import Recipe
from thalweg.stepping.parts import Parts
from thalweg.stepping.scaling import NO_SCALING, Scaling
from thalweg.stepping.state import prepare
from thalweg.storage.codecs import codec_of

if TYPE_CHECKING:
    from thalweg.stepping.rests import Rests
    from thalweg.stepping.stepper import Stepper


class Stepped(Grouped):
    """Steps the parameters of its groups."""

    _stepper: Stepper | None = None
    _rests: Rests | None = None
    _is_averaged = False
    _backward: InBackward | None = None
    _offload: Offload | None = None

    @uncompiled
    def add_param_group(self, param_group: dict[str, Any]) -> None:  # noqa: D102
        super().add_param_group(param_group)
        self._begin_last_group()
        if self._backward is not None and self._backward.is_on:
            self._watch_last_group(self._backward)

    def _begin_last_group(self) -> None:
        """Make what state its rule has before the first step."""
        group = self.param_groups[-1]
        recipe = self.recipe_of(group)
        if not recipe.eager:
            return
        alone = Recipe.of(recipe.rule)  # what is added begins with the first step, and knows its gradient
        on = alone.flags(alone.numbers(group))
        with self._at_home() as (groups, state):
            for param in filter(_has_state, groups[-1]["params"]):
                prepare(alone, on, param, state.setdefault(param, {}), group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._stepper = None
        if self._rests is not None:
            self._rests.forget()  # another state: what rows have missed before is not for it
        super().__setstate__(state)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every parameter that has a gradient.

        A `torch.amp.GradScaler` unscales gradients before, and calls no step on an overflow. With
        `fused=True` it leaves both to the step, as in torch: gradients are unscaled on the way, and an
        overflow, of which only a device may know, leaves parameters and state as they are.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What `closure` returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if is_compiling():
            self._step_uncompiled()
        else:
            self._step()
        return loss

    @uncompiled
    def _step_uncompiled(self) -> None:
        self._step()

    def _step(self, parts: Parts | None = None) -> None:
        if self._is_averaged:
            raise RuntimeError("no step can be taken while the weights are their averages")
        scaling = self._scaling()
        if parts is None and self._backward is not None and not self._backward.has_left(scaling):
            return
        if scaling.overflowed_on_host:
            return
        if self._stepper is None and parts is None and is_primed(self.param_groups, self.state):
            self.init_state()
            return
        if self._offload is not None and self._offload.is_on:
            self._step_at_home(self._offload, scaling, parts)
            return
        stepper = self._own_stepper()
        if self._rests:
            self._rests.flush_dense(self.state)
        stepper.step(self.param_groups, self.state, scaling, parts)

    def _scaling(self) -> Scaling:
        scale, found_inf = vars(self).get("grad_scale"), vars(self).get("found_inf")
        return NO_SCALING if scale is None and found_inf is None else Scaling(scale, found_inf)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError. A GradScaler that asks in vain unscales, and autograd does not know."""
            if name == "_step_supports_amp_scaling" and self._offload is not None:
                self._offload.forget_gradients()
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _own_stepper(self) -> Stepper:
        if self._stepper is None:
            # The machinery of a step is imported with the first one: `import thalweg` stays light.
            from thalweg.stepping.stepper import Rests, Stepper

            self._rests = Rests() if self._rests is None else self._rests
            self._stepper = Stepper(self._recipes(), self._rests)
        return self._stepper

    @uncompiled
    def init_state(self) -> None:
        """Make the state that the first step would make, and take no step.

        It is there then to load a distributed checkpoint into, and the step that follows is the first one:
        counters are at 0, and nothing was drawn. State that is there stays. Parameters that do not require a
        gradient have none.
        """
        with self._at_home() as (groups, state):
            self._own_stepper().prepare(groups, state)

    @uncompiled
    def statistics(self) -> list[dict[str, Tensor]]:
        """Return what `statistics=True` measured in the last step, without waiting for a device.

        Returns:
            For each parameter group a dict of 0-dim float64 tensors, empty if it does not ask for any:
            `grad_norm` and `nonfinite` (a count) of the gradients as they came, `update_rms` of what was
            subtracted from the weights, before it was rounded to their dtype, and `weight_rms` of the weights
            before the step.
        """
        return [] if self._stepper is None else self._stepper.statistics(self.param_groups)

    @property
    @uncompiled
    def skipped_steps(self) -> int:
        """How many steps `skip_nonfinite` has skipped; to read it waits for a device."""
        return 0 if self._stepper is None else self._stepper.guard.skipped

    @uncompiled
    def flush(self, param: Tensor | None = None, rows: Tensor | None = None) -> None:
        """Bring rows up to date that have rested with `sparse="exact"`; nothing is to be done with `"lazy"`.

        What dense training would have done to rows that no gradient has named is done when one names them, or
        here: before a model is evaluated or saved, or its weights are changed by hand. `state_dict()`,
        `eval()`, `averaged()`, pickling, and whatever else returns weights call it for all rows.

        Args:
            param: a parameter of the optimizer; all, if None.
            rows: integers, any shape, which rows of it, along its first dimension; all, if None. An embedding
                that asks for those that it is about to read is trained by the gradients of dense training.

        Raises:
            ValueError: if `rows` come without `param`, or are not its.
        """
        if rows is not None and param is None:
            raise ValueError("rows must come with the param that they belong to")
        if not self._rests:
            return
        with self._at_home() as (groups, state):
            home = None if param is None else dict(pairs(self.param_groups, groups)).get(param, param)
            if rows is not None and home is not None:
                self._rests.catch_up(home, rows, state)
            elif home is not None:
                self._rests.flush(home, state)
            else:
                self._rests.flush_all(state)

    def _watch_last_group(self, backward: InBackward) -> None:
        try:
            backward.watch()
        except ValueError:
            self.param_groups.pop()
            raise

    def step_part(self, parts: Parts) -> None:
        """Step what has a gradient, as a part of a step in backward."""
        self._step(parts)

    def end_parts(self, parts: Parts) -> None:
        """End a step that was taken in parts."""
        if self._stepper is not None:
            self._stepper.count(self.param_groups, parts)
        self._opt_called = True  # schedulers ask whether there was a step before theirs

    def _step_at_home(self, offload: Offload, scaling: Scaling, parts: Parts | None) -> None:
        scaling = scaling.on_host()
        if scaling.overflowed_on_host:
            return
        stepper = self._own_stepper()
        assert self._rests is not None, "it came with the stepper"
        offload.step(stepper, self.param_groups, self.state, scaling, parts, self._rests.flush_dense)

    def _at_home(self) -> AbstractContextManager[tuple[Groups, State]]:
        """Return a context of groups and state as they are stepped: on the host, where `offload()` is on."""
        if self._offload is None or not self._offload.is_on:
            return nullcontext((self.param_groups, self.state))
        return self._offload.at_home(self.param_groups, self.state)


def _has_state(param: Tensor) -> bool:
    """Say whether a parameter can be stepped; a step refuses the others, and says why."""
    return codec_of(param.dtype) is not None


def pairs(groups: Groups, others: Groups) -> Iterator[tuple[Tensor, Tensor]]:
    """Give each parameter of groups with the one in its place in others."""
    for group, other in zip(groups, others, strict=True):
        yield from zip(group["params"], other["params"], strict=True)
