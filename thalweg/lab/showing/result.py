"""What a comparison gives back in Python: the tables and pictures of the report, and the report itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from thalweg.lab.judging import measures
from thalweg.lab.judging.statistics import Row
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.showing import figures, pages, report, results
from thalweg.lab.showing.results import Provenance
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study
from thalweg.lowering import files

FRAME_HEIGHT = 900
"""Pixels of the window in which a notebook shows a result."""


@dataclass(frozen=True, repr=False)
class Result:
    """A comparison, finished or not. A notebook shows it with verdict, ranking and pictures.

    Attributes:
        study: all records, with the workload and what was asked for.
        verdict: the answer, with its ranking and all pairwise comparisons.
        provenance: where, when and with what it was run.
    """

    study: Study
    verdict: Verdict
    provenance: Provenance

    @property
    def ranking(self) -> list[dict[str, Any]]:
        """A row for each optimizer, best first; `pandas.DataFrame` takes the list as it is."""
        level = measures.target(self.study)
        return [self._ranked(row, level) for row in self.verdict.ranking]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """A row for each run, with the hyperparameters as columns of their own; the place is its id."""
        return [{"id": place, **_run(record)} for place, record in enumerate(self.study.records)]

    @cached_property
    def figures(self) -> Mapping[str, go.Figure]:
        """The pictures by name, ``curves_steps`` and ``rates`` among them, each with its finding on top."""
        drawn = [*figures.draw(self.study, self.verdict), figures.updates(self.study, self.verdict)]
        return {name: plot for figure in drawn if figure for name, plot in figure.plots().items()}

    def html(self) -> str:
        """The whole report: one file that needs no network."""
        return report.render(self.study, self.verdict, self.provenance)

    def save(self, folder: str | Path) -> None:
        """Writes ``report.html`` and ``results.json``, each whole or not at all.

        Raises:
            OSError: a file cannot be written.
        """
        folder = Path(folder)
        files.prepare_folder(folder)
        document = results.to_json(self.study, self.verdict, self.provenance)
        files.write_atomically(folder / "report.html", self.html().encode())
        files.write_atomically(folder / "results.json", document.encode())

    def save_figures(self, folder: str | Path, kind: str = "svg") -> list[Path]:
        """Writes the pictures as files of their own, by plotly's package kaleido.

        Args:
            folder: where to.
            kind: ``svg``, ``pdf`` or ``png``.

        Raises:
            ValueError: kaleido is not installed.
        """
        if find_spec("kaleido") is None:
            raise ValueError(
                f"{kind} files need the package kaleido: pip install kaleido; without it, the camera above "
                "each picture of report.html saves an SVG"
            )
        files.prepare_folder(Path(folder))
        paths = {Path(folder) / f"{name}.{kind}": plot for name, plot in self.figures.items()}
        for path, plot in paths.items():
            plot.write_image(path, format=kind)
        return list(paths)

    def __repr__(self) -> str:
        verdict = self.verdict
        parts = [f"{verdict.headline}.", verdict.sentence, verdict.conditions, *verdict.code]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        page = report.summary(self.study, self.verdict, self.provenance.warnings)
        return pages.frame(self.verdict.headline, page, FRAME_HEIGHT)

    def _ranked(self, row: Row, level: float | None) -> dict[str, Any]:
        test, basin = row.test, measures.basin(self.study, row.space, self.verdict.margin)
        reached = None if level is None else measures.reached(self.study, row.space, level)
        chosen = row.chosen and row.chosen.trial
        return {
            "optimizer": row.space.title,
            "test": test and test.mean,
            "test_low": test and test.low,
            "test_high": test and test.high,
            "test_finished": row.finished,
            "seeds": row.measured,
            "failures": row.failures,
            "steps_to_target": reached and reached.steps,
            "seconds_to_target": reached and reached.seconds,
            "seconds": row.seconds,
            "step_ms": row.step_ms,
            "state_bytes": row.state_bytes,
            "basin_decades": basin and basin.decades,
            "code": chosen and row.space.line(chosen.settings),
        }


def _run(record: Record) -> dict[str, Any]:
    return {
        "stage": record.trial.stage,
        "optimizer": record.trial.optimizer,
        "seed": record.trial.seed,
        **record.trial.settings,
        "validation": record.validation and record.validation.metric,
        "test": record.test and record.test.metric,
        "seconds": record.timing and record.timing.seconds,
        "failure": record.failure and record.failure.text,
    }
