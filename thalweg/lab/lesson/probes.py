"""Workloads that measure something else than how well a model does; each wraps one of the lab's."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.lab.workload import Evaluation, Split, Workload

EARLY = 100
"""Steps among which the largest early one is looked for."""


class EarlySteps(Workload):
    """How much larger the largest of the first 100 steps is than a steady one.

    The size of a step is the largest change of an element over the learning rate, max |dw| / lr; the steady
    size is the median over the steps after the first 100.

    Args:
        base: what is trained, at a constant rate.
        steps: in all, more than 100.
    """

    metric = "largest early step over a steady one"
    schedule = "constant"

    def __init__(self, base: Workload, steps: int = 300) -> None:
        base.steps = self.steps = self.evaluate_every = steps
        self.base, self.batch_size, self.clip_norm = base, base.batch_size, base.clip_norm
        self.name, self.title = f"early-steps-{base.name}", f"sizes of steps, {base.title}"
        self.sizes: list[float] = []

    def model(self, seed: int) -> nn.Module:
        """That of the base."""
        return self.base.model(seed)

    def batches(self, seed: int) -> Iterator[Any]:
        """Those of the base."""
        return self.base.batches(seed)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """That of the base."""
        return self.base.loss(model, batch)

    def training_loop(self, run: Any) -> Iterator[float]:
        """The base's steps, with a look at each."""
        parameters = list(run.model.parameters())
        for batch in self.batches(run.seed):
            before = [p.detach().clone() for p in parameters]
            lr = run.optimizer.param_groups[0]["lr"]
            loss = run.update(self.loss(run.model, batch))
            moved = (float((p.detach() - old).abs().max()) for p, old in zip(parameters, before, strict=True))
            self.sizes.append(max(moved) / lr)
            yield loss

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """The ratio as the metric; 1 before there are enough steps."""
        steady = statistics.median(self.sizes[EARLY:]) if len(self.sizes) > EARLY else 0.0
        ratio = max(self.sizes[:EARLY]) / steady if steady else 1.0
        return Evaluation(ratio, self.base.evaluate(model, split).loss)

    def facts(self) -> Mapping[str, str]:
        """Those of the base."""
        return {**self.base.facts(), "Training": f"{self.steps} steps at a constant rate"}


class DoubleWell(Workload):
    """Particles that begin in the shallow one of two wells, under gradient noise of batches.

    Each of 256 particles has f(x) = x^4 / 4 - x^2 / 2 + x / 10: wells near x = 0.95, shallow, and x = -1.05,
    a barrier of 0.16 between them as seen from the shallow one. A batch of B of `examples` examples adds to
    the gradient a normal number of variance (1 - B / examples) / B: none where the batch is all of them.
    Escaped are particles that end in the deep well.
    """

    name = "double-well"
    title = "particles in a double well"
    metric, unit, difference_unit = "escaped", "%", "points"
    higher_is_better = True
    schedule = "constant"
    steps = evaluate_every = 1000
    batch_size = 1
    particles, examples, shallow, barrier = 256, 1024, 0.9456, 0.1010

    def model(self, seed: int) -> nn.Module:
        """All particles at the bottom of the shallow well."""
        return Points(torch.full((self.particles,), self.shallow))

    def batches(self, seed: int) -> Iterator[Tensor]:
        """The noise of each step."""
        generator = torch.Generator().manual_seed(seed)
        deviation = ((1 - self.batch_size / self.examples) / self.batch_size) ** 0.5
        for _ in range(self.steps):
            yield deviation * torch.randn(self.particles, generator=generator)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """The sum over the particles, tilted by the noise."""
        x = model()
        return (x**4 / 4 - x**2 / 2 + x / 10 + batch * x).sum()

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """The share of particles beyond the barrier, and the mean of f."""
        x = model()
        return Evaluation(
            100 * float((x < self.barrier).float().mean()), float((x**4 / 4 - x**2 / 2 + x / 10).mean())
        )

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        return {"Data": "none", "Model": f"{self.particles} particles", "Training": f"{self.steps} steps"}


class Points(nn.Module):
    """Numbers that are trained."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start)

    def forward(self) -> Tensor:
        """The numbers."""
        return self.x


class Leaving(Workload):
    """Whether training leaves the minimum that the full batch converged to.

    Full-batch descent, then `steps` steps of the optimizer at `batch_size`, then full-batch descent again.
    A run has escaped if the training loss on the straight line between the two ends rises over both by more
    than `apart` nats.

    Args:
        base: a classification of few examples.
        steps: of the optimizer in between.
    """

    metric, unit, difference_unit = "escaped", "%", "points"
    higher_is_better = True
    schedule = "constant"
    settling, rate, apart, between = 400, 0.2, 0.05, 11

    def __init__(self, base: Workload, batch_size: int = 16, steps: int = 300) -> None:
        self.base, self.batch_size = base, batch_size
        self.steps = self.evaluate_every = steps
        self.name, self.title = f"leaving-{base.name}", f"leaving a minimum, {base.title}"
        self.escaped = 0.0

    def model(self, seed: int) -> nn.Module:
        """That of the base."""
        return self.base.model(seed)

    def batches(self, seed: int) -> Iterator[Any]:
        """Those of the base, of this one's size."""
        self.base.steps, self.base.batch_size = self.steps, self.batch_size
        return self.base.batches(seed)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """That of the base."""
        return self.base.loss(model, batch)

    def training_loop(self, run: Any) -> Iterator[float]:
        """Down, away, down again, and along the line."""
        whole = self.whole()
        self.settle(run.model, whole)
        first = [p.detach().clone() for p in run.model.parameters()]
        for step, batch in enumerate(self.batches(run.seed), 1):
            loss = run.update(self.loss(run.model, batch))
            if step == self.steps:
                self.settle(run.model, whole)
                self.escaped = 100.0 * (self.rise(run.model, first, whole) > self.apart)
            yield loss

    def whole(self) -> Any:
        """All that is trained on, as one batch."""
        base: Any = self.base
        return base.batch(base.rows["train"])

    def settle(self, model: nn.Module, batch: Any) -> None:
        """Full-batch gradient descent with momentum."""
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate, momentum=0.9)
        for _ in range(self.settling):
            optimizer.zero_grad()
            self.loss(model, batch).backward()
            optimizer.step()

    @torch.no_grad()
    def rise(self, model: nn.Module, first: list[Tensor], batch: Any) -> float:
        """The highest loss on the line from `first` to the model, above the higher end."""
        last, losses = [p.clone() for p in model.parameters()], []
        for place in torch.linspace(0, 1, self.between):
            for p, a, b in zip(model.parameters(), first, last, strict=True):
                p.copy_(torch.lerp(a, b, float(place)))
            losses.append(float(self.loss(model, batch)))
        return max(losses) - max(losses[0], losses[-1])

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """100 if the run has escaped, else 0."""
        return Evaluation(self.escaped, self.base.evaluate(model, split).loss)

    def facts(self) -> Mapping[str, str]:
        """Those of the base."""
        training = (
            f"{self.settling} full-batch steps, {self.steps} of the optimizer, {self.settling} full-batch"
        )
        return {**self.base.facts(), "Training": training}
