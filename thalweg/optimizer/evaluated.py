"""Weights as they are evaluated and exported: up to date, averaged, in full precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.optimizer.arranged import Arranged
from thalweg.optimizer.averaging import averages, exchanged
from thalweg.optimizer.compiling import uncompiled
from thalweg.optimizer.matching import names_of
from thalweg.optimizer.saving import Groups
from thalweg.optimizer.weights import check_weights, full_weights, set_weights


class Evaluated(Arranged):
    """Gives out the weights that its steps have come to, and takes others."""

    _until_train: ExitStack | None = None

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return super().__getstate__()

    @uncompiled
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
                key: full_weights(param, state.get(param, {}), group) for key, param, group in _keyed(groups)
            }

    @uncompiled
    def load_full_precision_weights(self, weights: Mapping[Any, Tensor]) -> None:
        """Set the weights, and what `weight_bits` holds beside them, rounded to nearest.

        Args:
            weights: for each parameter, as `full_precision_weights` returns them; any floating dtype.

        Raises:
            ValueError: if parameters are missing or others are there, or a shape is not the parameter's.
                Nothing has been changed then.
        """
        check_weights({key: param for key, param, _ in _keyed(self.param_groups)}, weights)
        with torch.no_grad(), self._at_home() as (groups, state):
            for key, param, group in _keyed(groups):
                set_weights(param, weights[key], state, group)

    @uncompiled
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

    @uncompiled
    def eval(self) -> None:
        """Have parameters be their averages until `train()`, as `averaged()` does in a block.

        Nothing happens if they are already, or if there is no average yet; but `flush()` is called.
        """
        self.flush()
        if not self._is_averaged and any(True for _ in self._averages()):
            self._until_train = ExitStack()
            self._until_train.enter_context(self.averaged())

    @uncompiled
    def train(self) -> None:
        """Have parameters be the weights that are trained again, after `eval()`; else nothing happens."""
        if self._until_train is not None:
            self._until_train.close()
            self._until_train = None

    def _averages(self) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Give the averages that there are, each with the name and the parameter that it is of."""
        with self._at_home() as (groups, state):
            keyed = zip(_keyed(self.param_groups), _keyed(groups), strict=True)
            for (key, param, _), (_, home, group) in keyed:
                value = averages(self.recipe_of(group).slots, state.get(home, {}), home, group)
                if value is not None:
                    yield key, param, value


def _keyed(groups: Groups) -> Iterator[tuple[Any, Tensor, dict[str, Any]]]:
    """Give all parameters with their groups, each by its name, or by its position where names do not do."""
    names = names_of(groups)
    position = 0
    for index, group in enumerate(groups):
        for i, param in enumerate(group["params"]):
            yield position if names is None else names[index][i], param, group
            position += 1
