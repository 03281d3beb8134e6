"""The contract with torch: groups, state, hooks, AMP and checkpoints, for all rules in one place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from thalweg import additions
from thalweg.additions.options import Additions
from thalweg.optimizer import checkpoint
from thalweg.optimizer.averaging import averages, exchanged
from thalweg.optimizer.backward import InBackward
from thalweg.optimizer.checkpoint import RecipeOf
from thalweg.optimizer.compiling import is_compiling
from thalweg.optimizer.offload import Groups, Offload, State
from thalweg.optimizer.priming import is_primed
from thalweg.rule import Recipe, Rule
from thalweg.stepping.parts import Parts
from thalweg.stepping.scaling import NO_SCALING, Scaling
from thalweg.stepping.state import prepare
from thalweg.storage import choices as storage
from thalweg.storage.choices import Storage
from thalweg.storage.codecs import codec_of

if TYPE_CHECKING:
    from thalweg.stepping.rests import Rests
    from thalweg.stepping.stepper import Stepper

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class Options(Storage, Additions, total=False):
    """The arguments that every optimizer takes beside its rule's: `Storage` and `Additions` describe them."""


_APART = frozenset(("self", "params", "options", "__class__"))


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that a constructor was given, from its `locals()`.

    Args:
        given: `locals()`, where parameters are `params`, the keyword arguments that go on as they are
            `options`, and all else is a hyperparameter.
    """
    return {name: value for name, value in given.items() if name not in _APART}


class Optimizer(torch.optim.Optimizer):
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

    rule: ClassVar[Rule]
    _stepper: Stepper | None
    _rests: Rests | None = None
    _is_averaged = False
    _backward: InBackward | None = None
    _offload: Offload | None = None
    _until_train: ExitStack | None = None

    def __init__(self, params: Params, defaults: dict[str, Any], **options: Unpack[Options]) -> None:
        unknown = options.keys() - Options.__optional_keys__
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {min(unknown)!r}")
        defaults = {**defaults, **storage.DEFAULTS, **options}
        additions.check_effect(defaults)
        self._check(defaults)
        _check_fused(defaults)
        self._stepper = None
        super().__init__(params, defaults)
        self._claim_scaling()

    def recipe_of(self, group: Mapping[str, Any]) -> Recipe:
        """Return what the steps of a group are made by: the rule, and the additions that it asks for."""
        return self._recipes()(group)

    def _rules(self) -> Callable[[Mapping[str, Any]], Rule]:
        """Return what says which rule a group follows, and does not hold the optimizer."""
        rule = self.rule
        return lambda group: rule

    def _recipes(self) -> RecipeOf:
        """Return `recipe_of` as a function that does not hold the optimizer, which its stepper must not."""
        rule_of = self._rules()
        return lambda group: additions.recipe_of(rule_of(group), group)

    def _check(self, group: Mapping[str, Any]) -> None:
        storage.check(additions.check(self.rule, group), group)

    @staticmethod
    def _joined(defaults: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a group says, and of the defaults what has an effect beside it."""
        return additions.joined(defaults, group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._stepper = None
        if self._rests is not None:
            self._rests.forget()  # another state: what rows have missed before is not for it
        for group in self.param_groups:
            recipe = self.recipe_of(group)
            for name in self.defaults.keys() - {*storage.DEFAULTS, *recipe.extras, *additions.NAMES}:
                group.setdefault(name, self.defaults[name])
            checkpoint.without_defaults(recipe, group)
        self._claim_scaling()

    def _claim_scaling(self) -> None:
        """Have GradScaler leave unscaling and skipping to `step`, if `fused=True` was asked for, as in torch.

        Every `step` can do that. But whoever finds the attribute takes gradients to be scaled still: trainers
        refuse to clip them, or do not learn of skipped steps.
        """
        if self.defaults.get("fused"):
            # Again after deepcopy and pickle, which drop attributes, but not over what a user has set since.
            vars(self).setdefault("_step_supports_amp_scaling", True)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as in torch; hyperparameters are checked first."""
        said = self.defaults.keys() | additions.NAMES
        if isinstance(param_group, dict) and not said.isdisjoint(param_group):
            whole = self._joined(self.defaults, param_group)
            additions.check_effect(whole)
            self._check(whole)  # the defaults alone have been checked
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name in additions.idle(group):
            del group[name]  # a default of what the group does without
        recipe = self.recipe_of(group)
        checkpoint.without_defaults(recipe, group)
        if recipe.eager:
            alone = Recipe.of(recipe.rule)  # what is added begins with the first step, and knows its gradient
            on = alone.flags(alone.numbers(group))
            with self._at_home() as (groups, state):
                for param in filter(_has_state, groups[-1]["params"]):
                    prepare(alone, on, param, state.setdefault(param, {}), group)
        if self.steps_in_backward:
            self._watch_last_group()

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

    @torch._disable_dynamo
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

    def _own_stepper(self) -> Stepper:
        if self._stepper is None:
            # The machinery of a step is imported with the first one: `import thalweg` stays light.
            from thalweg.stepping.stepper import Rests, Stepper

            self._rests = Rests() if self._rests is None else self._rests
            self._stepper = Stepper(self._recipes(), self._rests)
        return self._stepper

    def init_state(self) -> None:
        """Make the state that the first step would make, and take no step.

        It is there then to load a distributed checkpoint into, and the step that follows is the first one:
        counters are at 0, and nothing was drawn. State that is there stays. Parameters that do not require a
        gradient have none.
        """
        with self._at_home() as (groups, state):
            self._own_stepper().prepare(groups, state)

    def in_backward(
        self, *, every: int = 1, hold: int | None = None, clip_by_last_norm: bool = False
    ) -> InBackward:
        """Step each parameter in backward, when its gradient is complete, and free the gradient.

        From then on `loss.backward()` is a step. `step()` is not needed; it takes what has a gradient still,
        and does nothing where there is none. `docs/in-backward.md` says what goes with it and what does not.

        Args:
            every: step in every so many backward passes, of which the others only accumulate.
            hold: bytes of complete gradients to wait for before they are stepped; None: 4 MiB, or 1/16 of
                all gradients where that is more.
            clip_by_last_norm: have `max_norm` clip by the norm of the step before, or of the gradients that
                have come so far in this one, if that is larger.

        Returns:
            What has a `remove()`, and is a context manager that calls it.

        Raises:
            ValueError: if an argument is not allowed, a group asks for what needs all gradients at once
                (`max_norm` without `clip_by_last_norm`, `skip_nonfinite`, `statistics`, `dog`,
                `Prodigy`, `differentiable`), parameters lie on several devices, are stepped in backward
                already, or may be trained by several processes.
        """
        if self.steps_in_backward:
            raise ValueError("in_backward() is on: call remove() on what it has returned first")
        self._backward = InBackward(self, every, hold, clip_by_last_norm)
        return self._backward

    def offload(self, *, early: bool = True, from_cpu: bool = False) -> Offload:
        """Keep state on the host, and step there, while parameters lie on a device.

        Gradients are fetched while backward goes on, the host's kernels step a copy of each parameter, of its
        dtype (with what `weight_bits` holds beside it, its float32 weights), and what they have written is
        sent back. All else is as it is without: `docs/offload.md` says what that costs.

        State that is on the device already comes to the host with the next step. Parameters of the CPU are
        stepped where they are.

        Args:
            early: fetch gradients when they are complete, and again if autograd knows that they were changed
                since; False fetches them in the step, for loops that write to `grad.data`.
            from_cpu: treat parameters of the CPU as if they were on a device, as tests do.

        Returns:
            What has a `remove()`, and is a context manager that calls it; and a `refresh()`.

        Raises:
            ValueError: if steps are on the host already, a parameter is a tensor subclass (DTensor), two of
                them share memory, or a group asks for `differentiable`.
            RuntimeError: if a parameter was made in inference mode.
        """
        if self._offload is not None and self._offload.is_on:
            raise ValueError("offload() is on: call remove() on what it has returned first")
        self.flush()
        offload = Offload(self, self._recipes(), early, from_cpu)
        with offload.at_home(self.param_groups, self.state):
            self._offload = offload
        return offload

    def accumulating(self) -> AbstractContextManager[None]:
        """Have backward passes step nothing, also with `in_backward()`, until the end of the `with` block."""
        return nullcontext() if self._backward is None else self._backward.accumulating()

    def _watch_last_group(self) -> None:
        assert self._backward is not None, "it steps"
        try:
            self._backward.watch()
        except ValueError:
            self.param_groups.pop()
            raise

    @property
    def steps_in_backward(self) -> bool:
        """Whether `in_backward()` is on."""
        return self._backward is not None and self._backward.is_on

    def step_part(self, parts: Parts) -> None:
        """Step what has a gradient, as a part of a step in backward."""
        self._step(parts)

    def end_parts(self, parts: Parts) -> None:
        """End a step that was taken in parts."""
        if self._stepper is not None:
            self._stepper.count(self.param_groups, parts)
        self._opt_called = True  # schedulers ask whether there was a step before theirs

    def _scaling(self) -> Scaling:
        scale, found_inf = vars(self).get("grad_scale"), vars(self).get("found_inf")
        return NO_SCALING if scale is None and found_inf is None else Scaling(scale, found_inf)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError. A GradScaler that asks in vain unscales, and autograd does not know."""
            if name == "_step_supports_amp_scaling" and self._offload is not None:
                self._offload.forget_gradients()
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

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
        saved = super().state_dict()
        for group in saved.get("param_groups", ()):
            if isinstance(group.get("rounding_step"), Tensor):
                group["rounding_step"] = int(group["rounding_step"])  # a GPU has counted
            checkpoint.without_defaults(self.recipe_of(group), group)
        return saved

    def full_precision_state_dict(self) -> dict[str, Any]:
        """Return state and groups as `state_dict` does, with all slots in full precision, for `torch.optim`.

        Codes and bfloat16 are read as float32, into new tensors; scales, corrections and the settings of
        storage are left out. `load_state_dict` takes it too, and stores it as this optimizer is set to.
        """
        return checkpoint.in_full_precision(self.recipe_of, self.state_dict(), self.param_groups)

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
            home = None if param is None else dict(_pairs(self.param_groups, groups)).get(param, param)
            if rows is not None and home is not None:
                self._rests.catch_up(home, rows, state)
            elif home is not None:
                self._rests.flush(home, state)
            else:
                self._rests.flush_all(state)

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return super().__getstate__()

    def full_precision_weights(self) -> dict[Any, Tensor]:
        """Return the weights as this optimizer keeps them, with what `weight_bits` holds beside them.

        Returns:
            For each parameter, by name where each was given with a name of its own and else (without names,
            or where several models bring the same ones) by position, a new tensor: float32 of bfloat16 and
            float16 parameters, else of the parameter's dtype.
        """
        self.flush()
        with self._at_home() as (groups, state):
            return {
                key: checkpoint.full_weights(param, state.get(param, {}), group)
                for key, param, group in _keyed(groups)
            }

    def averaged_weights(self) -> dict[Any, Tensor]:
        """Return the averages that `average=` or `schedule_free=` keeps, of what has been stepped.

        Returns:
            For each parameter, by name or position as in `full_precision_weights`, a new tensor of its dtype.
        """
        return {key: value.to(param.dtype, copy=True) for key, param, value in self._averages()}

    @contextmanager
    def averaged(self, model: nn.Module | None = None) -> Iterator[None]:
        """Have parameters be their averages, until the end of the `with` block, however it ends.

        Statistics of batch norms are those of the weights, not of their average: inside the block
        `torch.optim.swa_utils.update_bn(loader, model)` works them out anew.

        Args:
            model: whose buffers are put back at the end too.

        Raises:
            RuntimeError: if there is no average yet, or in a block of this kind.
        """
        if self._is_averaged:
            raise RuntimeError("the weights are their averages already")
        self.flush()
        values = {param: value for _, param, value in self._averages()}
        if not values:
            raise RuntimeError(
                "there is no average: give the optimizer average=0.999 or schedule_free=0.9, and take a step"
            )
        self._is_averaged = True
        try:
            with exchanged(values, model):
                yield
        finally:
            self._is_averaged = False

    def _averages(self) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Give the averages that there are, each with the name and the parameter that it is of."""
        with self._at_home() as (groups, state):
            keyed = zip(_keyed(self.param_groups), _keyed(groups), strict=True)
            for (key, param, _), (_, home, group) in keyed:
                value = averages(self.recipe_of(group).slots, state.get(home, {}), home, group)
                if value is not None:
                    yield key, param, value

    def eval(self) -> None:
        """Have parameters be their averages until `train()`, as `averaged()` does in a block.

        Nothing happens if they are already, or if there is no average yet; but `flush()` is called.
        """
        self.flush()
        if not self._is_averaged and any(True for _ in self._averages()):
            self._until_train = ExitStack()
            self._until_train.enter_context(self.averaged())

    def train(self) -> None:
        """Have parameters be the weights that are trained again, after `eval()`; else nothing happens."""
        if self._until_train is not None:
            self._until_train.close()
            self._until_train = None

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
    def skipped_steps(self) -> int:
        """How many steps `skip_nonfinite` has skipped; to read it waits for a device."""
        return 0 if self._stepper is None else self._stepper.guard.skipped

    def load_full_precision_weights(self, weights: Mapping[Any, Tensor]) -> None:
        """Set the weights, and what `weight_bits` holds beside them, rounded to nearest.

        Args:
            weights: for each parameter, as `full_precision_weights` returns them; any floating dtype.

        Raises:
            ValueError: if parameters are missing or others are there, or a shape is not the parameter's.
                Nothing has been changed then.
        """
        checkpoint.check_weights({key: param for key, param, _ in _keyed(self.param_groups)}, weights)
        with torch.no_grad(), self._at_home() as (groups, state):
            for key, param, group in _keyed(groups):
                checkpoint.set_weights(param, weights[key], state, group)

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
            state, groups = checkpoint.load(self.recipe_of, own, state_dict)
            param_of = {home: param for param, home in _pairs(self.param_groups, own)}
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


def _keyed(groups: Groups) -> Iterator[tuple[Any, Tensor, dict[str, Any]]]:
    """Give all parameters with their groups, each by its name, or by its position where names do not do."""
    names = checkpoint.names_of(groups)
    position = 0
    for index, group in enumerate(groups):
        for i, param in enumerate(group["params"]):
            yield position if names is None else names[index][i], param, group
            position += 1


def _pairs(groups: Groups, others: Groups) -> Iterator[tuple[Tensor, Tensor]]:
    """Give each parameter of groups with the one in its place in others."""
    for group, other in zip(groups, others, strict=True):
        yield from zip(group["params"], other["params"], strict=True)


def _check_fused(defaults: Mapping[str, Any]) -> None:
    """Refuse with `fused` what torch refuses with it, although it has no effect here."""
    if not defaults.get("fused"):
        return
    if defaults.get("differentiable"):
        raise RuntimeError("`fused` does not support `differentiable`")
    if defaults.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def _has_state(param: Tensor) -> bool:
    """Say whether a parameter can be stepped; a step refuses the others, and says why."""
    return codec_of(param.dtype) is not None
