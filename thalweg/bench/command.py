"""The command: measure, print as it goes, write JSON if asked."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import thalweg
from thalweg.bench import startup, steps, training
from thalweg.files import write_atomically

PARTS = ("steps", "training", "startup")


def run(parts: Iterable[str], seconds: float, out: Path | None, say: Callable[[str], None]) -> None:
    """Measure `parts` of `PARTS`.

    Args:
        parts: what to measure.
        seconds: for each line of the tables.
        out: a file for the figures as JSON.
        say: called with each line of text.
    """
    say(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"thalweg {thalweg.__version__}"
    )
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for part in parts:
        figures[part] = [asdict(result) for result in _TABLES[part](seconds, say)]
    if out is not None:
        write_atomically(out, (json.dumps(figures, indent=1) + "\n").encode())


def _steps(seconds: float, say: Callable[[str], None]) -> Iterable[steps.StepResult]:
    say("\nsteps: torch's best form / thalweg, median ratio of turns [quartiles]")
    for r in steps.measure(seconds):
        c = r.comparison
        line = (
            f"  {r.contest:28} {r.shapes:15} {c.baseline * 1e3:8.2f} ms {c.ours * 1e3:8.2f} ms  "
            f"{c.ratio:6.2f} [{c.low:.2f}, {c.high:.2f}]  goal {r.goal:g}"
        )
        if r.limit is not None and r.bandwidth is not None:
            line += f"  {r.limit:.0%} of the memory limit, {r.bandwidth / 1e9:.1f} GB/s"
        say(line)
        yield r


def _training(seconds: float, say: Callable[[str], None]) -> Iterable[training.TrainingResult]:
    say("\ntraining steps: with torch's fused optimizer / with thalweg, median ratio [quartiles]")
    for r in training.measure(seconds):
        c = r.comparison
        say(
            f"  {r.network:18} {r.optimizer:13} {c.baseline * 1e3:8.2f} ms {c.ours * 1e3:8.2f} ms  "
            f"{c.ratio:6.3f} [{c.low:.3f}, {c.high:.3f}]  goal 1"
        )
        yield r


def _startup(seconds: float, say: Callable[[str], None]) -> Iterable[startup.StartupResult]:
    say("\na new process, medians")
    for r in startup.measure():
        say(f"  {r.what:32} {r.seconds * 1e3:6.0f} ms  goal {r.goal * 1e3:.0f} ms")
        yield r


_TABLES: dict[str, Callable[[float, Callable[[str], None]], Iterable[Any]]] = {
    "steps": _steps,
    "training": _training,
    "startup": _startup,
}
