"""What is measured beside a final run, on its weights and outside of its time: see `docs/why.md`."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.lab.landscape import Hessian, UnknownError, gradient, stability_bound
from thalweg.lab.landscape.hessian import PROBES, PRODUCTS
from thalweg.lab.landscape.noise import moments
from thalweg.lab.running.leave import BEGUN_UNSEEN, SHARE, Leave
from thalweg.lab.running.memory import is_tight
from thalweg.lab.running.sampling import sampled
from thalweg.lab.running.training import Training
from thalweg.lab.running.watching import Watching
from thalweg.lab.study.why import Found, Part, Why
from thalweg.lab.workload import Workload, chance
from thalweg.lab.workload.batches import moved
from thalweg.lab.workload.contract import option

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


class Unmeasured(Exception):  # noqa: N818
    """Why a part is not measured, in a line; not an error."""


class Explaining(Watching):
    """Measures beside one run.

    Nothing of the run changes: weights are read, buffers and generators put back, gradients left alone.

    Args:
        training: the run, before its first step.
        workload: what is trained, with the changes of a recipe.
        seed: of the run, from which the batches come.
        leave: how much it may spend.
    """

    def __init__(self, training: Training, workload: Workload, seed: int, leave: Leave) -> None:
        super().__init__(training, workload.steps, leave)
        self._workload = workload
        self._seed = int(np.random.SeedSequence([seed, 0x776879]).generate_state(1)[0])
        self._began = time.perf_counter()
        self._gradient_seconds = 0.0
        self._batches: list[Any] = []
        self._unbound = ""

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
