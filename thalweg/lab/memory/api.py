"""`thalweg.memory`: the bytes that training takes, by optimizer and storage, in Python and notebooks.

Counting and the table need nothing but torch. The picture needs the lab's packages, so what draws it is
imported when it is asked for; it knows what was counted, not the object that asks.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from thalweg.lab.memory import footprint
from thalweg.lab.memory.counted import Counted
from thalweg.lab.memory.footprint import Setting
from thalweg.lab.memory.optimizers import Optimizer, dtype_of, settings
from thalweg.lab.memory.parts import read
from thalweg.lab.showing import pages
from thalweg.storage.codecs import STATE
from thalweg.storage.codecs.plain import dtype_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

OPTIMIZERS = ("sgd", "rmsprop", "adamw")

FRAME_HEIGHT = 620
"""Pixels of the window in which a notebook shows the picture."""


@dataclass(frozen=True, repr=False)
class Memory(Counted):
    """The bytes that training takes. Printed it is a table; a notebook shows the picture.

    Attributes:
        rows: the bytes of each optimizer with each storage.
        parts: the model as far as its bytes are concerned.
        dtype: what floating-point parameters were counted as; None for what they are.
        weight_bits: the bits in which the optimizers keep 16-bit weights, if that was asked for.
        name: of the model.
        in_backward: whether steps in backward were asked for.
    """

    def figure(self) -> "go.Figure":
        """The stacked bars, as a figure of plotly's.

        Raises:
            ModuleNotFoundError: the lab's packages are not installed; the message says how to.
        """
        with _lab_needed():
            from thalweg.lab.memory.picture import shares
        return shares(self).plots()["shares"]

    def html(self) -> str:
        """The picture and the table: one file that needs no network.

        Raises:
            ModuleNotFoundError: the lab's packages are not installed; the message says how to.
        """
        with _lab_needed():
            from thalweg.lab.memory.page import render
        return render(self)

    def save(self, path: str | Path) -> None:
        """Writes that file, whole or not at all.

        Raises:
            ModuleNotFoundError: the lab's packages are not installed; the message says how to.
            ValueError: its name does not end with ``.html``.
            OSError: it cannot be written.
        """
        pages.save(path, self.html)

    def _repr_html_(self) -> str | None:
        try:
            page = self.html()
        except ModuleNotFoundError:
            return None  # the notebook shows the table then
        return pages.frame("memory", page, FRAME_HEIGHT)


def memory(
    model: nn.Module | Iterable[Tensor],
    optimizers: Sequence[Optimizer] | Optimizer = OPTIMIZERS,
    storages: Sequence[str] | str = STATE,
    *,
    weight_bits: int | None = None,
    dtype: str | torch.dtype | None = None,
    in_backward: bool = False,
) -> Memory:
    """Counts the bytes of weights, gradients and optimizer state, by optimizer and storage.

    The figures are those of real tensors, after one step on a parameter of every kind that the model has.
    The model itself, which may lie on the meta device, is only looked at.
    Sparse gradients are taken to have all rows.

    Args:
        model: a module, or parameters.
        optimizers: names as in ``thalweg compare``, where SGD has a momentum; dotted paths such as
            ``"torch.optim.AdamW"``; classes; or for other arguments ``functools.partial(tw.Adam,
            amsgrad=True)``. Those that are not thalweg's store their state in their own way.
        storages: what `state=` is to be, for each of thalweg's optimizers.
        weight_bits: of bfloat16 and float16 parameters, as in the optimizers.
        dtype: counts floating-point parameters and buffers as ``model.to(dtype)`` would have them.
        in_backward: counts of the gradients of thalweg's optimizers what ``optimizer.in_backward()`` holds.

    Returns:
        The result: `rows`, a table when printed, a picture in a notebook and by `save`.

    Raises:
        TypeError, ValueError: an argument cannot be met; the message names it.
    """
    chosen = settings(optimizers, storages, weight_bits)
    return measure(model, chosen, weight_bits, dtype_of(dtype), in_backward=in_backward)


def measure(
    model: nn.Module | Iterable[Tensor],
    chosen: Sequence[Setting],
    weight_bits: int | None = None,
    dtype: torch.dtype | None = None,
    name: str = "",
    in_backward: bool = False,
) -> Memory:
    """Counts, once all arguments have been checked.

    Raises:
        TypeError, ValueError: the model cannot be read, or an optimizer cannot step it.
    """
    parts = read(model, dtype)
    name = name or (type(model).__name__ if isinstance(model, nn.Module) else "")
    cast = None if dtype is None else dtype_name(dtype)
    rows = footprint.count(parts, chosen, in_backward)
    return Memory(rows, parts, cast, weight_bits, name, in_backward)


@contextmanager
def _lab_needed() -> Iterator[None]:
    """Says how to get a package that drawing lacks.

    Raises:
        ModuleNotFoundError: it is missing; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the picture needs {error.name}: pip install 'thalweg[lab]'", name=error.name
        ) from None
