"""The arguments by which every optimizer is asked for additions."""

from __future__ import annotations

from typing import TypedDict


class Additions(TypedDict, total=False):
    """The arguments of every optimizer that say what is added to its rule."""
