"""The command: measure, print as it goes, write JSON if asked."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import thalweg
from thalweg.bench import startup, steps, training, update
from thalweg.lowering.files import prepare_folder, write_atomically

PARTS = ("steps", "training", "update", "startup")


@dataclass(frozen=True)
class Request:
    """What to measure, how many seconds for each line, and a file for the figures."""

    parts: tuple[str, ...]
    seconds: float
    out: Path | None


def check(parts: Sequence[str], seconds: float, out: Path | None) -> Request:
    """Turn arguments into a request, before anything is measured.

    Raises:
        ValueError: an argument cannot be met; the message is one line.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"PARTS: unknown part {part!r}; choose from: {', '.join(PARTS)}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"--seconds must be a finite number above 0, not {seconds:g}")
    if out is not None:
        try:
            prepare_folder(out.parent)
        except OSError as error:
            raise ValueError(f"--out: cannot write {str(out)!r}: {error.strerror or error}") from None
    return Request(tuple(parts), seconds, out)


def run(request: Request, say: Callable[[str], object]) -> None:
    """Measure, and call `say` with each line of text."""
    say(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"thalweg {thalweg.__version__}"
    )
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for part in request.parts:
        figures[part] = [asdict(result) for result in _TABLES[part](request.seconds, say)]
    if request.out is not None:
        write_atomically(request.out, (json.dumps(figures, indent=1) + "\n").encode())


def _steps(seconds: float, say: Callable[[str], object]) -> Iterable[steps.StepResult]:
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


def _training(seconds: float, say: Callable[[str], object]) -> Iterable[training.TrainingResult]:
    say("\ntraining steps: with torch's fused optimizer / with thalweg, median ratio [quartiles]")
    say("in backward: with thalweg's step after backward / in it")
    for r in training.measure(seconds):
        c = r.comparison
        say(
            f"  {r.network:18} {r.optimizer:17} {c.baseline * 1e3:8.2f} ms {c.ours * 1e3:8.2f} ms  "
            f"{c.ratio:6.3f} [{c.low:.3f}, {c.high:.3f}]  goal 1"
        )
        yield r


def _update(seconds: float, say: Callable[[str], object]) -> Iterable[update.UpdateResult]:
    say("\nclip, step and average: torch's three calls / thalweg in one, median ratio of turns [quartiles]")
    for r in update.measure(seconds):
        c = r.comparison
        line = (
            f"  {r.algorithm:28} {r.storage:18} {r.what:28} {c.baseline * 1e3:8.2f} ms "
            f"{c.ours * 1e3:8.2f} ms  {c.ratio:6.2f} [{c.low:.2f}, {c.high:.2f}]"
        )
        if r.goal is not None:
            line += f"  goal {r.goal:g}"
        say(line + _limit(r))
        yield r


def _limit(r: update.UpdateResult) -> str:
    if r.limit is None or r.bandwidth is None:
        return ""
    asked = "" if r.limit_goal is None else f" (goal {r.limit_goal:.0%})"
    return (
        f"  {r.limit:.0%} of the memory limit{asked}, {r.bandwidth / 1e9:.1f} GB/s: "
        f"{r.moved:.0f} bytes an element, torch {r.torch_moved:.0f}"
    )


def _startup(seconds: float, say: Callable[[str], object]) -> Iterable[startup.StartupResult]:
    say("\na new process, medians")
    for r in startup.measure():
        say(f"  {r.what:32} {r.seconds * 1e3:6.0f} ms  goal {r.goal * 1e3:.0f} ms")
        yield r


_TABLES: dict[str, Callable[[float, Callable[[str], object]], Iterable[Any]]] = {
    "steps": _steps,
    "training": _training,
    "update": _update,
    "startup": _startup,
}
