"""The table of steps on a GPU: a row, and its line."""

from __future__ import annotations

from dataclasses import dataclass, field

from thalweg.bench.measure import Comparison


@dataclass(frozen=True)
class Row:
    """A line of the table: our step beside another.

    Attributes:
        algorithm, storage, set: of the case.
        rival: what ours is measured beside.
        failure: why there are no figures; empty if there are.
        loop, device, host: the comparisons, baseline the rival.
        share: what our step moves a second beside what a copy does, where it was measured.
        peak: bytes that our step allocates at most, as a share of parameters, gradients and state.
        rival_peak: the rival's.
        goals: what was to be reached, with whether it was.
    """

    algorithm: str
    storage: str
    set: str
    rival: str
    failure: str = ""
    loop: Comparison | None = None
    device: Comparison | None = None
    host: Comparison | None = None
    share: float | None = None
    peak: float | None = None
    rival_peak: float | None = None
    goals: list[tuple[str, bool]] = field(default_factory=list)


HEADER = (
    f"{'algorithm':28}{'storage':19}{'set':22}{'beside':21}{'device ms':>10}{'host us':>9}"
    f"{'ratio':>7} {'[quartiles]':15}{'device':>7}{'host':>7}{'copy':>6}{'peak':>7}{'its':>7}  goals"
)
"""The table's first line. `device ms`, `host us`, `copy` and `peak` are ours; `its` is the other's peak; the
ratios are the other's time over ours."""


def line(row: Row) -> str:
    """Return a row of the table."""
    begun = f"{row.algorithm:28}{row.storage:19}{row.set:22}{row.rival:21}"
    if row.loop is None or row.device is None or row.host is None:
        return begun + row.failure
    quartiles = f"[{row.loop.low:.2f}, {row.loop.high:.2f}]"
    said = ", ".join(f"{text}: {'met' if met else 'MISSED'}" for text, met in row.goals)
    return (
        f"{begun}{row.device.ours * 1e3:10.3f}{row.host.ours * 1e6:9.0f}{row.loop.ratio:7.2f} {quartiles:15}"
        f"{row.device.ratio:7.2f}{row.host.ratio:7.2f}{_percent(row.share, 6, 0)}{_percent(row.peak, 7, 2)}"
        f"{_percent(row.rival_peak, 7, 1)}  {said}"
    )


def _percent(value: float | None, width: int, digits: int) -> str:
    return " " * width if value is None else f"{value:{width}.{digits}%}"
