"""The raw results as JSON, with the versions and the machine they come from."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import thalweg
from thalweg.lab.judging import explanation, levels
from thalweg.lab.judging.missing import missing
from thalweg.lab.judging.statistics import Comparison, Row
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.running.pool import available_cores
from thalweg.lab.spaces import Space, jsonable
from thalweg.lab.study import record as records
from thalweg.lab.study.protocol import is_complete
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study
from thalweg.lab.workload.errors import Doubt

SCHEMA = 2
"""The version of the JSON's layout; it grows when a reader of the old one would go wrong."""


@dataclass(frozen=True)
class Provenance:
    """Where, when and with what a study was run.

    Attributes:
        started: when this command began, with the offset from UTC.
        seconds: its wall-clock time.
        workers: processes that trained side by side.
        environment: versions and machine, by name.
        command: what was typed or called.
        task: the workload as `tasks.load` or `shipped.find` of `thalweg.lab.workload` finds it again; empty
            for an object that was passed from Python.
        data: where its data lie, if that was said.
        bought: what a budget bought; empty without one.
        found: runs that had been made before this command began.
        warnings: what makes the answer doubtful.
    """

    started: datetime
    seconds: float
    workers: int
    environment: Mapping[str, str]
    command: str = ""
    task: str = ""
    data: str | None = None
    bought: str = ""
    found: int = 0
    warnings: Sequence[Doubt] = ()


def environment() -> dict[str, str]:
    """The versions and the machine that results depend on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "thalweg": thalweg.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(available_cores()),
        **({"GPUs": ", ".join(gpus)} if gpus else {}),
    }


def to_json(study: Study, verdict: Verdict, provenance: Provenance) -> str:
    """All that was measured, as one JSON object; numbers that are not finite become null."""
    workload = study.workload
    document = {
        "schema": SCHEMA,
        **asdict(provenance),
        "warnings": [doubt._asdict() for doubt in provenance.warnings],
        "started": provenance.started.isoformat(timespec="seconds"),
        "seconds": round(provenance.seconds, 1),
        "workload": {
            "name": workload.name,
            "title": workload.title,
            "metric": workload.metric,
            "unit": workload.unit,
            "higher_is_better": workload.higher_is_better,
            "steps": workload.steps,
            "batch_size": workload.batch_size,
            "facts": dict(workload.facts()),
        },
        "settings": asdict(study.settings),
        "complete": is_complete(study),
        "verdict": {
            "kind": verdict.kind,
            "leaders": [row.space.name for row in verdict.leaders],
            "headline": verdict.headline,
            "sentence": verdict.sentence,
            "conditions": verdict.conditions,
            "notes": list(verdict.notes),
            "code": verdict.code,
            "margin": verdict.margin,
        },
        "comparisons": [_comparison(comparison) for comparison in verdict.comparisons],
        "ranking": [_row(row) for row in verdict.ranking],
        "why": _why(study),
        "spaces": [_space(study, space) for space in study.spaces],
        "records": [{"id": i, **records.to_json(record)} for i, record in enumerate(study.records)],
    }
    return json.dumps(finite(document), indent=1, allow_nan=False) + "\n"


def load(path: Path) -> dict[str, Any]:
    """Reads results back, from their file or the folder it lies in.

    Raises:
        ValueError: there is no such file, or it is no JSON of this schema.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {str(file)!r}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is no JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{str(file)!r} does not hold results of schema {SCHEMA}")
    return document


def record(document: Mapping[str, Any], number: int) -> Record:
    """The record of this id in loaded results.

    Raises:
        ValueError: there is none.
    """
    found: list[dict[str, Any]] = document["records"]
    if not found:
        raise ValueError("these results hold no records: the comparison was ended before its first run")
    if not 0 <= number < len(found):
        raise ValueError(f"--id must be from 0 to {len(found) - 1}, not {number}")
    return records.from_json(found[number])


def _row(row: Row) -> dict[str, Any]:
    trial = row.chosen.trial if row.chosen else None
    return {
        "name": row.space.name,
        "optimizer": row.space.optimizer,
        "settings": trial and records.plain(trial.settings),
        "code": trial and row.space.line(trial.settings),
        "validation": row.chosen.validation._asdict() if row.chosen and row.chosen.validation else None,
        "test": asdict(row.test) if row.test else None,
        "finished": row.finished,
        "measured": row.measured,
        "failures": row.failures,
        "seconds": row.seconds,
        "step_ms": row.step_ms,
        "state_bytes": row.state_bytes,
    }


def _why(study: Study) -> dict[str, Any]:
    """What was measured beside the final runs, over seeds; that of each is in its record."""
    if not explanation.is_measured(study):
        return {}
    quantities = {
        quantity.name: {
            "title": quantity.title,
            "unit": quantity.unit,
            "meaning": quantity.meaning,
            "finding": explanation.finding(study, quantity),
            "levels": {
                space.name: asdict(level)
                for space in study.spaces
                if (level := levels.level(study, space, quantity)) is not None
            },
        }
        for quantity in levels.QUANTITIES
    }
    return {
        "conditions": explanation.conditions(study),
        "missing": missing(study),
        "quantities": quantities,
    }


def _space(study: Study, space: Space) -> dict[str, Any]:
    return {
        "name": space.name,
        "optimizer": space.optimizer,
        "fixed": {key: jsonable(value) for key, value in space.fixed.items()},
        "changes": {key: jsonable(value) for key, value in space.changes.items()},
        "searched": [asdict(axis) for axis in study.searched(space)],
        "source": space.source,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {**asdict(comparison), "first": comparison.first.name, "second": comparison.second.name}


def finite(value: Any) -> Any:
    """The same with null for numbers that are not finite, as JSON takes it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
