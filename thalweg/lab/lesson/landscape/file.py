"""What was measured of a landscape, and the file that keeps it: compressed JSON."""

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thalweg.lowering.files import write_atomically

SCHEMA = 1
"""The version of the layout."""

DIGITS = 4
"""That count of what is kept: more could not be seen."""


@dataclass(frozen=True)
class Course:
    """A run from the common start.

    Attributes:
        name: of its arm, such as ``sgd-momentum``.
        line: of Python that builds its optimizer.
        rate: its learning rate.
        origin: where the rate comes from, in words.
        steps: at which its weights were kept, the first 0.
        losses: the training loss there, means over the batches.
        errors: their standard errors.
        metric: on validation, at the end.
        sharpness: the largest eigenvalue of the Hessian of the training loss at the end.
        residual: within so much of it lies an eigenvalue.
    """

    name: str
    line: str
    rate: float
    origin: str
    steps: Sequence[int]
    losses: Sequence[float]
    errors: Sequence[float]
    metric: float
    sharpness: float
    residual: float


@dataclass(frozen=True)
class View:
    """The plane through the start and the ends of two runs, in the units of weights.

    Attributes:
        ends: the names of the two; the first coordinate points to the end of the first.
        xs: first coordinates of the grid.
        ys: second ones.
        losses: the training loss there, a list for each y; None where it is not finite.
        errors: their standard errors.
        paths: of every run, the nearest points of the plane at its steps.
        distances: of every run, how far it is from the plane at its steps.
        shares: the same as a share of its distance from the start there.
    """

    ends: Sequence[str]
    xs: Sequence[float]
    ys: Sequence[float]
    losses: Sequence[Sequence[float | None]]
    errors: Sequence[Sequence[float | None]]
    paths: Mapping[str, Sequence[Sequence[float]]]
    distances: Mapping[str, Sequence[float]]
    shares: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Between:
    """The straight line between the ends of two runs; see `thalweg.lab.landscape.Line`."""

    ends: Sequence[str]
    positions: Sequence[float]
    losses: Sequence[float]
    errors: Sequence[float]
    height: float
    height_error: float


@dataclass(frozen=True)
class Landscape:
    """All that was measured on one workload.

    Attributes:
        workload: its name.
        title: the model and the data.
        metric: the name of its metric.
        unit: after a number of it.
        parameters: how many the model has.
        seed: of the initial weights and the order of the data, the same for all runs.
        batches: on how many batches of training data a loss is measured.
        batch_size: of how many examples each.
        start: the largest eigenvalue at the start.
        courses: the runs.
        views: a plane for each two of them.
        lines: likewise.
        sitting: when, where and with what it was measured.
    """

    workload: str
    title: str
    metric: str
    unit: str
    parameters: int
    seed: int
    batches: int
    batch_size: int
    start: float
    courses: Sequence[Course]
    views: Sequence[View]
    lines: Sequence[Between]
    sitting: Mapping[str, str]


def path_of(folder: Path, workload: str, *, quick: bool = False) -> Path:
    """The file of a workload."""
    return folder / f"landscape-{workload}{'-quick' if quick else ''}.json.gz"


def read(folder: Path, workload: str, *, quick: bool = False) -> Landscape | None:
    """What is kept of a workload; None if nothing is.

    Raises:
        ValueError: the file is damaged, or of another version.
    """
    path = path_of(folder, workload, quick=quick)
    try:
        document = json.loads(gzip.decompress(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from None
    if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
        raise ValueError(f"{str(path)!r} does not hold a landscape of schema {SCHEMA}")
    kinds: tuple[tuple[str, type[Any]], ...] = (("courses", Course), ("views", View), ("lines", Between))
    parts: dict[str, Any] = {name: [kind(**one) for one in document[name]] for name, kind in kinds}
    return Landscape(**{**document, **parts})


def write(folder: Path, landscape: Landscape, *, quick: bool = False) -> Path:
    """Keeps it, whole or not at all, and gives the file.

    Raises:
        OSError: it cannot be written.
    """
    document = {"schema": SCHEMA, **_rounded(asdict(landscape))}
    path = path_of(folder, landscape.workload, quick=quick)
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    write_atomically(path, gzip.compress(text.encode(), 9, mtime=0))
    return path


def _rounded(value: Any) -> Any:
    """Numbers with the digits that count; what is not finite is None."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
