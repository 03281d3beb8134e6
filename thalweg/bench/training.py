"""Whole training steps of three small networks: forward, backward, and the step after that or in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

import thalweg
from thalweg.bench.measure import Comparison, in_turns

LEAST_TURNS = 25


@dataclass(frozen=True)
class TrainingResult:
    """A network's training step with torch's fused optimizer and with ours; or ours after and in backward.

    Attributes:
        network: one of `NETWORKS`.
        optimizer: one of `PAIRS`, or `IN_BACKWARD`.
        comparison: theirs and ours, or after and in backward.
    """

    network: str
    optimizer: str
    comparison: Comparison


def _mlp() -> tuple[nn.Module, Tensor]:
    layers = [nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    return nn.Sequential(*layers), torch.randn(64, 256)


def _cnn() -> tuple[nn.Module, Tensor]:
    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]

    layers = [*block(3, 32), nn.MaxPool2d(2), *block(32, 64), nn.MaxPool2d(2), *block(64, 128)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers, *head), torch.randn(16, 3, 16, 16)


def _transformer() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    return layer, torch.randn(8, 32, 256)


NETWORKS = {"MLP": _mlp, "CNN": _cnn, "transformer block": _transformer}

PAIRS: dict[str, tuple[type, type, dict[str, float]]] = {
    "AdamW": (torch.optim.AdamW, thalweg.AdamW, {"lr": 1e-4}),
    "SGD momentum": (torch.optim.SGD, thalweg.SGD, {"lr": 1e-4, "momentum": 0.9}),
}


IN_BACKWARD = "AdamW in backward"
"""Our steps while gradients arrive, beside our steps after them."""


def _in_backward(params: list[nn.Parameter]) -> thalweg.AdamW:
    optimizer = thalweg.AdamW(params, lr=1e-4)
    optimizer.in_backward()
    return optimizer


def measure(seconds: float) -> Iterator[TrainingResult]:
    """Measure every network with every optimizer and in backward, `seconds` for each."""
    for network, make in NETWORKS.items():
        for name, (theirs, ours, settings) in PAIRS.items():
            comparison = in_turns(
                training_step(make, partial(theirs, fused=True, **settings)),
                training_step(make, partial(ours, **settings)),
                seconds,
                least=LEAST_TURNS,
            )
            yield TrainingResult(network, name, comparison)
        after, during = partial(thalweg.AdamW, lr=1e-4), _in_backward
        comparison = in_turns(
            training_step(make, after), training_step(make, during), seconds, least=LEAST_TURNS
        )
        yield TrainingResult(network, IN_BACKWARD, comparison)


class Steps(Protocol):
    """What takes steps as an optimizer does."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
        ...

    def step(self) -> object:
        """Take a step."""
        ...


def training_step(
    make: Callable[[], tuple[nn.Module, Tensor]],
    optimize: Callable[[list[nn.Parameter]], Steps],
    scale: Tensor | None = None,
) -> Callable[[], None]:
    """Return a training step of a network that is made for it.

    Args:
        make: makes the network and a batch.
        optimize: makes what updates the parameters.
        scale: what gradients are multiplied by, a number.
    """
    torch.manual_seed(0)
    model, batch = make()
    optimizer = optimize(list(model.parameters()))

    def step() -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward(scale)
        optimizer.step()

    return step
