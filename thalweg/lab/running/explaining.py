"""What is measured beside a final run, on its weights and outside of its time: see `docs/why.md`."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.lab.landscape import Hessian, UnknownError, gradient, stability_bound, update_sizes
from thalweg.lab.landscape.hessian import PROBES, PRODUCTS
from thalweg.lab.landscape.noise import moments
from thalweg.lab.running.memory import is_tight
from thalweg.lab.running.training import Training
from thalweg.lab.study.study import Study
from thalweg.lab.study.why import Found, Part, Why
from thalweg.lab.workload import Workload, chance
from thalweg.lab.workload.batches import leaves, moved
from thalweg.lab.workload.contract import option

SHARE = 0.2
"""The most of the time of an optimizer's runs, from the first trial on, that may be spent on this."""

STEPS = 8
"""Steps whose size is measured, spread over the run."""

BATCHES = 8
"""Batches whose gradients are compared."""

EXAMPLES = 256
"""At least so many examples give the Hessian, as far as `BATCHES` of them hold them."""

MOST_PRODUCTS = 3 * PRODUCTS + PROBES
"""With the Hessian, in all: three eigenvalues and a trace."""

USUAL_PRODUCTS = 32
"""So many are usual; there must be time for them before the first."""

PRODUCT = 2.0
"""Gradients that a product is thought to take before one was made."""

BASIS_BYTES = 2 << 30
"""The most that the basis of an eigenvalue, or the gradients that are compared, may take."""


@dataclass(frozen=True)
class Leave:
    """That a run may be measured, and how much it may spend.

    Attributes:
        credit: seconds that earlier runs of its optimizer left over, or below zero overspent.
        limit: seconds after which the whole run is ended.
    """

    credit: float = 0.0
    limit: float = math.inf


def credits(study: Study, workers: int) -> dict[str, float]:
    """What each optimizer's runs have left of their share, for each of the processes."""
    found = {}
    for space in study.spaces:
        runs = [record for record in study.records if record.trial.name == space.name]
        earned = SHARE * sum(record.timing.seconds for record in runs if record.timing is not None)
        spent = sum(record.why.seconds for record in runs if record.why is not None)
        found[space.name] = (earned - spent) / workers
    return found


UNSEEN = Why(
    missing=dict.fromkeys(
        ("curvature", "noise", "updates"), "the task trains by itself: its loss is not known"
    )
)
"""Of a run that is a function of the user's."""

SHARED_UNSEEN = Why(
    missing=dict.fromkeys(("curvature", "noise", "updates"), "several processes share the run")
)
"""Of a run of which no process has the whole model."""

BEGUN_UNSEEN = Why(
    missing=dict.fromkeys(("curvature", "noise", "updates"), "a run was begun without being measured")
)
"""Of a run that goes on from a checkpoint that knows nothing of this."""

_KEPT = ("_sizes", "_seconds", "_spent", "_last", "_rate")


class Unmeasured(Exception):  # noqa: N818
    """Why a part is not measured, in a line; not an error."""


class Explaining:
    """Measures beside one run.

    Nothing of the run changes: weights are read, buffers and generators put back, gradients left alone.

    Args:
        training: the run, before its first step.
        workload: what is trained, with the changes of a recipe.
        seed: of the run, from which the batches come.
        leave: how much it may spend.
    """

    def __init__(self, training: Training, workload: Workload, seed: int, leave: Leave) -> None:
        self._training, self._workload, self._leave = training, workload, leave
        self._seed = int(np.random.SeedSequence([seed, 0x776879]).generate_state(1)[0])
        self._began = time.perf_counter()
        named = [(name, p) for name, p in training.model.named_parameters() if p.requires_grad]
        self._names, self._params = [name for name, _ in named], [p for _, p in named]
        steps = workload.steps
        self._places = {math.ceil(steps * (i + 0.5) / STEPS) for i in range(STEPS)}
        self._before: list[Tensor] | None = None
        self._sizes: list[list[float]] = []
        self._seconds: list[float] = []
        self._spent = self._last = 0.0
        self._rate: float | None = None
        self._gradient_seconds = 0.0
        self._batches: list[Any] = []
        self._is_whole = True
        self._unbound = ""
        self._watch_next()

    def stepped(self, seconds: float) -> None:
        """Call it after each step, with the seconds that it took."""
        began = time.perf_counter()
        self._seconds.append(seconds)
        self._note_rate()
        if self._before is not None:
            self._sizes.append(update_sizes(zip(self._before, self._params, strict=True)))
            self._before = None
            self._last = time.perf_counter() - began
        self._watch_next()
        self._spent += time.perf_counter() - began

    @property
    def _trained(self) -> float:
        return sum(self._seconds)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {name: getattr(self, name) for name in _KEPT}

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from a checkpoint, once the training has; one that was begun unwatched tells nothing."""
        self._is_whole, self._before = state is not None, None
        for name, value in (state or {}).items():
            setattr(self, name, value)
        self._watch_next()

    def _watch_next(self) -> None:
        """Keeps the weights before a step that is to be measured."""
        is_due = self._training.step + 1 in self._places
        may = SHARE * self._trained + self._leave.credit
        if is_due and (not self._sizes or self._spent + 2 * self._last <= may):
            self._before = [p.detach().clone() for p in self._params]

    def _note_rate(self) -> None:
        optimizers = list(self._training.optimizers.values())
        rate = optimizers[0].param_groups[0].get("lr") if len(optimizers) == 1 else None
        if rate is not None:
            self._rate = max(float(rate), self._rate or 0.0)

    def explain(self) -> Why:
        """All that can be measured; call it when the run has been evaluated for the last time."""
        began = time.perf_counter()
        if not self._is_whole:
            return BEGUN_UNSEEN
        self._deadline = began + self._allowed()
        why, missing = Why(updates=self._updates(), rate=self._rate), dict[Part, str]()
        if not why.updates:
            missing["updates"] = "no step was measured"
        with chance.left_alone(self._training.device), _buffers_kept(self._training.model):
            # One after the other: what a gradient takes tells what the Hessian will.
            parts: list[tuple[Part, Callable[[Why], Why]]] = [
                ("noise", self._noise),
                ("curvature", self._curvature),
            ]
            for part, measure in parts:
                try:
                    why = measure(why)
                except Unmeasured as reason:
                    missing[part] = str(reason)
                except Exception as error:
                    missing[part] = told(error)
        if why.sharpness is not None and why.bound is None:
            missing["bound"] = self._unbound
        seconds = self._spent + time.perf_counter() - began
        return replace(why, seconds=seconds, missing=missing)

    def _allowed(self) -> float:
        """Seconds that may still be spent."""
        until_limit = (self._leave.limit - (time.perf_counter() - self._began)) / 2
        return min(SHARE * self._trained + self._leave.credit - self._spent, until_limit)

    def _afford(self, seconds: float, what: str) -> None:
        left = self._deadline - time.perf_counter()
        if seconds > left:
            raise Unmeasured(
                f"{what} would take about {seconds:.2g} s, and {100 * SHARE:.0f} % of the time of the runs "
                f"leave {max(0.0, left):.2g} s"
            )

    def _updates(self) -> dict[str, float]:
        columns = zip(*self._sizes, strict=True)
        found = {n: statistics.median(column) for n, column in zip(self._names, columns, strict=False)}
        return {name: size for name, size in found.items() if math.isfinite(size)}

    def _noise(self, why: Why) -> Why:
        self._need_loss()
        self._need_room(BATCHES, "gradients")
        each = statistics.median(self._seconds) / option(self._workload, "accumulate")
        self._afford(BATCHES * each, f"{BATCHES} gradients")
        losses = self._losses(BATCHES)
        began = time.perf_counter()
        gradients = [gradient(self._params, loss) for loss in losses]
        self._gradient_seconds = (time.perf_counter() - began) / BATCHES
        noise, signal = moments(gradients, self._workload.batch_size)
        if not math.isfinite(noise + signal):
            raise Unmeasured("the gradient is not finite")
        return replace(why, noise=noise, signal=signal)

    def _curvature(self, why: Why) -> Why:
        self._need_loss()
        self._need_room(PRODUCTS, "vectors")
        count = min(BATCHES, max(1, math.ceil(EXAMPLES / self._workload.batch_size)))
        if self._training.device.type == "cpu" and is_tight(3 * count):
            raise Unmeasured(f"the Hessian on {count} batches might not fit in the memory that is free")
        if not self._gradient_seconds:
            raise Unmeasured("there is no time for gradients, so none for the Hessian")
        whole = f"{USUAL_PRODUCTS} products with the Hessian"
        self._afford(USUAL_PRODUCTS * PRODUCT * count * self._gradient_seconds, whole)
        hessian = _Limited(self._params, self._losses(count), self._deadline)
        began = time.perf_counter()
        hessian(torch.ones(hessian.size, dtype=hessian.dtype, device=hessian.device))
        self._afford((USUAL_PRODUCTS - 1) * (time.perf_counter() - began), whole)
        sharp, trace = hessian.sharpness(seed=self._seed), hessian.trace(seed=self._seed)
        adaptive = hessian.adaptive_sharpness(seed=self._seed)
        why = replace(
            why,
            sharpness=Found(sharp.value, sharp.residual),
            trace=Found(trace.mean, trace.standard_error),
            adaptive=Found(adaptive.value, adaptive.residual),
            examples=count * self._workload.batch_size,
        )
        return replace(self._bounded(why, hessian), products=hessian.products)

    def _bounded(self, why: Why, hessian: Hessian) -> Why:
        """With the bound of the optimizer's steps, and the curvature that it is on."""
        optimizers = list(self._training.optimizers.values())
        self._unbound = f"there are {len(optimizers)} optimizers"
        if len(optimizers) > 1:
            return why
        try:
            stable = stability_bound(optimizers[0], self._params, self._rate)
        except UnknownError as reason:
            self._unbound = str(reason)
            return why
        steered = why.sharpness
        if stable.scale is not None or stable.decay is not None:
            found = hessian.sharpness(scale=stable.scale, decay=stable.decay, seed=self._seed)
            steered = Found(found.value, found.residual)
        return replace(why, bound=stable.bound, steered=steered)

    def _need_loss(self) -> None:
        for own in ("training_step", "training_loop"):
            if option(self._workload, own) is not None:
                raise Unmeasured(f"the task's own {own} does not tell its loss")

    def _need_room(self, count: int, what: str) -> None:
        taken = count * sum(p.numel() * p.element_size() for p in self._params)
        if taken > BASIS_BYTES:
            raise Unmeasured(f"{count} {what} as large as the parameters take {taken / 1e9:.1f} GB")

    def _losses(self, count: int) -> list[Callable[[], Tensor]]:
        """The training loss on so many batches, independent ones where the task has such."""
        device, model = self._training.device, self._training.model
        model.train()
        if not self._batches:
            check = partial(self._afford, what="drawing batches")
            self._batches = [
                moved(one, device) for one in sampled(self._workload, self._seed, BATCHES, check)
            ]
        return [partial(self._workload.loss, model, batch) for batch in self._batches[:count]]


class _Limited(Hessian):
    """Products that end at a deadline."""

    def __init__(
        self, params: Sequence[Tensor], losses: Sequence[Callable[[], Tensor]], deadline: float
    ) -> None:
        super().__init__(params, losses)
        self._deadline = deadline

    def __call__(self, vector: Tensor) -> Tensor:
        if time.perf_counter() > self._deadline:
            raise Unmeasured(f"the time was over after {self.products} products with the Hessian")
        return super().__call__(vector)


def sampled(workload: Workload, seed: int, count: int, check: Callable[[float], Any]) -> list[Any]:
    """Batches that do not depend on each other: the first of each of as many orders of the data.

    Those of one order have no example in common, which makes their mean less random than that of independent
    ones. Where every order begins with the same batch, they are taken from one.

    Args:
        workload: whose.
        seed: from which theirs come.
        count: how many, at least 2.
        check: is told, after the first, how many seconds the others will take.
    """
    began, first, *others = time.perf_counter(), *map(int, np.random.SeedSequence(seed).generate_state(count))
    found = [_first_batch(workload, first)]
    check((count - 1) * (time.perf_counter() - began))
    found.append(_first_batch(workload, others[0]))
    if not _alike(*found):
        return [*found, *(_first_batch(workload, one) for one in others[1:])]
    chance.seed_all(first)
    return list(islice(workload.batches(first), count))


def _first_batch(workload: Workload, seed: int) -> Any:
    chance.seed_all(seed)
    return next(iter(workload.batches(seed)))


def told(error: Exception) -> str:
    """An error in one line."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, RuntimeError | NotImplementedError) and (
        "derivative" in line or "differentiate" in line or "double" in line or "does not require grad" in line
    ):
        line = f"the loss cannot be differentiated twice: {line}"
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


LONGEST = 160
"""Characters of an error that are told."""


def _alike(first: Any, second: Any) -> bool:
    pairs = zip(leaves(first), leaves(second), strict=False)
    return all(
        torch.equal(a, b)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else a is b or bool(np.all(a == b))
        for a, b in pairs
    )


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Puts buffers, such as those of batch norms, and the mode back to what they were."""
    buffers: Sequence[Tensor] = list(model.buffers())
    kept, modes = [one.detach().clone() for one in buffers], [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for one, before in zip(buffers, kept, strict=True):
                one.copy_(before)
        for module, mode in modes:
            module.training = mode
