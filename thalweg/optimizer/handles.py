"""Handles: what users take away again what they have asked of an optimizer by."""

from __future__ import annotations

from typing import Self


class Handle:
    """Something that is on until `remove()`, or until the end of a `with` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.remove()

    def remove(self) -> None:
        """End it."""
        raise NotImplementedError
