"""The optimizers that are measured on a GPU: ours, torch's, and other packages' where they are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

import thalweg
from thalweg.bench.shapes import Shapes

LR = 1e-3

Make = Callable[[Any], torch.optim.Optimizer]


@dataclass(frozen=True)
class Storage:
    """How parameters and state are stored.

    Args:
        name: as printed.
        dtype: of parameters and gradients.
        options: of our optimizers.
    """

    name: str
    dtype: torch.dtype
    options: Mapping[str, Any]


FLOAT32 = Storage("float32", torch.float32, {})
BFLOAT16 = Storage("bfloat16", torch.bfloat16, {})
BITS24 = Storage("bfloat16, 24 bits", torch.bfloat16, {"weight_bits": 24})
INT8 = Storage("int8 state", torch.float32, {"state": "int8"})
BLOCK8 = Storage("block8 state", torch.float32, {"state": "block8"})
STORAGES = (FLOAT32, BFLOAT16, BITS24, INT8)


@dataclass(frozen=True)
class Algorithm:
    """An algorithm: the class in both packages and what it is made with."""

    name: str
    cls: str
    options: Mapping[str, Any]

    @property
    def is_fused(self) -> bool:
        """Whether torch has it fused."""
        return self.cls != "RMSprop"


ADAMW = Algorithm("AdamW", "AdamW", {})
SGD = Algorithm("SGD momentum", "SGD", {"momentum": 0.9})
RMSPROP = Algorithm("RMSprop centered + momentum", "RMSprop", {"momentum": 0.9, "centered": True})
ALGORITHMS = (ADAMW, SGD, RMSPROP)


def ours(algorithm: Algorithm, storage: Storage, lr: float = LR) -> Make:
    """Return what makes our optimizer."""
    cls = getattr(thalweg, algorithm.cls)
    return lambda params: cls(params, lr=lr, **algorithm.options, **storage.options)


def torchs(algorithm: Algorithm, form: str, lr: float = LR) -> Make:
    """Return what makes torch's optimizer in the form `fused` or `foreach`."""
    cls = getattr(torch.optim, algorithm.cls)
    return lambda params: cls(params, lr=lr, **algorithm.options, **{form: True})


def oracle(algorithm: Algorithm, lr: float = LR) -> Make:
    """Return what makes torch's optimizer to verify ours by: fused, where there is that."""
    return torchs(algorithm, "fused" if algorithm.is_fused else "foreach", lr)


def rivals(algorithm: Algorithm, storage: Storage, shapes: Shapes) -> dict[str, Make]:
    """Return what is measured beside ours, by name. Making one raises where its package is missing."""
    forms = ("fused", "foreach") if algorithm.is_fused else ("foreach",)
    found = {f"torch {form}": torchs(algorithm, form) for form in forms}
    others = _OTHERS.get((algorithm.name, storage.name), {})
    # torchao compiles its step for every shape, seconds each.
    few = len(set(shapes)) <= 8
    return found | {name: make for name, make in others.items() if few or not name.startswith("torchao")}


def _made_by(module: str, cls: str, **options: Any) -> Make:
    def make(params: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
        return getattr(import_module(module), cls)(params, lr=LR, **options)

    return make


_OTHERS: dict[tuple[str, str], dict[str, Make]] = {
    (ADAMW.name, FLOAT32.name): {"bitsandbytes 32 bits": _made_by("bitsandbytes.optim", "AdamW")},
    (SGD.name, FLOAT32.name): {"bitsandbytes 32 bits": _made_by("bitsandbytes.optim", "SGD", momentum=0.9)},
    (ADAMW.name, BITS24.name): {
        "flashoptim 24 bits": _made_by("flashoptim", "FlashAdamW", quantize=False, master_weight_bits=24),
    },
    (SGD.name, BITS24.name): {
        "flashoptim 24 bits": _made_by(
            "flashoptim", "FlashSGD", momentum=0.9, quantize=False, master_weight_bits=24
        ),
    },
    (ADAMW.name, INT8.name): {
        "bitsandbytes 8 bits": _made_by("bitsandbytes.optim", "AdamW8bit"),
        "torchao 8 bits": _made_by("torchao.optim", "AdamW8bit"),
        "flashoptim 8 bits": _made_by("flashoptim", "FlashAdamW", quantize=True, master_weight_bits=None),
    },
    (SGD.name, INT8.name): {
        "bitsandbytes 8 bits": _made_by("bitsandbytes.optim", "SGD8bit", momentum=0.9),
        "flashoptim 8 bits": _made_by(
            "flashoptim", "FlashSGD", momentum=0.9, quantize=True, master_weight_bits=None
        ),
    },
}
"""Other packages' optimizers for an algorithm and a storage. None has a centered RMSprop in fewer bytes."""
