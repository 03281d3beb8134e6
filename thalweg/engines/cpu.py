"""The CPU's engine: compiled kernels on torch's threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from thalweg.chunks import Chunks
from thalweg.codecs.draws import keys
from thalweg.lowering import cpu
from thalweg.lowering.spec import Spec
from thalweg.member import Member
from thalweg.rows import Rows
from thalweg.scaling import Scaling
from thalweg.state import counter_dtype


class Keys:
    """The keys of the random words of a batch.

    Args:
        members: the members of the batch.

    Attributes:
        values: int32 (members,); never another array.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.values = np.zeros(len(members), np.int32)
        self._groups: list[tuple[Mapping[str, Any], np.ndarray, np.ndarray]] = []
        for index in {member.group for member in members if member.draws}:
            places = [i for i, member in enumerate(members) if member.group == index]
            ordinals = np.array([members[i].position for i in places], np.int64)
            self._groups.append((members[places[0]].options, np.array(places), ordinals))

    def draw(self) -> None:
        """Work out the keys of this step, if any are needed."""
        for group, places, ordinals in self._groups:
            self.values[places] = keys(group["seed"], int(group["rounding_step"]), ordinals)


class CpuEngine:
    """Compiled kernels on torch's threads; scalars and keys are worked out on the way."""

    skips = False
    supports = staticmethod(cpu.supports)
    chunk = staticmethod(cpu.chunk)

    def __init__(self, spec: Spec, members: Sequence[Member]) -> None:
        rule = spec.rule
        self._rows = Rows(
            rule,
            groups=[member.group for member in members],
            first=[member.first for member in members],
            counters={c.name: [m.state[c.name] for m in members] for c in rule.counters},
            dtype=counter_dtype(),
        )
        self._kernel = cpu.kernel(spec)
        self._keys = Keys(members)
        self._scalars = np.empty((0, 0))
        self._chunks: Chunks | None = None

    def launch(  # noqa: D102
        self, addresses: np.ndarray, chunks: Chunks, hypers: Sequence[SimpleNamespace], scaling: Scaling
    ) -> None:
        rows = self._rows.next(hypers, scaling.inverse)
        if not chunks.elements:
            return
        self._keys.draw()
        if chunks is not self._chunks or len(rows) != len(self._scalars):
            self._chunks = chunks
            self._scalars = np.empty((len(rows), len(rows[0])), self._kernel.dtype)
            self._launch = cpu.Launch(
                self._kernel, addresses, chunks, self._scalars, self._rows.row_of, self._keys.values
            )
        self._scalars[:] = rows
        self._launch.run()
