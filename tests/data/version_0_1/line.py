"""A task as a user of version 0.1 had one; its studies are beside it."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from thalweg.lab.workload import Evaluation, Split, Workload


class Line(Workload):
    """Fits a line to noisy points."""

    name = "line"
    steps = 20
    batch_size = 8
    evaluate_every = 10

    def model(self, seed: int) -> nn.Module:
        """A new model."""
        return nn.Linear(2, 1)

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Points in the plane."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            yield torch.randn(8, 2, generator=generator)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """The squared error."""
        return (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """The squared error at other points."""
        points = torch.randn(64, 2, generator=torch.Generator().manual_seed(1 if split == "test" else 2))
        error = self.loss(model, points).item()
        return Evaluation(error, error)
