"""State and steps on the host, while parameters lie on a device.

Each parameter of a device has a home: a tensor of the host, which the host's kernels step in its place, by
groups and state that are the optimizer's own but for the parameters in them (ZeRO-Offload, Ren et al. 2021,
arXiv 2101.06840). All that is known of steps, storage and checkpoints holds for homes as for any parameters.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from thalweg.optimizer.handles import Handle
from thalweg.optimizer.mirrors import Lane, Mirror, check
from thalweg.optimizer.obstacles import obstacle_in
from thalweg.optimizer.saving import Groups, RecipeOf, State
from thalweg.stepping.parts import Parts
from thalweg.stepping.scaling import Scaling
from thalweg.storage.layout import span

if TYPE_CHECKING:
    from thalweg.stepping.stepper import Stepper

LEAST_CHUNK = 16 << 20
"""Bytes of weights that are stepped together at least, while gradients of others are on their way."""

MOST_CHUNKS = 8
"""Chunks that a step is divided into; each looks at all parameters."""


class Owner(Protocol):
    """Whose state and steps are on the host: an optimizer."""

    def flush(self) -> None:
        """Bring all rows up to date."""
        ...


class Offload(Handle):
    """An optimizer's state and steps on the host, until `remove()` or the end of a `with` block.

    Made by `Optimizer.offload`, which says what it does.
    """

    def __init__(self, optimizer: Owner, recipe_of: RecipeOf, early: bool, from_cpu: bool) -> None:
        self._of = weakref.ref(optimizer)
        self._recipe_of, self._early, self._from_cpu = recipe_of, early, from_cpu
        self._mirrors: dict[Tensor, Mirror] = {}
        self._lanes: dict[torch.device, Lane] = {}
        self._groups: Groups = []
        self._state: State = defaultdict(dict)
        self._params: list[list[Tensor]] = []
        self._is_settled = False
        self.is_on = True

    def remove(self) -> None:
        """Leave steps to the device again; the next one brings the state there."""
        optimizer = self._of()
        if optimizer is not None and self.is_on:
            optimizer.flush()
        self.is_on = False
        for mirror in self._mirrors.values():
            mirror.remove()
        self._mirrors, self._groups, self._params = {}, [], []
        self._state.clear()

    def refresh(self) -> None:
        """Take up weights that were written where autograd is not told, as through `param.data`."""
        for mirror in self._mirrors.values():
            mirror.forget_weights()

    def forget_gradients(self) -> None:
        """Fetch gradients anew, as they may have been written where autograd is not told."""
        for mirror in self._mirrors.values():
            mirror.forget_gradient()

    @contextmanager
    def at_home(self, groups: Groups, state: State) -> Iterator[tuple[Groups, State]]:
        """Give groups and state with homes in the place of parameters, and take back what becomes of them.

        Args:
            groups: the optimizer's `param_groups`.
            state: its `state`.

        Raises:
            ValueError, RuntimeError: if a parameter cannot be stepped elsewhere. Nothing has been changed.
        """
        with self._homes(groups, state) as homes:
            for mirror in self._mirrors.values():
                mirror.await_sent()
            yield homes

    @contextmanager
    def _homes(self, groups: Groups, state: State) -> Iterator[tuple[Groups, State]]:
        """Do what `at_home` does; the last step's homes may be on their way still."""
        self._follow(groups)
        for mirror in self._mirrors.values():
            mirror.pull()
            mirror.home.requires_grad_(mirror.param.requires_grad)
        _copy_groups(groups, self._groups)
        self._bring_state(state)
        try:
            yield self._groups, self._state
        finally:
            _copy_groups(self._groups, groups)
            self._return_state(state)
            for mirror in self._mirrors.values():
                mirror.push()
            for lane in self._lanes.values():
                lane.join()

    def step(
        self,
        stepper: Stepper,
        groups: Groups,
        state: State,
        scaling: Scaling,
        parts: Parts | None,
        flush: Callable[[State], None],
    ) -> None:
        """Step every parameter that has a gradient.

        Where no rule has to know all gradients first, what came first is stepped and sent while others are on
        their way.

        Args:
            stepper: whose steps they are.
            groups: the optimizer's `param_groups`.
            state: its `state`.
            scaling: GradScaler's, on the host.
            parts: of the step that this is a part of; None, if it is whole.
            flush: brings rows up to date, before they are stepped.
        """
        if any(lane.is_capturing for lane in self._lanes.values()):
            raise RuntimeError(
                "a graph cannot capture steps on the host: call remove() on what offload() returned"
            )
        with self._homes(groups, state) as (own, own_state):
            if scaling.found_inf is not None and scaling.scale is None:
                self.forget_gradients()  # a scaler has unscaled them
            mirrors = sorted(self._mirrors.values(), key=lambda mirror: mirror.came)
            for mirror in mirrors:
                mirror.bring_gradient()
            flush(own_state)
            chunks = self._chunks(mirrors) if parts is None and self._may_divide(own) else []
            if len(chunks) > 1:
                self._step_chunks(stepper, chunks, scaling)
            else:
                for mirror in mirrors:
                    mirror.await_gradient()
                stepper.step(own, own_state, scaling, parts)
                self._is_settled = parts is None
            if scaling.scale is not None:
                self.forget_gradients()  # the step has unscaled what was fetched

    def _may_divide(self, groups: Groups) -> bool:
        """Say whether chunks will do: no rule needs all gradients, and a step like it was taken whole."""
        are_away = all(home not in self._mirrors for group in groups for home in group["params"])
        return (
            self._is_settled
            and are_away
            and all(obstacle_in(self._recipe_of(group), False) is None for group in groups)
        )

    @staticmethod
    def _chunks(mirrors: Sequence[Mirror]) -> list[list[Mirror]]:
        """Divide what has gradients, in the order in which these came."""
        stepped = [mirror for mirror in mirrors if mirror.home.grad is not None]
        least = max(LEAST_CHUNK, sum(mirror.home.nbytes for mirror in stepped) // MOST_CHUNKS)
        chunks: list[list[Mirror]] = [[]]
        held = 0
        for mirror in stepped:
            if held >= least:
                chunks.append([])
                held = 0
            chunks[-1].append(mirror)
            held += mirror.home.nbytes
        return chunks

    def _step_chunks(self, stepper: Stepper, chunks: Sequence[Sequence[Mirror]], scaling: Scaling) -> None:
        """Step chunk after chunk, each when its gradients are here, and send it; all of them are one step."""
        waiting = [[(mirror, mirror.home.grad) for mirror in chunk] for chunk in chunks]
        for mirror in self._mirrors.values():
            mirror.home.grad = None
        parts = Parts({})
        for chunk in waiting:
            for mirror, grad in chunk:
                mirror.await_gradient()
                mirror.home.grad = grad
            stepper.step(self._groups, self._state, scaling, parts)
            for mirror, _ in chunk:
                mirror.home.grad = None
                mirror.push()
        stepper.count(self._groups, parts)

    def _follow(self, groups: Groups) -> None:
        """Have a home for each parameter of a device, and none for others."""
        for group in groups:
            if group.get("differentiable"):
                raise ValueError("differentiable=True keeps the graph of a step, which offload() would break")
        params = [list(group["params"]) for group in groups]
        if _are_same(params, self._params) and all(map(Mirror.is_apt, self._mirrors.values())):
            return
        known = {param: mirror for param, mirror in self._mirrors.items() if mirror.is_apt()}
        away = {param: None for own in params for param in own if self._is_away(param)}
        for param in away:
            check(param)
        _refuse_shared(away)
        mirrors = {
            param: known.get(param) or Mirror(param, self._lane(param.device), self._early) for param in away
        }
        for param, mirror in self._mirrors.items():
            if mirrors.get(param) is not mirror:
                self._state.pop(mirror.home, None)
                mirror.remove()
        self._mirrors, self._params, self._is_settled = mirrors, params, False
        self._groups = [{"params": [self._home_of(param) for param in own]} for own in params]

    def _is_away(self, param: Tensor) -> bool:
        return param.device.type != "meta" and (self._from_cpu or param.device.type != "cpu")

    def _lane(self, device: torch.device) -> Lane:
        if device not in self._lanes:
            self._lanes[device] = Lane(device)
        return self._lanes[device]

    def _home_of(self, param: Tensor) -> Tensor:
        mirror = self._mirrors.get(param)
        return param if mirror is None else mirror.home

    def _bring_state(self, state: State) -> None:
        """Have each home's state be the very dict that is its parameter's."""
        for own in self._params:
            for param in own:
                home, found = self._home_of(param), state.get(param)
                if found is None:
                    self._state.pop(home, None)
                elif self._state.get(home) is not found:
                    self._state[home] = found

    def _return_state(self, state: State) -> None:
        for own in self._params:
            for param in own:
                found = self._state.get(self._home_of(param))
                if found is not None and state.get(param) is not found:
                    state[param] = found


def _copy_groups(sources: Groups, targets: Groups) -> None:
    """Have groups say what others say, but for their parameters."""
    for source, target in zip(sources, targets, strict=True):
        for key in [key for key in target if key not in source]:
            del target[key]
        for key, value in source.items():
            if key != "params" and target.get(key, target) is not value:
                target[key] = value


def _are_same(one: Sequence[Sequence[Tensor]], other: Sequence[Sequence[Tensor]]) -> bool:
    return [[*map(id, own)] for own in one] == [[*map(id, own)] for own in other]


def _refuse_shared(params: Iterable[Tensor]) -> None:
    """Raise if parameters share memory, of which each would have a home of its own."""
    places = [(str(p.device), p.data_ptr(), p.data_ptr() + span(p) * p.element_size()) for p in params]
    places = sorted(place for place in places if place[1] != place[2])
    for (device, _, end), (other, begin, _) in pairwise(places):
        if device == other and begin < end:
            raise ValueError("offload() takes parameters that share no memory; two of these do")
