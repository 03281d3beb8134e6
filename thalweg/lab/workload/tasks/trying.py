"""One batch of training and both evaluations, so that a mistake costs seconds and not the hour after which it
would show.
"""

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

from thalweg.lab.workload.batches import leaves, moved, numbers
from thalweg.lab.workload.chance import left_alone, seed_all
from thalweg.lab.workload.contract import Evaluation, Split, Workload, batches_needed, option
from thalweg.lab.workload.errors import Doubt
from thalweg.lab.workload.lazy import settled
from thalweg.lab.workload.tasks import seeding
from thalweg.lab.workload.tasks.caches import make_sendable
from thalweg.lab.workload.tasks.checking import ABSENT, brief, place_of
from thalweg.lab.workload.tasks.errors import TaskError, explain, one_line, shown

COUNTING_SECONDS = 1.0
"""How long `smoke` goes on drawing batches to see whether there are enough."""


SEED = 0


def smoke(
    workload: Workload, file: Path | None = None, device: torch.device | str = "cpu"
) -> tuple[Doubt, ...]:
    """Tries the workload before it is trained: whether it can be sent, one batch, both evaluations.

    Nothing is learned, so no result of the test split is used. The global generators are left as they were.

    Args:
        workload: one that has passed `check`.
        file: the user's file that it comes from, if one; its errors are then explained.
        device: where to try it.

    Returns:
        What was seen that is no mistake for sure, but may make the answer mean less than it seems to.

    Raises:
        TaskError: training could not work; the message says where and why.
    """
    try:
        _sendable(workload, file)
        if option(workload, "whole_run") is not None:
            return ()
        return _dry_run(workload, torch.device(device))
    except TaskError:
        raise
    except (Exception, SystemExit) as error:
        if file is None:
            raise
        raise TaskError(explain(error, file)) from error


def _sendable(workload: Workload, file: Path | None) -> None:
    """Pickles the workload as for a worker process. It is not unpickled here: cloudpickle would overwrite the
    methods of the user's class with copies.
    """
    make_sendable()
    try:
        cloudpickle.dumps(workload)
    except Exception as error:
        where = shown(file) if file else type(workload).__name__
        reason = f"the workload cannot be sent to worker processes: {one_line(error)}"
        raise TaskError(f"{where}: {reason}{_unsendable(workload)}") from error


def _unsendable(workload: Workload) -> str:
    """The attributes of a workload that cannot be pickled, and what to do with such."""
    names = []
    for name, value in getattr(workload, "__dict__", {}).items():
        try:
            cloudpickle.dumps(value)
        except Exception:
            names.append(f"self.{name}")
    return f" ({', '.join(names)}; make it in the method that needs it)" if names else ""


def _dry_run(workload: Workload, device: torch.device) -> tuple[Doubt, ...]:
    with left_alone(device):
        model, doubts = _model(workload)
        model = model.to(device)
        if option(workload, "training_loop") is None:
            batch = _first_batch(workload)
            doubts += _order(workload)
            if option(workload, "training_step") is None:
                doubts += _backward(workload, model, moved(batch, device))
        for split in _evaluated(workload):
            doubts += _evaluate(workload, model, split)
        if option(workload, "training_loop") is None:
            doubts += _later(workload, _count(workload))
    return tuple({doubt.text: doubt for doubt in doubts}.values())


def _model(workload: Workload) -> tuple[nn.Module, tuple[Doubt, ...]]:
    first, second = (_made_model(workload) for _ in range(2))
    place = place_of(workload, "model")
    if not any(parameter.requires_grad for parameter in first.parameters()):
        raise TaskError(f"{place}: the model has no parameters to train")
    if not equal(list(first.state_dict().values()), list(second.state_dict().values())):
        raise TaskError(f"{place}: equal seeds gave different weights; draw them from torch or from `seed`")
    return first, _shared(place, first, second)


def _shared(place: str, first: nn.Module, second: nn.Module) -> tuple[Doubt, ...]:
    """Whether two models are one; each is held, so that equal addresses mean the same memory."""
    ours, theirs = ({p.data_ptr() for p in m.parameters() if p.requires_grad} for m in (first, second))
    if not ours & theirs - {0}:
        return ()
    text = (
        f"{place}: it returns the same parameters each time, not a new model. Those of the task and its file "
        "are copied for each run, so that all seeds start from the same weights; those of another module "
        "would be trained on and on."
    )
    return (Doubt("model", text),)


def _made_model(workload: Workload) -> nn.Module:
    made = _seeded(workload.model)
    if not isinstance(made, nn.Module):
        raise TaskError(f"{place_of(workload, 'model')}: it returned {brief(made)}, not a torch.nn.Module")
    return settled(workload, made, SEED)


def _first_batch(workload: Workload) -> Any:
    first, second = (next(_iterate(workload), ABSENT) for _ in range(2))
    place = place_of(workload, "batches")
    if first is ABSENT:
        raise TaskError(f"{place}: it gave no batch")
    if not equal(first, second):
        raise TaskError(f"{place}: equal seeds gave different first batches; draw their order from `seed`")
    return first


def _order(workload: Workload) -> tuple[Doubt, ...]:
    """Whether `batches` seeds torch's generator, by which a DataLoader shuffles, alike for all seeds."""
    seeds = set()
    for seed in (seeding.MARK, seeding.MARK + 1):
        seed_all(seed)
        next(iter(workload.batches(seed)), None)
        if torch.initial_seed() == seed:
            return ()
        seeds.add(torch.initial_seed())
    return seeding.doubt(place_of(workload, "batches"), {"torch"} if len(seeds) == 1 else set())


def _backward(workload: Workload, model: nn.Module, batch: Any) -> tuple[Doubt, ...]:
    with seeding.watched() as seeded:
        loss = workload.loss(model.train(), batch)
    place = place_of(workload, "loss")
    if any(parameter.grad is not None for parameter in model.parameters()):
        raise TaskError(
            f"{place}: it differentiates the loss itself, which the lab does too; return the loss alone, or "
            "write a training_step(run, batch)"
        )
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else brief(loss)
        raise TaskError(f"{place}: it returned {what}, not a scalar tensor")
    if not loss.requires_grad:
        raise TaskError(f"{place}: the loss cannot be differentiated: it was detached or made anew")
    if not math.isfinite(loss.item()):
        raise TaskError(f"{place}: the loss before training is {loss.item()}")
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients:
        raise TaskError(f"{place}: the loss does not depend on the model's parameters")
    if not all(bool(numbers(gradient).isfinite().all()) for gradient in gradients):
        raise TaskError(f"{place}: a gradient before training is not finite")
    return seeding.doubt(place, seeded)


def _evaluated(workload: Workload) -> tuple[Split, ...]:
    if option(workload, "until_loss") is None:
        return ("validation", "test")
    return ("train", "validation", "test")


def _evaluate(workload: Workload, model: nn.Module, split: Split) -> tuple[Doubt, ...]:
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    with torch.no_grad(), seeding.watched() as seeded:
        evaluation = workload.evaluate(model.eval(), split)
    place = f"{place_of(workload, 'evaluate')} on {split}"
    for name, value in measured(workload, split, evaluation)._asdict().items():
        if not math.isfinite(value):
            raise TaskError(
                f"{place}: {name} is {value} before training; return what counts where it is undefined"
            )
    if split != "train" and option(workload, "further") is not None:
        _further(workload, model, split)
    own = place_of(workload, "evaluate")
    return seeding.doubt(own, seeded) + _untouched(own, before, model.state_dict())


def _untouched(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Doubt, ...]:
    """Whether evaluation has left the model as it was; else what is held out becomes part of it."""
    changed = [name for name in before if name not in after or not equal(before[name], after[name])]
    if not changed:
        return ()
    text = (
        f"{place}: it changes the model ({', '.join(changed[:3])}{', ...' * (len(changed) > 3)}), so that it "
        "learns from what is held out, as batch norm does in training mode. Leave it in evaluation mode."
    )
    return (Doubt("evaluation", text),)


def _further(workload: Workload, model: nn.Module, split: Split) -> None:
    with torch.no_grad():
        found = workload.further(model, split)
    good = isinstance(found, Mapping) and all(isinstance(name, str) for name in found)
    if not good or not all(map(_is_number, found.values())):
        place = f"{place_of(workload, 'further')} on {split}"
        raise TaskError(f"{place}: it returned {brief(found)}, not a dictionary of numbers by name")


def measured(workload: Workload, split: Split, evaluation: Any) -> Evaluation:
    """What `evaluate` returned, with floats for tensors and NumPy's numbers.

    Raises:
        TaskError: it is no evaluation, or one of its two is not a number.
    """
    place = f"{place_of(workload, 'evaluate')} on {split}"
    if not isinstance(evaluation, Evaluation):
        raise TaskError(f"{place}: it returned {brief(evaluation)}; return Evaluation(metric=..., loss=...)")
    for name, value in evaluation._asdict().items():
        if not _is_number(value):
            raise TaskError(f"{place}: {name} is {brief(value)}, not a number")
    return Evaluation(*map(_float, evaluation))


def _float(value: Any) -> float:
    number = value.item() if isinstance(value, Tensor | np.ndarray) else value
    try:
        return float(number)
    except OverflowError:  # a whole number beyond all floats
        return math.inf if number > 0 else -math.inf


def _count(workload: Workload) -> list[int]:
    """Draws batches until there are enough or a second is over, and gives a mark of each."""
    deadline = time.monotonic() + COUNTING_SECONDS
    needed, marks = batches_needed(workload), list[int]()
    for batch in islice(_iterate(workload), needed):
        marks.append(_mark(batch))
        if time.monotonic() > deadline:
            return marks
    if (drawn := len(marks)) < needed:
        each = option(workload, "accumulate")
        times = f" and accumulate is {each}" if each > 1 else ""
        raise TaskError(
            f"{place_of(workload, 'batches')}: it gave {drawn} batches, but steps is "
            f"{workload.steps}{times}; begin anew when the data are used up"
        )
    return marks


def _later(workload: Workload, marks: list[int]) -> tuple[Doubt, ...]:
    """Whether the batches with these marks come again with the same seed, where the first one does.

    Where it does not, the task itself has gone on, as with a count of epochs; each run has a new copy of it.
    """
    again = [_mark(batch) for batch in islice(_iterate(workload), len(marks))]
    same = [one == other for one, other in zip(marks, again, strict=False)]
    if all(same) or not same[0]:
        return ()
    text = (
        f"{place_of(workload, 'batches')}: equal seeds gave equal batches at first, but batch "
        f"{same.index(False) + 1} was another, so runs are not compared exactly pair by pair. Draw all of "
        "them from `seed`, or from torch's, NumPy's or Python's global generator."
    )
    return (Doubt("repeat", text),)


def _mark(batch: Any) -> int:
    """A number that is equal for equal batches; what is neither number nor text counts for nothing."""
    found = 0
    for leaf in leaves(batch):
        if (
            isinstance(leaf, Tensor)
            and leaf.layout == torch.strided
            and not (leaf.is_nested or leaf.is_quantized)
        ):
            leaf = leaf.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
            leaf = leaf.numpy()
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
            found = zlib.crc32(np.ascontiguousarray(leaf).data, found)
        elif isinstance(leaf, int | float | str | bytes):
            found = zlib.crc32(repr(leaf).encode(), found)
    return found


def _iterate(workload: Workload) -> Iterator[Any]:
    batches = _seeded(workload.batches)
    try:
        return iter(batches)
    except TypeError:
        place = place_of(workload, "batches")
        raise TaskError(f"{place}: it returned {brief(batches)}, which gives no batches") from None


def _seeded(function: Callable[[int], Any]) -> Any:
    seed_all(SEED)
    return function(SEED)


def _is_number(value: Any) -> bool:
    """Whether it is one number: Python's, numpy's, or a tensor of one element."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    if isinstance(value, np.ndarray):
        return value.size == 1 and value.dtype.kind in "iuf"
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def equal(first: Any, second: Any) -> bool:
    """Whether two batches hold the same numbers; what is neither number nor text is not compared."""
    ours, theirs = list(leaves(first)), list(leaves(second))
    return len(ours) == len(theirs) and all(map(_same_leaf, ours, theirs))


def _same_leaf(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.is_sparse or first.is_nested or first.is_quantized:
            return True
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        return bool(((first == second) | ((first != first) & (second != second))).all())
    if isinstance(first, np.ndarray) and first.dtype.kind in "biufc":
        return np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")
    if isinstance(first, int | float | str | bytes):
        return first == second or first != first
    return True
