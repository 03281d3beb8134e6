"""Rows that have rested catch up: when a gradient names them again, and when all are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.lowering.chunks import Chunks
from thalweg.lowering.cpu import kernels as cpu
from thalweg.lowering.reference import steps as reference
from thalweg.lowering.spec import Spec
from thalweg.rule import DEGREES, Resting
from thalweg.stepping.counters import counter_dtype
from thalweg.stepping.member import Member, Sort, packed
from thalweg.stepping.past import MOST, Past
from thalweg.stepping.rows import put_back, reals, row_major
from thalweg.storage.codecs import codec_of
from thalweg.storage.codecs.draws import keys

SLICE = 65_536
"""Most rows that catch up in one launch."""

ENOUGH = {torch.float32: 1e-7, torch.float64: 1e-13}
"""What a series should leave out at most, by the dtype of the arithmetic, see `thalweg.rule.Series.error`."""

_APART = 1 << 32
"""What is added to a parameter's ordinal where it catches up, so that it is rounded by other random words."""

State = Mapping[Any, dict[str, Any]]


class Rested:
    """What a parameter's rows have missed since all of them were up to date.

    Args:
        member: the parameter.
        sparse_dims: how many of its dimensions its gradients index; what is left is a row.
        resting: what rows catch up by.
        by_kernel: whether a kernel does it, and not the reference.
    """

    def __init__(self, member: Member, sparse_dims: int, resting: Resting, by_kernel: bool) -> None:
        self.sparse_dims, self.resting, self.by_kernel = sparse_dims, resting, by_kernel
        self._param, self.sort, self._position = member.param, member.sort, member.position
        self.past = Past(resting)
        rows = int(np.prod(member.param.shape[:sparse_dims]))
        self._taken = np.zeros(rows, np.int32)

    def catch_up(self, rows: np.ndarray, state: State) -> None:
        """Bring rows up to date: what has no gradient in a step takes it all the same.

        Args:
            rows: int64, their numbers, each once, counted over all sparse dimensions.
            state: the optimizer's.
        """
        now = self.past.now
        late = np.sort(rows[self._taken[rows] < now])
        if len(late):
            origins, of = np.unique(self._taken[late], return_inverse=True)
            amounts = self.past.amounts(origins.astype(np.int64))
            with torch.no_grad():
                (self._by_kernel if self.by_kernel else self._by_reference)(late, of, amounts, state)
            self._taken[late] = now

    def catch_up_all(self, state: State) -> None:
        """Bring all rows up to date."""
        late = np.flatnonzero(self._taken < self.past.now)
        for begin in range(0, len(late), SLICE):
            self.catch_up(late[begin : begin + SLICE], state)

    def within(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows that lie within some indices along the first dimension."""
        inner = len(self._taken) // max(len(self._param), 1)
        return (numbers[:, None] * inner + np.arange(inner)).reshape(-1)

    def took(self, rows: np.ndarray, scalars: Mapping[str, Any], h: Any, counters: Mapping[str, Any]) -> None:
        """Take note of a step that these rows have taken, and no others.

        Args:
            rows: their numbers.
            scalars: the values of the step by name.
            h: the hyperparameters.
            counters: after they were advanced.
        """
        t = SimpleNamespace(**{name: float(value) for name, value in counters.items()})
        self.past.record(scalars, h, t)
        self._taken[rows] = self.past.now

    def _by_kernel(self, rows: np.ndarray, of: np.ndarray, amounts: np.ndarray, state: State) -> None:
        own = [self._param, *(state[self._param][key] for key in self.sort.stored_keys)]
        staged = [row_major(tensor) for tensor in own]
        spec = self._spec
        places = [staged[0].data_ptr(), *(tensor.data_ptr() for tensor in staged)]  # no gradient is read
        count = len(amounts)
        addresses = np.repeat(np.array(places, np.int64)[:, None], count, axis=1)
        none = (np.zeros(count, np.int64), np.zeros(1, np.int32), counter_dtype(), np.zeros((count, 0)))
        launch = cpu.Launch(spec, {}, addresses, np.arange(count), *none)
        launch.keys[:] = self._key()
        launch.read(np.ascontiguousarray(amounts), None)
        length = reals(staged[0]) // len(self._taken)
        most = cpu.chunk(len(rows) * length)
        by_row = self.sort.mean is not None
        chunks = Chunks.rows_of_one(of, rows, length, max(most, length) if by_row else most)
        launch.divide(chunks.in_rows() if by_row else chunks)
        cpu.Run([launch])()
        put_back(own, staged)

    @property
    def _spec(self) -> Spec:
        codec, slots = codec_of(self.sort.dtype), [n for n in self.sort.codecs if n != "p"]
        assert codec is not None, "the plan has sent other dtypes to the reference"
        return Spec(
            recipe=self.resting,
            on=tuple(self.resting.on.items()),
            scalars=self.resting.columns,
            p=self.sort.codecs["p"],
            g=codec,
            slots=tuple(self.sort.codecs[name] for name in slots),
            maximize=False,
            unscale=False,
        )

    def _by_reference(self, rows: np.ndarray, of: np.ndarray, amounts: np.ndarray, state: State) -> None:
        param, own = self._param, state.get(self._param, {})
        shape = param.shape[: self.sparse_dims]
        index = torch.from_numpy(np.stack(np.unravel_index(rows, shape))).to(param.device)
        left = param.shape[self.sparse_dims :]
        zeros = torch.zeros(len(rows), *left, dtype=param.dtype, device=param.device)
        grad = torch.sparse_coo_tensor(index, zeros, param.shape, is_coalesced=True, check_invariants=False)
        each = (-1, *[1] * (len(left) + param.is_complex()))
        columns = torch.from_numpy(amounts[of].T.copy())
        if param.device.type == "mps":
            columns = columns.float()
        scalars = {
            name: column.to(param.device).reshape(each)
            for name, column in zip(self.resting.columns, columns, strict=True)
        }
        slots = {name: own[at] for name, at in self.sort.slot_keys.items()}
        work = (self.resting, self.resting.on, param, grad, slots, scalars)
        reference.step(reference.Work(*work, packed=packed(self.sort, param, own), key=self._key()))

    def _key(self) -> int:
        if not self.sort.draws:
            return 0
        options = self.sort.options
        ordinals = np.array([_APART + self._position], np.int64)
        return int(keys(options["seed"], int(options["rounding_step"]), ordinals)[0])


class Rests:
    """What rows have missed, by parameter; of one that is not here, all rows are up to date."""

    def __init__(self) -> None:
        self._known: dict[Tensor, Rested] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, member: Member, sparse_dims: int, h: Any, by_kernel: bool, state: State) -> Rested:
        """Return what the rows of a parameter have missed that is stepped by a sparse gradient now."""
        degree = _degree(member.sort, h)
        resting = Resting.of_flags(member.sort.recipe, member.sort.on, degree)
        known = self._known.get(member.param)
        if known is not None:
            alike = known.resting is resting and known.sparse_dims == sparse_dims
            if alike and known.by_kernel == by_kernel and known.past.now < MOST:
                known.sort = member.sort
                return known
            self.flush(member.param, state)
        self._known[member.param] = Rested(member, sparse_dims, resting, by_kernel)
        return self._known[member.param]

    def flush(self, param: Tensor, state: State) -> None:
        """Bring all rows of a parameter up to date."""
        known = self._known.get(param)
        if known is not None:
            known.catch_up_all(state)
            del self._known[param]

    def forget(self) -> None:
        """Take all rows for up to date as they are."""
        self._known.clear()

    def flush_all(self, state: State) -> None:
        """Bring all rows of all parameters up to date."""
        for param in list(self._known):
            self.flush(param, state)

    def flush_dense(self, state: State) -> None:
        """Bring all rows up to date that are to be stepped by a dense gradient."""
        for param in list(self._known):
            if param.grad is not None and param.grad.layout != torch.sparse_coo:
                self.flush(param, state)

    def catch_up(self, param: Tensor, rows: Tensor, state: State) -> None:
        """Bring some rows of a parameter up to date.

        Args:
            param: the parameter.
            rows: integers, any shape, numbers along its first dimension.
            state: the optimizer's.

        Raises:
            ValueError: if a number is not in [0, its size).
        """
        known = self._known.get(param)
        if known is None:
            return
        numbers = np.unique(rows.detach().cpu().numpy().reshape(-1)).astype(np.int64)
        wrong = numbers[(numbers < 0) | (numbers >= len(param))]
        if len(wrong):
            raise ValueError(f"rows must be in [0, {len(param)}), not {wrong[0]}")
        known.catch_up(known.within(numbers), state)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._known)


def _degree(sort: Sort, h: Any) -> int:
    rest = sort.recipe.rule.rest
    assert rest is not None, "`Recipe.check` has asked"
    if rest.series is None:
        return 0
    enough = ENOUGH[torch.float64 if sort.codecs["p"].compute == torch.float64 else torch.float32]
    return next((degree for degree in DEGREES if rest.series.error(h, degree) <= enough), DEGREES[-1])
