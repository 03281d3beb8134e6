"""The whole update, clip by the global norm, step and average of the weights, beside three calls of torch's.

People who clip and average with torch run `clip_grad_norm_`, the optimizer's step and a lerp of the averages,
each over all the memory again: with float32 AdamW 52 bytes an element, where ours moves 40.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from thalweg.bench import training
from thalweg.bench.cases import Case, make_params
from thalweg.bench.measure import Comparison, Work, compare, in_turns, seconds_of, turns
from thalweg.bench.rivals import ADAMW, ALGORITHMS, Algorithm, oracle, ours
from thalweg.bench.shapes import SETS
from thalweg.bench.sides import (
    FLOAT32,
    PACKED,
    STORAGES,
    Sides,
    ThreeCalls,
    after,
    both,
    bytes_of,
    traffic_of,
)
from thalweg.bench.training import NETWORKS, training_step
from thalweg.bench.verifying_updates import verify

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
        other, moved = traffic_of(sides, params[0])
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
