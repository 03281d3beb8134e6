"""The files that keep the lesson's records, one an experiment: compressed JSON, equal for equal runs."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.study import record as records
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study
from thalweg.lab.workload import Workload
from thalweg.lowering.files import write_atomically

SCHEMA = 1
"""The version of the layout."""

FOLDER = "records"
"""Where they lie, below the lesson's folder."""

TOLD = (
    "name",
    "title",
    "metric",
    "unit",
    "difference_unit",
    "higher_is_better",
    "steps",
    "evaluate_every",
    "batch_size",
)
"""What is kept of a workload beside its facts."""


class Described:
    """Stands for a workload whose data are not loaded: what the statistics and the page ask of one."""

    margin: float | None = None
    target: float | None = None
    spaces: Sequence[Any] = ()

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in told.items() if name != "facts"})
        self._facts = dict(told["facts"])

    def facts(self) -> Mapping[str, str]:
        """As the workload gave them."""
        return self._facts


@dataclass(frozen=True)
class Kept:
    """What a file holds.

    Attributes:
        workload: what was trained, described.
        depends: digests of what the records depend on, by part; see `thalweg.lab.comparing.identity`.
        sittings: when, where and with what the runs were made: each a time, versions and the machine.
        records: all runs.
    """

    workload: Mapping[str, Any]
    depends: Mapping[str, str] = field(default_factory=dict)
    sittings: Sequence[Mapping[str, str]] = ()
    records: Sequence[Record] = ()


def path_of(folder: Path, experiment: Experiment) -> Path:
    """The file of an experiment."""
    return folder / FOLDER / f"{experiment.name}{'-quick' if experiment.quick else ''}.json.gz"


def read(folder: Path, experiment: Experiment) -> Kept | None:
    """What is kept of an experiment; None if nothing is.

    Raises:
        ValueError: the file is damaged, or of a later version.
    """
    path = path_of(folder, experiment)
    try:
        document = json.loads(gzip.decompress(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{str(path)!r} does not hold records of schema {SCHEMA}")
    return Kept(
        document["workload"],
        document["depends"],
        document["sittings"],
        [records.from_json(one) for one in document["records"]],
    )


def write(folder: Path, experiment: Experiment, kept: Kept) -> Path:
    """Keeps all of it, whole or not at all, and gives the file.

    Raises:
        OSError: it cannot be written.
    """
    document = {
        "schema": SCHEMA,
        "experiment": experiment.name,
        "workload": dict(kept.workload),
        "depends": dict(kept.depends),
        "sittings": [dict(sitting) for sitting in kept.sittings],
        "records": [records.to_json(record) for record in kept.records],
    }
    path = path_of(folder, experiment)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the time of day, so that the same records are the same file.
    write_atomically(path, gzip.compress(json.dumps(document, separators=(",", ":")).encode(), 9, mtime=0))
    return path


def described(workload: Workload) -> dict[str, Any]:
    """What is kept of a workload."""
    return {name: getattr(workload, name, None) for name in TOLD} | {"facts": dict(workload.facts())}


def study_of(experiment: Experiment, kept: Kept) -> Study:
    """The experiment with the records that are kept, as the statistics take it."""
    stands_in: Any = Described(kept.workload)
    return experiment.read(
        experiment.study(stands_in, [record for record in kept.records if not record.lost])
    )
