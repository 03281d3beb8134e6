"""What may be said of a claim: supported, refuted, inconclusive; and how much of a gap a remedy closes."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from thalweg.lab.judging.statistics import holm
from thalweg.lab.study.intervals import flip_p, guarded
from thalweg.lab.study.looks import ERROR

Kind = Literal["supported", "refuted", "inconclusive", "not run"]

POWER = 0.8
"""The chance with which the seeds that it would take would tell."""


@dataclass(frozen=True)
class Verdict:
    """What the primary endpoint of a claim says.

    Attributes:
        kind: ``supported`` if the whole interval lies beyond the margin in the claimed direction and p,
            adjusted for all claims, is at most 0.05; ``refuted`` if the whole interval lies on the other
            side of the margin.
        mean: of the endpoint over the seeds.
        low: the lower end of the 95 % interval.
        high: the upper end.
        p: of the two-sided sign-flip test that the endpoint is at the margin.
        p_holm: the same, adjusted for all claims of the lesson (Holm 1979).
        seeds: paired seeds there are.
        needed: seeds that it would take, of one that is inconclusive.
    """

    kind: Kind
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = 1.0
    p_holm: float = 1.0
    seeds: int = 0
    needed: float | None = None


NOT_RUN = Verdict("not run")


def measured(values: Sequence[float], margin: float) -> Verdict:
    """The verdict on one claim, before p is adjusted.

    Args:
        values: the endpoint on each seed, larger in favour of the claim.
        margin: how much the claim has to be worth.
    """
    ends = guarded(tuple(values), ERROR) if values else None
    if ends is None:
        return NOT_RUN if not values else Verdict("inconclusive", statistics.fmean(values), seeds=len(values))
    p, (low, high) = flip_p(values, margin), ends
    return _read(
        Verdict("inconclusive", statistics.fmean(values), low, high, p, p, len(values)), values, margin
    )


def _read(verdict: Verdict, values: Sequence[float], margin: float) -> Verdict:
    kind: Kind = "inconclusive"
    if verdict.low > margin and verdict.p_holm <= ERROR:
        kind = "supported"
    elif verdict.high < margin:
        kind = "refuted"
    needed = needed_seeds(values, margin) if kind == "inconclusive" else None
    return replace(verdict, kind=kind, needed=needed)


def together(
    values: Mapping[str, Sequence[float]], margins: Mapping[str, float], claims: int | None = None
) -> dict[str, Verdict]:
    """The verdicts on all claims, with p adjusted for all of them.

    Args:
        values: by claim, as in `measured`; empty for those that have not been run.
        margins: by claim.
        claims: how many claims there are in all; those that are not among `values` count with a p of 1.
    """
    names = list(values)
    verdicts = [measured(values[name], margins[name]) for name in names]
    unknown = [1.0] * max(0, (claims or 0) - len(names))
    adjusted = holm([*(verdict.p for verdict in verdicts), *unknown])
    return {
        name: verdict
        if verdict.kind == "not run" or math.isnan(verdict.low)
        else _read(replace(verdict, p_holm=p), values[name], margins[name])
        for name, verdict, p in zip(names, verdicts, adjusted, strict=False)
    }


def needed_seeds(values: Sequence[float], margin: float) -> float:
    """How many seeds would tell, with a chance of 80 %; infinite where the mean lies on the margin."""
    if len(values) < 2:
        return math.inf
    gap = abs(statistics.fmean(values) - margin)
    quantile = float(stats.norm.ppf(1 - ERROR / 2) + stats.norm.ppf(POWER))
    return max(len(values) + 1.0, (quantile * statistics.stdev(values) / gap) ** 2) if gap else math.inf


@dataclass(frozen=True)
class Closed:
    """How much of a gap a remedy closes.

    Attributes:
        without: mean of the complaint's endpoint without the remedy, larger is better.
        remedied: the same with it.
        rival: the same of the best rival.
        share: (remedied - without) / (rival - without); None where no rival is told to be ahead.
        low: the lower end of its 95 % interval.
        high: the upper end.
        seeds: paired seeds.
        leads: whether it is ahead of every rival without the remedy.
    """

    without: float
    remedied: float
    rival: float
    share: float | None
    low: float
    high: float
    seeds: int
    leads: bool = False

    @property
    def no_gap(self) -> str:
        """Why there is no share."""
        return "no gap: ahead of the rival without it" if self.leads else "no gap that is told from zero"

    def text(self) -> str:
        """The share in words."""
        if self.share is None:
            return f"{self.no_gap}, so none to close"
        if self.seeds == 1:
            return f"closes {percent(self.share)} of the gap"
        ends = f"{percent(self.low)} to {percent(self.high)}"
        return f"closes {percent(self.share)} of the gap (95 %: {ends})"


def percent(value: float) -> str:
    """A share in words."""
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "more than all" if value > 0 else "less than nothing"
    return f"{100 * value:.0f} %"


FARTHEST = 64.0
"""How far from the share an end of its interval is looked for; one that is not found is said to be open."""


def closed(without: Sequence[float], remedied: Sequence[float], rival: Sequence[float]) -> Closed:
    """The share of the gap that is closed, with Fieller's interval, by sign flips.

    A share r is within it if (remedied - without) - r (rival - without) is not told from zero (Fieller 1954,
    "Some problems in interval estimation", JRSS B 16). Each of shape (n,), paired by seed, larger is better.
    """
    gains = np.subtract(remedied, without)
    gaps = np.subtract(rival, without)
    means = float(np.mean(without)), float(np.mean(remedied)), float(np.mean(rival))
    if len(gains) == 1:  # counted, not measured
        share = float(gains[0] / gaps[0]) if gaps[0] > 0 else None
        return Closed(*means, share, share or math.nan, share or math.nan, 1, leads=bool(gaps[0] < 0))
    apart = guarded(tuple(map(float, gaps)), ERROR)
    if apart is None or apart[0] <= 0:
        return Closed(*means, None, -math.inf, math.inf, len(gains), leads=apart is not None and apart[1] < 0)
    share = float(gains.mean() / gaps.mean())
    low, high = (_end(gains, gaps, share, direction) for direction in (-1.0, 1.0))
    return Closed(*means, share, low, high, len(gains))


def _end(gains: np.ndarray, gaps: np.ndarray, share: float, direction: float) -> float:
    """The last share in one direction that is not told from what was found, which itself never is."""
    reach = 1 / 64
    while _holds_zero(gains - (share + direction * reach) * gaps):
        reach *= 2
        if reach > FARTHEST:
            return direction * math.inf
    inside, outside = reach / 2 if reach > 1 / 64 else 0.0, reach
    for _ in range(12):
        middle = (inside + outside) / 2
        if _holds_zero(gains - (share + direction * middle) * gaps):
            inside = middle
        else:
            outside = middle
    return share + direction * inside


def _holds_zero(values: np.ndarray) -> bool:
    ends = guarded(tuple(map(float, values)), ERROR)
    return ends is None or ends[0] <= 0 <= ends[1]
