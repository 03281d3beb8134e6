"""What the code of a kernel depends on, whichever device it is for."""

from __future__ import annotations

from typing import NamedTuple

import torch

from thalweg.rule import Measure, Recipe
from thalweg.storage.codecs import BLOCK, BlockCodec, Codec, MeanCodec
from thalweg.storage.codecs.plain import dtype_name


class Stream(NamedTuple):
    """Memory that a kernel walks along: what is stored there, and how many elements share one of it.

    With `shared` 0 these are the elements of a row.
    """

    name: str
    stored: str
    shared: int = 1


class Spec(NamedTuple):
    """All that the code of a kernel depends on; the same spec is the same machine code.

    Args:
        recipe: what steps are made by.
        on: its flags, as (name, value) pairs.
        scalars: the names of a row's columns.
        p: the codec of the parameters.
        g: the codec of the gradients.
        slots: the codecs of the slots, in order.
        maximize: whether gradients are negated.
        unscale: whether gradients are multiplied by the row's last column, and written back by a step.
        stage: the stage whose measures are taken; empty for a step.
        in_parts: whether chunks say where in the whole they lie, of which a process steps a part.
    """

    recipe: Recipe
    on: tuple[tuple[str, bool], ...]
    scalars: tuple[str, ...]
    p: Codec
    g: Codec
    slots: tuple[Codec, ...]
    maximize: bool
    unscale: bool
    stage: str = ""
    in_parts: bool = False

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that are taken."""
        return tuple(one for one in self.recipe.measures if one.at == self.stage)

    @property
    def compute(self) -> torch.dtype:
        """The dtype of the numbers that are computed with."""
        return self.p.compute

    @property
    def codecs(self) -> dict[str, Codec]:
        """The codecs of what the rule changes, by name."""
        names = [slot.name for slot in self.recipe.slots_on(dict(self.on))]
        return {"p": self.p, **dict(zip(names, self.slots, strict=True))}

    @property
    def stored(self) -> dict[str, Codec]:
        """The codecs of all that is stored: `p`, `g` and the slots."""
        return {"p": self.p, "g": self.g, **self.codecs}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns of a row."""
        return (*self.scalars, "unscale") if self.unscale else self.scalars

    @property
    def draws(self) -> bool:
        """Whether the kernel rounds by random bits, and so needs keys."""
        return any(codec.drawn for codec in self.codecs.values())

    @property
    def blocks(self) -> dict[str, BlockCodec]:
        """The codecs of what is stored in blocks, by name."""
        return {name: codec for name, codec in self.codecs.items() if isinstance(codec, BlockCodec)}

    @property
    def by_row(self) -> dict[str, MeanCodec]:
        """The codecs of what is kept as means, by name. If there is any, a kernel goes row by row.

        Where the whole tensor has one number, it is one row.
        """
        return {name: codec for name, codec in self.codecs.items() if isinstance(codec, MeanCodec)}

    @property
    def streams(self) -> list[Stream]:
        """The streams in the order of the table of addresses, `stored` by the name of a dtype."""
        streams = [Stream(n, c.name, 0 if isinstance(c, MeanCodec) else 1) for n, c in self.stored.items()]
        for name, codec in self.codecs.items():
            if codec.side is not None:
                shared = BLOCK if isinstance(codec, BlockCodec) else 1
                streams.append(Stream(f"{name}.side", dtype_name(codec.side), shared))
        return streams
