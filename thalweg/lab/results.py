"""The raw results as JSON, with the versions and the machine they come from."""

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import thalweg
from thalweg.lab.pool import available_cores
from thalweg.lab.statistics import Comparison, Row
from thalweg.lab.study import Study
from thalweg.lab.trial import Record
from thalweg.lab.verdict import Verdict

SCHEMA = 1
"""The version of the JSON's layout; it grows when a reader of the old one would go wrong."""


@dataclass(frozen=True)
class Provenance:
    """Where, when and with what a study was run.

    Attributes:
        started: when it began, with the offset from UTC.
        seconds: its wall-clock time.
        workers: processes that trained side by side.
        environment: versions and machine, by name.
    """

    started: datetime
    seconds: float
    workers: int
    environment: Mapping[str, str]


def environment() -> dict[str, str]:
    """The versions and the machine that results depend on."""
    return {
        "thalweg": thalweg.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(available_cores()),
    }


def to_json(study: Study, verdict: Verdict, provenance: Provenance) -> str:
    """All that was measured, as one JSON object; numbers that are not finite become null."""
    workload = study.workload
    document = {
        "schema": SCHEMA,
        "started": provenance.started.isoformat(timespec="seconds"),
        "seconds": round(provenance.seconds, 1),
        "workers": provenance.workers,
        "environment": dict(provenance.environment),
        "workload": {
            "name": workload.name,
            "title": workload.title,
            "metric": workload.metric,
            "unit": workload.unit,
            "higher_is_better": workload.higher_is_better,
            "steps": workload.steps,
            "facts": dict(workload.facts()),
        },
        "settings": asdict(study.settings),
        "verdict": {
            "kind": verdict.kind,
            "leaders": [row.space.name for row in verdict.leaders],
            "headline": verdict.headline,
            "sentence": verdict.sentence,
            "conditions": verdict.conditions,
            "notes": list(verdict.notes),
            "code": verdict.code,
            "comparisons": [_comparison(comparison) for comparison in verdict.comparisons],
        },
        "ranking": [_row(study, row) for row in verdict.ranking],
        "records": [_record(record) for record in (*study.tuning, *study.final)],
    }
    return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"


def load(path: Path) -> dict[str, Any]:
    """Reads results back.

    Raises:
        ValueError: the file is no JSON of this schema.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{path} does not hold results of schema {SCHEMA}")
    return document


def _row(study: Study, row: Row) -> dict[str, Any]:
    return {
        **asdict(row.space),
        "lr": row.chosen.trial.lr if row.chosen else None,
        "on_border": study.on_border(row.space),
        "code": row.space.code(row.chosen.trial.lr) if row.chosen else None,
        "validation": row.chosen.validation._asdict() if row.chosen and row.chosen.validation else None,
        "test": asdict(row.test) if row.test else None,
        "failures": row.failures,
        "seconds": row.seconds,
        "step_ms": row.step_ms,
        "state_bytes": row.state_bytes,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "first": comparison.first.name,
        "second": comparison.second.name,
        "difference": asdict(comparison.difference),
        "wins": comparison.wins,
        "losses": comparison.losses,
        "relation": comparison.relation,
    }


def _record(record: Record) -> dict[str, Any]:
    return {
        "stage": record.trial.stage,
        "optimizer": record.trial.space.name,
        "lr": record.trial.lr,
        "seed": record.trial.seed,
        "validation": record.validation._asdict() if record.validation else None,
        "test": record.test._asdict() if record.test else None,
        "diverged_at": record.diverged_at,
        "state_bytes": record.state_bytes,
        **asdict(record.timing),
        "curve": [point._asdict() for point in record.curve],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
