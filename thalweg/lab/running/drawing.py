"""The batches of a run, and the way back to the same place among them.

Whatever gives them need not know how to go back: as many are drawn once more and thrown away, with the global
generators where they were whenever it has drawn from one. What has `state_dict` and `load_state_dict`, as the
loaders of torchdata, is asked instead.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from thalweg.lab.workload import chance
from thalweg.lab.workload.errors import ResumingError

MOST_BYTES = 128 << 20
"""What may be kept of the generators that batches are drawn from: some 25,000 states of torch's."""


class Batches:
    """Batches in order.

    Args:
        begin: what gives them, from the first on.
        device: whose generator it may draw from.
        position: where to go on, as `position` has given it.

    Raises:
        ResumingError: there are fewer batches than were drawn before.
    """

    def __init__(
        self, begin: Callable[[], Any], device: torch.device, position: Mapping[str, Any] | None = None
    ) -> None:
        self._device, self._drawn, self._bytes = device, 0, 0
        self._at_first = chance.states(device=device)
        self._watched = list(self._at_first)
        self._moved: dict[int, dict[str, bytes]] = {}
        if position is not None:
            self._watched, self._moved = list(position["watched"]), dict(position["moved"])
            chance.restore(self._moved.get(0, {}), device)
        before = self._states()
        given = begin()
        self._batches = iter(given)
        if position is None:
            self._note(before)
        self._hooks: Any = next((one for one in (given, self._batches) if _has_hooks(one)), None)
        if position is not None:
            self._bytes = sum(len(state) for moved in self._moved.values() for state in moved.values())
            self._go_to(position)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        before = self._states()
        batch = next(self._batches)
        self._drawn += 1
        self._note(before)
        return batch

    def settle(self) -> None:
        """Call it after the first step: generators that it has not moved are not looked at any more.

        To look at NumPy's and Python's takes ten times as long as to look at torch's.
        """
        self._watched = ["torch", *self._moved_since_the_first()]

    def position(self) -> dict[str, Any]:
        """What is needed to go on with the next batch.

        Raises:
            ResumingError: it is not known, or takes too much memory.
        """
        if self._hooks is None and (late := set(self._moved_since_the_first()) - set(self._watched)):
            raise ResumingError(
                f"{min(late)}'s global generator was first drawn from after the first step, and by which "
                "batches is not known"
            )
        if self._hooks is None and self._bytes > MOST_BYTES:
            raise ResumingError(
                f"batches drew from global generators more often than {MOST_BYTES >> 20} MB hold"
            )
        hooks = {} if self._hooks is None else {"hooks": self._hooks.state_dict()}
        return {"watched": self._watched, "moved": self._moved, "drawn": self._drawn, **hooks}

    def _moved_since_the_first(self) -> list[str]:
        now = chance.states(device=self._device)
        return [name for name in now if name != "torch" and now[name] != self._at_first[name]]

    def _states(self) -> dict[str, bytes]:
        return chance.states(self._watched, self._device)

    def _note(self, before: Mapping[str, bytes]) -> None:
        """Keeps where generators were that this batch was drawn from."""
        now = self._states()
        moved = {name: state for name, state in before.items() if state != now[name]}
        if moved and self._bytes <= MOST_BYTES:
            self._moved[self._drawn] = moved
            self._bytes += sum(map(len, moved.values()))

    def _go_to(self, position: Mapping[str, Any]) -> None:
        if self._hooks is not None and "hooks" in position:
            self._hooks.load_state_dict(position["hooks"])
            self._drawn = position["drawn"]
            return
        while self._drawn < position["drawn"]:
            chance.restore(self._moved.get(self._drawn + 1, {}), self._device)
            if next(self._batches, self) is self:
                raise ResumingError(f"there are {self._drawn} batches, and it was at {position['drawn']}")
            self._drawn += 1


def _has_hooks(given: Any) -> bool:
    return all(callable(getattr(given, name, None)) for name in ("state_dict", "load_state_dict"))
