"""One training run."""

import math
import platform
import re
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from thalweg.lab.errors import Doubt
from thalweg.lab.spaces import build
from thalweg.lab.study.record import Failure, Point, Record, Timing, Trial, failed
from thalweg.lab.workload import Evaluation, Split, Workload, chance
from thalweg.lab.workload.lazy import settled
from thalweg.lab.workload.tasks.errors import brief_error

WARM_UP = 0.05
"""The share of all steps over which the learning rate climbs to its full value."""

REPEATED = 3
"""First steps of a run that are made twice, to see whether a seed fixes them."""

CPU = torch.device("cpu")


def schedule(step: int, steps: int) -> float:
    """The factor on the learning rate at `step` of 1 .. `steps`.

    It climbs linearly to 1 over the first 5 % of the steps and falls linearly towards 0, which it
    would reach one step after the last.
    """
    warm_up = max(1, round(WARM_UP * steps))
    return min(step / warm_up, (steps + 1 - step) / (steps + 1 - warm_up))


def run(trial: Trial, workload: Workload, device: torch.device = CPU) -> Record:
    """Trains once and evaluates.

    A loss that is not finite, or too little memory, ends the run and is recorded as its failure.

    Raises:
        ValueError: the workload gave fewer batches than the steps it states.
    """
    return _run(trial, workload, device)[0]


def run_checked(trial: Trial, fresh: Callable[[], Workload], device: torch.device = CPU) -> Record:
    """The same, after its first steps have been made once for the sake of comparison.

    Args:
        trial: what is run.
        fresh: gives a copy of the workload to which nothing has been done.
        device: where to train.
    """
    try:
        before = _run(trial, fresh(), device, REPEATED)[1]
    except Exception:
        # The run itself tells it, with all that belongs to it.
        return run(trial, fresh(), device)
    record, losses = _run(trial, fresh(), device)
    differing = [place for place, pair in enumerate(zip(before, losses, strict=False)) if _differ(*pair)]
    if not differing or record.doubts:
        return record
    place = differing[0]
    text = (
        f"The same seed does not give the same training: at step {place + 1} the loss was "
        f"{before[place]:.6g} once and {losses[place]:.6g} then. Something random does not come "
        "from the seed (torch's, NumPy's and Python's global generators are seeded), so runs are not "
        "compared exactly pair by pair."
    )
    return replace(record, doubts=(*record.doubts, Doubt("repeat", text)))


def _differ(first: float, second: float) -> bool:
    return first != second and not (math.isnan(first) and math.isnan(second))


def _run(
    trial: Trial, workload: Workload, device: torch.device, steps: int | None = None
) -> tuple[Record, list[float]]:
    """A run, or its first steps, and the losses of these."""
    started = time.perf_counter()
    course = None
    with chance.left_alone(device):
        try:
            chance.seed_all(trial.seed)
            model = settled(workload, workload.model(trial.seed), trial.seed).to(device)
            # Seeded again, so that what a model draws while it trains (dropout) does not depend on how
            # many numbers its initialisation drew.
            chance.seed_all(trial.seed)
            course = _Course(trial, workload, model)
            course.train(steps)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else "out of memory"
            if course is None:
                return failed(trial, Failure("out of memory", reason, 0)), []
            course.fail("out of memory", reason)
        return course.record(time.perf_counter() - started), course.first


_last: list[weakref.ref[nn.Parameter]] = []
"""The parameters of the run before, in this process."""


def _doubts(model: nn.Module) -> tuple[Doubt, ...]:
    """Whether a model is the one that the run before has trained."""
    before = {id(parameter) for ref in _last if (parameter := ref()) is not None}
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _last[:] = [weakref.ref(parameter) for parameter in own]
    if not any(id(parameter) in before for parameter in own):
        return ()
    text = (
        "model(seed) returns the parameters of the run before it, so training went on where that run had "
        "ended: no number here means what it should. Build a new model in it."
    )
    return (Doubt("model", text),)


class _Course:
    """A run under way: what it has measured so far."""

    def __init__(self, trial: Trial, workload: Workload, model: nn.Module) -> None:
        self._trial, self._workload, self._model = trial, workload, model
        self._device = next(model.parameters()).device
        self._optimizer = build(trial.optimizer, model.parameters(), trial.settings)
        self._curve: list[Point] = []
        self._at: list[float] = []
        self._seconds: list[float] = []
        self._step_seconds: list[float] = []
        self._step = 0
        self._validation: Evaluation | None = None
        self._test: Evaluation | None = None
        self._failure: Failure | None = None
        self._doubts = _doubts(model)
        self.first: list[float] = []

    def train(self, steps: int | None = None) -> None:
        """All steps, with the evaluations between them and at the end; or the first so many.

        What the workload raises over numbers that are not finite is divergence, told in its words.
        """
        try:
            self._train(steps)
        except Exception as error:
            if _is_out_of_memory(error) or not self._has_diverged(error):
                raise
            text = f"the task could make nothing of what training made: {brief_error(error)}"
            self.fail("diverged", f"{text} (step {self._step})")

    def _has_diverged(self, error: Exception) -> bool:
        """Whether an error comes from numbers that training has made infinite, and not from a mistake."""
        if self._step == 0:
            return False
        if _NOT_FINITE.search(str(error)):
            return True
        return not all(bool(parameter.isfinite().all()) for parameter in self._model.parameters())

    def _train(self, steps: int | None) -> None:
        workload = self._workload
        rates = [group["lr"] for group in self._optimizer.param_groups]
        losses: list[float] = []
        if not self._evaluate(None):
            return
        for batch in islice(workload.batches(self._trial.seed), workload.steps):
            self._step += 1
            factor = schedule(self._step, workload.steps)
            for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            losses.append(self._one_step(tree_map(self._to_device, batch)))
            if len(self.first) < REPEATED:
                self.first.append(losses[-1])
            if self._step == steps:
                return
            if not math.isfinite(losses[-1]):
                self.fail("diverged", f"the training loss is {losses[-1]} at step {self._step}")
                return
            if self._step % workload.evaluate_every == 0 or self._step == workload.steps:
                # Not statistics.fmean: it raises an error where the sum of large losses overflows.
                if not self._evaluate(sum(losses) / len(losses)):
                    return
                losses = []
        if self._step < workload.steps:
            raise ValueError(
                f"workload {workload.name!r} gave {self._step} batches but states {workload.steps} steps"
            )
        if self._trial.stage == "final":
            self._test = self._evaluation("test")
            if not all(map(math.isfinite, self._test)):
                self.fail("diverged", self._not_finite("test", self._test))

    def fail(self, kind: Any, text: str) -> None:
        """Records that the run ends here without a result."""
        self._failure = Failure(kind, text, self._step)

    def record(self, total: float) -> Record:
        """What has been measured."""
        finished = self._failure is None
        return Record(
            trial=self._trial,
            curve=tuple(self._curve),
            validation=self._validation if finished else None,
            test=self._test if finished else None,
            failure=self._failure,
            state_bytes=_state_bytes(self._optimizer),
            timing=Timing(
                seconds=sum(self._seconds),
                total=total,
                step_ms=1000 * statistics.median(self._step_seconds or [0.0]),
                at=tuple(self._at),
                machine=platform.node(),
            ),
            doubts=self._doubts,
        )

    def _one_step(self, batch: Any) -> float:
        started = self._now()
        self._optimizer.zero_grad()
        loss = self._workload.loss(self._model, batch)
        loss.backward()
        if self._workload.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._workload.clip_norm)
        before_step = self._now()
        self._optimizer.step()
        ended = self._now()
        self._seconds.append(ended - started)
        self._step_seconds.append(ended - before_step)
        return loss.item()

    def _evaluate(self, loss: float | None) -> bool:
        """Adds a point to the curve, unless what it would show is not finite."""
        self._validation = self._evaluation("validation")
        if loss is not None and not math.isfinite(loss):
            self.fail("diverged", f"the mean training loss is {loss} at step {self._step}")
            return False
        if not all(map(math.isfinite, self._validation)):
            self.fail("diverged", self._not_finite("validation", self._validation))
            return False
        self._curve.append(Point(self._step, loss, self._validation.metric))
        self._at.append(sum(self._seconds))
        return True

    def _not_finite(self, split: Split, evaluation: Evaluation) -> str:
        """Which number of an evaluation it is: the loss or, where that is finite, the metric."""
        name, value = "loss", evaluation.loss
        if math.isfinite(value):
            name, value = self._workload.metric, evaluation.metric
        return f"the {split} {name} is {value} after step {self._step}"

    def _evaluation(self, split: Split) -> Evaluation:
        self._model.eval()
        with torch.no_grad():
            evaluation = self._workload.evaluate(self._model, split)
        self._model.train()
        return evaluation

    def _to_device(self, value: Any) -> Any:
        return value.to(self._device) if isinstance(value, Tensor) else value

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


_NOT_FINITE = re.compile(r"\b(nan|inf|infinity|infinite|finite|overflow\w*)\b", re.IGNORECASE)
"""What an error says that infinite numbers have caused."""


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, which torch's CPU allocator and CUDA's libraries say only in words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(
        words in str(error)
        for words in ("can't allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED")
    )


def _state_bytes(optimizer: Optimizer) -> int:
    tensors = (
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
    )
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
