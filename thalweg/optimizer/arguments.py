"""What the constructors of all optimizers take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from thalweg.additions.options import Additions
from thalweg.storage.choices import Storage

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
