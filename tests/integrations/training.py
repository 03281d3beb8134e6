"""A tiny model and its data, and how two trained models are compared."""

from __future__ import annotations

import torch
from support import assert_close
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

BATCHES = 6


def network() -> nn.Sequential:
    """Return the same network every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))


def samples() -> tuple[Tensor, Tensor]:
    """Return inputs and targets, the same every time."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4 * BATCHES, 8, generator=generator)
    return x, 10 * x[:, :1] + x[:, 1:2] ** 2


def batches() -> DataLoader:
    """Return them in batches, in order."""
    return DataLoader(TensorDataset(*samples()), batch_size=4)


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return nn.functional.mse_loss(model(x).float(), y)


def assert_trained_alike(model: nn.Module, other: nn.Module, rtol: float = 1e-5) -> None:
    """Compare two models that have trained, and not nothing."""
    begun = network().state_dict()
    for name, weights in other.state_dict().items():
        assert name not in begun or not torch.equal(weights, begun[name])
        assert_close(model.state_dict()[name], weights, rtol)


def assert_equal(model: nn.Module, other: nn.Module) -> None:
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
