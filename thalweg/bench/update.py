"""The whole update, clip by the global norm, step and average of the weights, beside three calls of torch's.

People who clip and average with torch run `clip_grad_norm_`, the optimizer's step and a lerp of the averages,
each over all the memory again: with float32 AdamW 52 bytes an element, where ours moves 40.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

import thalweg
from thalweg.bench import training
from thalweg.bench.cases import Case, grad_of, grouped, make_params, moved_bytes
from thalweg.bench.measure import Comparison, Work, compare, in_turns, seconds_of, turns
from thalweg.bench.rivals import ADAMW, ALGORITHMS, Algorithm, Storage, oracle, ours
from thalweg.bench.shapes import SETS, Shapes
from thalweg.bench.steps import sharing, slots_of, traffic
from thalweg.bench.training import NETWORKS, training_step
from thalweg.bench.verifying import distance

T = TypeVar("T")

MAX_NORM, DECAY = 1.0, 0.999

FLOAT32 = Storage("float32", torch.float32, {"max_norm": MAX_NORM, "average": DECAY})
PACKED = Storage(
    "int8 and bfloat16",
    torch.float32,
    {"max_norm": MAX_NORM, "average": DECAY, "state": "int8", "average_state": "bfloat16"},
)
STORAGES = (FLOAT32, PACKED)

ROWS = (
    (FLOAT32, "one 50M tensor", 1.3),
    (PACKED, "one 50M tensor", 2.0),
    (FLOAT32, "ResNet-50", 2.0),
    (FLOAT32, "400 x 1,000", 8.0),
    (FLOAT32, "4,000 x 64", 12.0),
)
"""The storage, the set of tensors and the ratio that AdamW has to reach; of the others nothing is asked."""

LIMIT_GOAL, TRAINING_GOAL = 0.95, 1.1

TRAINING_LR = 1e-4
TRAINING_SCALE = 1e6
"""What gradients are multiplied by, so that they are clipped also when the loss has become small."""

LEAST_TURNS = 9

TOLERANCES = {FLOAT32.name: 1e-3, PACKED.name: 0.1}
"""How far our weights and averages may be off, as a share of how far torch's have gone."""

VERIFIED_SHAPES: Shapes = [(5000,), (3, 5), (64, 65)]
VERIFIED_SCALES = (1.0, 0.005, 3.0, 30.0, 0.1, 10.0)
"""Of the gradients of the steps that are verified. The second ones are not clipped, the others are."""

VERIFIED_DECAY, VERIFIED_LR = 0.9, 0.1
"""Kernels read both at run time. With the measured ones, averages would hardly move in a few steps."""


class ThreeCalls:
    """Clipping, the step and the averages as people do them with torch, one after the other.

    Args:
        optimizer: torch's.
        decay: of the averages.
        averages: of the parameters; the first step's weights if there are none yet.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, decay: float = DECAY, averages: list[Tensor] | None = None
    ) -> None:
        self.optimizer = optimizer
        self.params: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self.decay, self.averages = decay, averages
        self.norm = torch.zeros(())
        """Of the last step's gradients, before they were clipped."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad()

    def step(self) -> None:
        """Clip the gradients where they lie, take a step and update the averages."""
        self.norm = nn.utils.clip_grad_norm_(self.params, MAX_NORM, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            if self.averages is None:
                self.averages = [p.clone() for p in self.params]
            else:
                torch._foreach_lerp_(self.averages, self.params, 1 - self.decay)


@dataclass(frozen=True)
class UpdateResult:
    """One line of the table.

    Attributes:
        algorithm: as printed.
        storage: how ours is stored; torch's is float32.
        what: the set of tensors, or the network of a training step.
        comparison: torch's three calls against ours.
        goal: the ratio to reach, if any.
        norm: of the last gradients, before they were clipped to 1.
        moved: bytes an element, that ours has to move, where the memory limit was measured.
        torch_moved: those that the three calls have to move.
        limit: our share of the memory limit.
        limit_goal: the share to reach, if any.
        bandwidth: bytes a second that the memory limit means.
    """

    algorithm: str
    storage: str
    what: str
    comparison: Comparison
    goal: float | None
    norm: float
    moved: float | None = None
    torch_moved: float | None = None
    limit: float | None = None
    limit_goal: float | None = None
    bandwidth: float | None = None


class Sides(NamedTuple):
    """Our update and the three calls, on the same parameters and gradients, and what makes these new.

    The three calls scale gradients where they lie, so that there would be nothing left to clip.
    """

    ours: torch.optim.Optimizer
    theirs: ThreeCalls
    refill: Work


def cases(algorithm: Algorithm) -> list[tuple[Case, float | None]]:
    """Return what an algorithm is measured with, and the ratio to reach."""
    return [
        (Case(algorithm, storage, name, SETS[name]), goal if algorithm is ADAMW else None)
        for storage, name, goal in ROWS
    ]


def measure(seconds: float) -> Iterator[UpdateResult]:
    """Verify and measure every algorithm on every set, and in training, `seconds` for each."""
    for algorithm in ALGORITHMS:
        for storage in STORAGES:
            verify(algorithm, storage, torch.device("cpu"))
        for case, goal in cases(algorithm):
            yield _measure(case, goal, seconds)
        for network in NETWORKS:
            yield _measure_training(algorithm, network, seconds)


def _measure(case: Case, goal: float | None, seconds: float) -> UpdateResult:
    params = make_params(case, torch.device("cpu"))
    sides = both(case, params)
    works: list[Work] = [sides.ours.step, sides.theirs.step]
    moved = 0
    if len(params) == 1:
        other, moved = _traffic(sides, params[0])
        works.append(other.step)
    for work in 2 * works:
        after(sides.refill, seconds_of)(work)
    taken = turns(works, after(sides.refill, seconds_of), seconds, LEAST_TURNS)
    comparison = compare([t[1] for t in taken], [t[0] for t in taken])
    sides.refill()
    sides.theirs.step()
    result = UpdateResult(
        case.algorithm.name, case.storage.name, case.set, comparison, goal, float(sides.theirs.norm)
    )
    return _with_limit(result, case, sides, taken, moved) if moved else result


def _with_limit(
    result: UpdateResult, case: Case, sides: Sides, taken: Sequence[tuple[float, ...]], moved: int
) -> UpdateResult:
    """Add the memory limit: what our update has to move, at the bandwidth of a step that does only that."""
    own, theirs = bytes_of(sides)
    bare = compare([t[2] * own / moved for t in taken], [t[0] for t in taken])
    return replace(
        result,
        moved=own / case.elements,
        torch_moved=theirs / case.elements,
        limit=bare.ratio,
        limit_goal=LIMIT_GOAL if case.algorithm is ADAMW and case.storage is FLOAT32 else None,
        bandwidth=own / bare.baseline,
    )


def both(case: Case, params: list[Tensor], shared: bool = True) -> Sides:
    """Return both ways to update `params`, each of which has been run.

    Args:
        case: what is measured.
        params: the parameters.
        shared: whether state that is stored alike is the same memory, should it matter where that lies.
    """
    shared = shared and case.storage is FLOAT32
    theirs = ThreeCalls(oracle(case.algorithm)(grouped(params, case.groups)))
    gradients = [grad_of(p) for p in params]
    fresh = [g.clone() for g in gradients]

    def refill() -> None:
        torch._foreach_copy_(gradients, fresh)

    theirs.step()
    own = ours(case.algorithm, case.storage)(grouped(params, case.groups))
    if shared:
        sharing(own, theirs.optimizer)
    refill()
    own.step()
    if shared:
        theirs.averages = [own.state[p]["average"] for p in params]
    return Sides(own, theirs, refill)


def after(first: Work, timed: Callable[[Work], T]) -> Callable[[Work], T]:
    """Return what times a work after another one, which is not timed."""

    def both(work: Work) -> T:
        first()
        return timed(work)

    return both


def _traffic(sides: Sides, param: Tensor) -> tuple[torch.optim.Optimizer, int]:
    assert sides.theirs.averages is not None, "both steps it"
    return traffic(param, [*slots_of(sides.theirs.optimizer, param), *sides.theirs.averages])


def bytes_of(sides: Sides) -> tuple[int, int]:
    """Return the bytes that our update and the three calls have to read and write."""
    params = sides.theirs.params
    gradients = sum(grad_of(p).nbytes for p in params)
    averaged = sum(p.nbytes for p in params)
    # The norm reads gradients. Ours holds the average among its state; torch's scales gradients where they
    # lie, and reads averages and weights once more.
    own = gradients + moved_bytes(params, sides.ours)
    return own, 3 * gradients + moved_bytes(params, sides.theirs.optimizer) + 3 * averaged


def verify(algorithm: Algorithm, storage: Storage, device: torch.device) -> None:
    """Take both ways from the same weights over the same gradients, and compare weights and averages.

    Raises:
        ArithmeticError: if they end too far apart.
    """
    most = TOLERANCES[storage.name]
    for what, error in errors_of(algorithm, storage, device).items():
        if not error <= most:
            name = f"{algorithm.name}, {storage.name}"
            raise ArithmeticError(f"wrong {what}: {error:.2g} from torch's, allowed are {most:.2g} ({name})")


def errors_of(algorithm: Algorithm, storage: Storage, device: torch.device) -> dict[str, float]:
    """Return how far our weights and averages end from those of the three calls."""
    slower = replace(storage, options={**storage.options, "average": VERIFIED_DECAY})
    mine = make_params(Case(algorithm, slower, "", VERIFIED_SHAPES), device)
    theirs: list[Tensor] = [nn.Parameter(p.detach().clone()) for p in mine]
    begun = [p.detach().clone() for p in mine]
    own = ours(algorithm, slower, VERIFIED_LR)(mine)
    assert isinstance(own, thalweg.Optimizer)
    other = ThreeCalls(oracle(algorithm, VERIFIED_LR)(theirs), VERIFIED_DECAY)
    generator = torch.Generator(device).manual_seed(1)
    for scale in VERIFIED_SCALES:
        for p, q in zip(mine, theirs, strict=True):
            p.grad = scale * torch.randn(p.shape, generator=generator, device=device)
            q.grad = p.grad.clone()
        own.step()
        other.step()
    assert other.averages is not None, "it has stepped"
    return {
        "weights": distance(mine, theirs, begun),
        "averages": distance(list(own.averaged_weights().values()), other.averages, begun),
    }


def _measure_training(algorithm: Algorithm, network: str, seconds: float) -> UpdateResult:
    made: list[ThreeCalls] = []

    def three_calls(params: list[nn.Parameter]) -> ThreeCalls:
        made.append(ThreeCalls(oracle(algorithm, TRAINING_LR)(params)))
        return made[-1]

    scale, make = torch.tensor(TRAINING_SCALE), NETWORKS[network]
    comparison = in_turns(
        training_step(make, three_calls, scale),
        training_step(make, ours(algorithm, FLOAT32, TRAINING_LR), scale),
        seconds,
        least=training.LEAST_TURNS,
    )
    norm = float(made[0].norm)
    return UpdateResult(algorithm.name, FLOAT32.name, f"training, {network}", comparison, TRAINING_GOAL, norm)
