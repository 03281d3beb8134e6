"""The GPU's engine: Triton kernels, and what they read that stays on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.lowering.chunks import Chunks
from thalweg.lowering.gpu import tables as cuda
from thalweg.lowering.spec import Spec
from thalweg.stepping.counters import counter_dtype
from thalweg.stepping.engines.taking import Taking
from thalweg.stepping.member import Member
from thalweg.stepping.scaling import Scaling, as_tensor
from thalweg.stepping.settings import AllSettings
from thalweg.storage.codecs import Codec


class DeviceEngine:
    """Triton kernels. Counters, scalars and keys live on the device, and nothing is waited for.

    What kernels read of the host's is never written over but sent anew, so that a captured graph, which
    goes on reading what it was captured with, is not disturbed by steps beside it.
    """

    skips = True

    def __init__(
        self, spec: Spec, members: Sequence[Member], addresses: np.ndarray, firsts: np.ndarray
    ) -> None:
        self._recipe, self._draws = spec.recipe, spec.draws
        self._chunk = cuda.chunk(spec)
        self.measured = 1 if spec.by_row else cuda.MEASURED
        self._addresses, self._streams = addresses, len(spec.streams)
        self._host_firsts = firsts
        self._positions = np.array([member.position for member in members], np.int64)
        self._device = members[0].param.device
        self._kernels = {aligned: cuda.step_kernel(spec, aligned) for aligned in (True, False)}
        kind = cuda.kind_of(spec, counter_dtype())
        self._rows_kernel = cuda.rows_kernel(self._recipe, members[0].sort.choices, kind)
        self._options: dict[int, Any] = {member.sort.group: member.sort.options for member in members}
        self._place = {group: place for place, group in enumerate(self._options)}
        self._fixed = self._fixed_tables(members)
        self._shared = members[0].shared
        self._firsts = self._shared.firsts([m.position for m in members if m.first], self._device)
        count, columns = len(members), len(spec.columns)
        dtype = spec.compute
        self._rows = torch.empty(count, max(columns, 1), dtype=dtype, device=self._device)
        self._keys = torch.empty(count, dtype=torch.int32, device=self._device)
        self._never = torch.zeros((), device=self._device)
        self._tables = {name: cuda.Table(self._device) for name in ("addresses", "hypers", "draws")}
        self._known: AllSettings | None = None
        self._numbers = np.zeros((len(self._options), len(self._recipe.columns)))
        self._on_device: list[tuple[int, int, Tensor]] = []
        self._seeds_and_counts = np.zeros((len(self._options), 2), np.int64)
        self._counts: list[Tensor] = []
        self._foreign: list[tuple[Tensor, Tensor]] = []
        self._sent: Tensor | None = None
        self._work: cuda.Work | None = None
        self._chunks: Chunks | None = None
        self._is_aligned = np.empty(0, bool)
        self._stream = cuda.stream(self._device)
        self._recipe_stages = {stage: Taking(spec._replace(stage=stage)) for stage in self._recipe.stages}
        width = max(len(self._recipe.measures), 1)
        self.measures = torch.zeros(count, width, dtype=torch.float64, device=self._device)

    @staticmethod
    def supports(codec: Codec | None) -> bool:  # noqa: D102
        return codec is not None

    def chunk(self, elements: int) -> int:  # noqa: D102
        return self._chunk

    def _fixed_tables(self, members: Sequence[Member]) -> dict[str, Tensor]:
        arrays = {
            "groups": np.array([self._place[m.sort.group] for m in members], np.int64),
            "ordinals": self._positions,
        }
        return {name: cuda.to_device(array, self._device) for name, array in arrays.items()}

    def measure(self, stage: str, chunks: Chunks, settings: AllSettings, scaling: Scaling) -> None:  # noqa: D102
        taking = self._recipe_stages[stage]
        if not (self._addresses[1] != 0).any():
            self.measures[:, taking.first : taking.first + taking.count] = 0.0
            return
        if stage == self._recipe.stages[0]:
            self._begin()
        with cuda.on(self._device):
            capturing = cuda.is_capturing(self._device)
            table, _ = self._prepare(settings, scaling, capturing, keeps=True)
            is_aligned = cuda.aligned(self._addresses[: self._streams])
            parts = taking.divide(chunks, is_aligned, self._device)
            for aligned, part in zip((True, False), parts, strict=True):
                arguments = (table, part.work, self._rows, part.sums, len(self._positions))
                cuda.run(taking.kernels[aligned], len(part.work), *arguments)
            first, second = ((part.sums, part.begins) for part in parts)
            columns = (self.measures, taking.first, self.measures.shape[1])
            tensors = len(self._positions)
            cuda.run(taking.totals, tensors, *first, *second, *columns, columns=taking.count)
            if capturing:
                self._shared.keep(self._all_tensors())

    def total(self, name: str) -> Tensor:  # noqa: D102
        return self.measures[:, self._recipe.place_of(name)].sum()

    def share(self, name: str, total: Tensor | float) -> None:  # noqa: D102
        self.measures[:, self._recipe.place_of(name)] = total

    def _prepare(
        self, settings: AllSettings, scaling: Scaling, capturing: bool, keeps: bool
    ) -> tuple[Tensor, Tensor]:
        """Make ready what kernels read, and rows; return the table of addresses, and what forbids a step."""
        if not capturing:
            self._follow_stream()
        if settings is not self._known:
            self._notice(settings, capturing)
        found_inf = self._here(scaling.found_inf)
        table = self._send("addresses", self._addresses, capturing)
        self._make_rows(table, self._here(scaling.scale), found_inf, capturing, keeps)
        return table, found_inf

    def _send(self, table: str, array: np.ndarray, capturing: bool) -> Tensor:
        return self._tables[table].send(array, capturing, self._shared.sendings)

    def _begin(self) -> None:
        for table in self._tables.values():
            table.begin()

    def launch(self, chunks: Chunks, settings: AllSettings, scaling: Scaling) -> None:  # noqa: D102
        is_present = self._addresses[1] != 0
        if not is_present.any():
            return
        if not self._recipe.stages:
            self._begin()
        with cuda.on(self._device):
            capturing = cuda.is_capturing(self._device)
            table, found_inf = self._prepare(settings, scaling, capturing, keeps=False)
            if chunks.elements:
                self._step(table, chunks, found_inf)
            if capturing:
                self._shared.keep(self._all_tensors())
        # Kernels have cleared their own.
        self._host_firsts[self._positions[is_present]] = 0

    def _follow_stream(self) -> None:
        """See to it that memory of one stream is not given to others while another one reads it."""
        stream = cuda.stream(self._device)
        if stream != self._stream:
            self._stream = stream
            cuda.lend(self._all_tensors(), stream)

    def _all_tensors(self) -> list[Tensor]:
        found = [
            *self._fixed.values(),
            *(self._work or ()),
            self._rows,
            self._keys,
            self._never,
            self._firsts,
            *self._counts,
            self.measures,
            *(tensor for stage in self._recipe_stages.values() for tensor in stage.tensors),
        ]
        for table in self._tables.values():
            found += [table.tensor, *table.replayed]
        return found

    def _notice(self, settings: AllSettings, capturing: bool) -> None:
        """Work out again what the groups say, which has changed."""
        rows = [self._recipe.row(settings.hypers[group]) for group in self._options]
        self._on_device = [
            (i, j, x) for i, row in enumerate(rows) for j, x in enumerate(row) if isinstance(x, Tensor)
        ]
        self._numbers[:] = [[0.0 if isinstance(x, Tensor) else x for x in row] for row in rows]
        if self._draws:
            self._find_counts(capturing)
        self._known = settings

    def _find_counts(self, capturing: bool) -> None:
        """Have the device count the draws: only it knows which steps are replayed, and which are skipped."""
        counts = [self._count_on_device(options, capturing) for options in self._options.values()]
        # Memory of another device cannot be read here.
        self._counts = [
            count if count.device == self._device else torch.empty_like(count, device=self._device)
            for count in counts
        ]
        pairs = zip(self._counts, counts, strict=True)
        self._foreign = [(mine, count) for mine, count in pairs if mine is not count]
        self._seeds_and_counts[:, 0] = [options["seed"] for options in self._options.values()]
        self._seeds_and_counts[:, 1] = [count.data_ptr() for count in self._counts]

    def _count_on_device(self, options: dict[str, Any], capturing: bool) -> Tensor:
        count = options["rounding_step"]
        if isinstance(count, Tensor):
            return count
        if capturing:
            raise RuntimeError("to capture steps that round stochastically, take one before the capture")
        options["rounding_step"] = cuda.to_device(np.array(count, np.int64), self._device)
        return options["rounding_step"]

    def _make_rows(
        self, table: Tensor, scale: Tensor, found_inf: Tensor, capturing: bool, keeps: bool
    ) -> None:
        for here, there in self._foreign:
            here.copy_(there, non_blocking=True)
        arguments = (
            table,
            self._fixed["groups"],
            self._firsts,
            self._hypers(capturing),
            self._send("draws", self._seeds_and_counts, capturing),
            self._fixed["ordinals"],
            self._rows,
            self._keys,
            scale,
            found_inf,
            self.measures,
        )
        count = len(self._keys)
        programs = -(-count // cuda.WIDTH)
        cuda.run(self._rows_kernel, programs, *arguments, self._streams, count, int(keeps))

    def _hypers(self, capturing: bool) -> Tensor:
        """Return the hyperparameters on the device, a row for each group; those that are there are copied."""
        table = self._send("hypers", self._numbers, capturing)
        for i, j, tensor in self._on_device:
            table[i, j].copy_(tensor.reshape(()), non_blocking=True)
        return table

    def _here(self, value: Tensor | float | None) -> Tensor:
        """Return a number that GradScaler gives, or zero, on this device."""
        if value is None:
            return self._never
        return as_tensor(value).to(self._device, torch.float32, non_blocking=True)

    def _step(self, table: Tensor, chunks: Chunks, found_inf: Tensor) -> None:
        if table is not self._sent or chunks is not self._chunks:
            self._divide(chunks)
            self._sent = table
        assert self._work is not None
        arguments = (self._rows, self._keys, found_inf, len(self._positions))
        for aligned, work in ((True, self._work.aligned), (False, self._work.others)):
            cuda.run(self._kernels[aligned], len(work), table, work, *arguments)

    def _divide(self, chunks: Chunks) -> None:
        """Find out which chunks are aligned, if that may have changed."""
        is_aligned = cuda.aligned(self._addresses[: self._streams])
        if chunks is not self._chunks or not np.array_equal(is_aligned, self._is_aligned):
            self._work = cuda.divide(chunks, is_aligned, self._device)
            self._chunks, self._is_aligned = chunks, is_aligned
