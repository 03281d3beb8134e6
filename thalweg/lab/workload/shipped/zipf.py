"""Sparse inputs whose frequencies follow Zipf's law, with a known truth: classes of ids, and ratings of
pairs.

The k-th most frequent of n ids is drawn with a probability proportional to k^-exponent: 1 is about what words
have, 0 draws all alike, which is the control. Only the rows of the ids in a batch have a gradient. Examples
are drawn anew for each batch, none comes twice; what is evaluated is the expectation over all examples,
computed exactly from the truth, so validation and test are the same and nothing can be overfitted to them.
How well the rarest tenth of the ids is learned, each of them weighing the same, stands beside the total in
`further`, and is the metric with ``judged="rarest"``.

All ids are equally hard: the same noise and the same distribution of what is to be learned. The numbers
(1,000 ids, 10 classes, 64,000 examples, of which the rarest id has about 9) are round ones, chosen so that
every id is seen and a run takes a second; no optimizer was run to choose them. Kunstner et al. (2024, arXiv
2402.19449) ask what heavy tails of classes do to gradient descent; here the inputs have the tail.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload.contract import Evaluation, Split, Workload, device_of
from thalweg.lab.workload.shipped import options

PROBLEM_SEED = 0
"""Of the truth: the same in all runs."""

RAREST = 10
"""One in so many ids is among the rarest."""

OWN = ("ids", "exponent", "noise", "sparse", "judged")


class _Ids(Workload):
    """What both have in common."""

    metric = "loss"
    ids: int = 1000
    exponent: float = 1.0
    noise: float = 0.1
    sparse: bool = False
    judged: Literal["all", "rarest"] = "all"

    def __init__(self, **given: Any) -> None:
        options.take(self, self._own(), given)
        options.count("ids", self.ids, RAREST)
        options.require(0 <= self.exponent < math.inf, "exponent", "a number of at least 0", self.exponent)
        options.share("noise", self.noise)
        options.require(self.judged in ("all", "rarest"), "judged", "'all' or 'rarest'", self.judged)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """The expected loss: of the rarest ids as the metric if these are `judged`; of all as the loss."""
        total, rarest = self._losses(model)
        return Evaluation(rarest if self.judged == "rarest" else total, total)

    def further(self, model: nn.Module, split: Split) -> Mapping[str, float]:
        """The loss of all, of the rarest tenth of the ids, and of who knows the truth."""
        total, rarest = self._losses(model)
        return {"all": total, "rarest": rarest, "least": self.least()}

    def least(self) -> float:
        """The loss of whoever knows the truth, for each id."""
        raise NotImplementedError

    def _own(self) -> tuple[str, ...]:
        return OWN

    def _losses(self, model: nn.Module) -> tuple[float, float]:
        """The expected loss of all examples and of those of the rarest ids."""
        each = self._by_id(model).double().cpu()
        total = float(each @ torch.from_numpy(frequencies(self.ids, self.exponent)))
        return total, each[-(self.ids // RAREST) :].mean().item()

    def _by_id(self, model: nn.Module) -> Tensor:
        """The expected loss of the examples of each id, (ids,)."""
        raise NotImplementedError

    def _facts(self) -> dict[str, str]:
        rarest = frequencies(self.ids, self.exponent)[-1] * self.steps * self.batch_size
        return {
            "Ids": f"{self.ids:,}, drawn with probabilities proportional to rank^-{self.exponent:g}; the "
            f"rarest comes {rarest:.1f} times on average",
            "Loss": f"expected, exact; at least {self.least():.4f}; the metric is that of "
            f"{'the rarest tenth of the ids' if self.judged == 'rarest' else 'all'}",
            "Training": f"batches of {self.batch_size}, {self.steps:,} steps, new examples each, "
            f"{'row-sparse' if self.sparse else 'dense'} gradients",
            **options.facts(self, self._own()),
        }


class Zipf(_Ids):
    """A linear softmax classifier of single ids; see `thalweg.lab.workload.Workload`.

    Each id has a class. An example has the class of its id or, with probability `noise`, one that is drawn
    evenly from all.

    Args:
        given: options: `ids`, `exponent`, `noise` (below 1), `sparse` for row-sparse gradients, `judged`; and
            those of `thalweg.lab.workload.shipped.options`, such as `batch_size`.

    Raises:
        ValueError: an option has a value that is not allowed.
    """

    name = "zipf"
    title = "a linear classifier of ids that follow Zipf's law"
    difference_unit = "nats"
    batch_size = 64
    steps = 1000
    evaluate_every = 50
    classes = 10

    def model(self, seed: int) -> nn.Module:
        """10,010 parameters: a row of 10 logits for each of 1,000 ids, and a bias; deviation 0.01 and
        zero."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Rows(self.ids, self.classes, self.sparse)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and classes, int64 of shape (batch_size,) each."""
        generator = np.random.default_rng(seed)
        truth = class_of_each(self.ids, self.classes)
        for _ in range(self.steps):
            ids = drawn(generator, self.ids, self.exponent, self.batch_size)
            others = generator.integers(0, self.classes, self.batch_size)
            noisy = generator.random(self.batch_size) < self.noise
            yield torch.from_numpy(ids), torch.from_numpy(np.where(noisy, others, truth[ids]))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy in nats."""
        ids, classes = batch
        return functional.cross_entropy(model(ids), classes)

    def least(self) -> float:
        """The entropy of a class where the id is known, in nats."""
        right, wrong = self._probabilities()
        return -sum(p * math.log(p) for p in (right, *[wrong] * (self.classes - 1)) if p)

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        return {
            "Data": f"synthetic: each id has one of {self.classes} classes, an example another with "
            f"probability {(self.classes - 1) * self._probabilities()[1]:.2g}",
            "Model": f"a row of logits for each id and a bias: {(self.ids + 1) * self.classes:,} parameters, "
            "float32",
            **self._facts(),
        }

    def _probabilities(self) -> tuple[float, float]:
        """Of the class of an id, and of each other class."""
        wrong = self.noise / self.classes
        return 1 - (self.classes - 1) * wrong, wrong

    def _by_id(self, model: nn.Module) -> Tensor:
        logits = model(torch.arange(self.ids, device=device_of(model)))
        nats = -functional.log_softmax(logits.double(), dim=1)
        right, wrong = self._probabilities()
        truth = torch.from_numpy(class_of_each(self.ids, self.classes)).to(nats.device)
        own = nats.gather(1, truth[:, None])[:, 0]
        return right * own + wrong * (nats.sum(dim=1) - own)


class ZipfFactors(_Ids):
    """Matrix factorisation of ratings whose users and items follow Zipf's law both.

    A rating is the product of the vectors of its user and its item plus normal noise of deviation `noise`.
    The true vectors have normal elements, so that ratings without noise have variance 1 over all pairs alike.
    The rarest tenth is that of the items, whose users are drawn as ever.

    Args:
        given: options: `ids`, the number of users and that of items; `exponent`, `noise`, `sparse`, `judged`,
            `rank`, of the truth and the model; and those of `thalweg.lab.workload.shipped.options`.

    Raises:
        ValueError: an option has a value that is not allowed.
    """

    name = "zipf-factors"
    title = "matrix factorisation of ratings by users and items that follow Zipf's law"
    batch_size = 64
    steps = 2000
    evaluate_every = 100
    ids: int = 200
    rank: int = 4

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        options.count("rank", self.rank)

    def model(self, seed: int) -> nn.Module:
        """1,600 parameters: a vector of 4 for each of 200 users and 200 items, normal of deviation 0.1."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Factors(self.ids, self.rank, self.sparse)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Users and items, int64, and ratings, float32, of shape (batch_size,) each."""
        generator = np.random.default_rng(seed)
        truth = ratings_of_all(self.ids, self.rank)
        for _ in range(self.steps):
            users, items = (drawn(generator, self.ids, self.exponent, self.batch_size) for _ in range(2))
            ratings = truth[users, items] + self.noise * generator.standard_normal(self.batch_size)
            yield torch.from_numpy(users), torch.from_numpy(items), torch.from_numpy(ratings).float()

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Mean squared error."""
        users, items, ratings = batch
        return functional.mse_loss(model(users, items), ratings)

    def least(self) -> float:
        """The variance of the noise."""
        return self.noise**2

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        return {
            "Data": f"synthetic: ratings of {self.ids} x {self.ids} pairs of rank {self.rank} and variance "
            f"1, with noise of deviation {self.noise:g}",
            "Model": f"a vector of {self.rank} for each user and item: {2 * self.ids * self.rank:,} "
            "parameters, float32",
            **self._facts(),
        }

    def _own(self) -> tuple[str, ...]:
        return (*OWN, "rank")

    def _by_id(self, model: nn.Module) -> Tensor:
        every = torch.arange(self.ids, device=device_of(model))
        predicted = model(every[:, None], every).double().cpu()
        squares = (predicted - torch.from_numpy(ratings_of_all(self.ids, self.rank))).square()
        return torch.from_numpy(frequencies(self.ids, self.exponent)) @ squares + self.noise**2


class Rows(nn.Module):
    """Logits (n, classes) of ids (n,)."""

    def __init__(self, ids: int, classes: int, sparse: bool) -> None:
        super().__init__()
        self.logits = nn.Embedding(ids, classes, sparse=sparse)
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.normal_(self.logits.weight, std=0.01)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, (n, classes)."""
        logits: Tensor = self.logits(ids) + self.bias
        return logits


class Factors(nn.Module):
    """Products of the vectors of users and items, whose shapes broadcast."""

    def __init__(self, ids: int, rank: int, sparse: bool) -> None:
        super().__init__()
        self.users, self.items = (nn.Embedding(ids, rank, sparse=sparse) for _ in range(2))
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Products, of the shape that both have together."""
        product: Tensor = (self.users(users) * self.items(items)).sum(dim=-1)
        return product


@lru_cache(maxsize=8)
def frequencies(ids: int, exponent: float) -> np.ndarray:
    """The probability of each id, from the most frequent to the rarest; they add up to 1."""
    weights = np.arange(1, ids + 1) ** -float(exponent)
    return weights / weights.sum()


def drawn(generator: np.random.Generator, ids: int, exponent: float, count: int) -> np.ndarray:
    """So many ids, int64, with these frequencies."""
    edges = np.cumsum(frequencies(ids, exponent)[:-1])
    return np.searchsorted(edges, generator.random(count), side="right")


@lru_cache(maxsize=8)
def class_of_each(ids: int, classes: int) -> np.ndarray:
    """The class of each id, int64."""
    return np.random.default_rng(PROBLEM_SEED).integers(0, classes, ids)


@lru_cache(maxsize=8)
def ratings_of_all(ids: int, rank: int) -> np.ndarray:
    """The ratings without noise, (users, items)."""
    users, items = np.random.default_rng(PROBLEM_SEED).standard_normal((2, ids, rank))
    return users @ items.T / math.sqrt(rank)
