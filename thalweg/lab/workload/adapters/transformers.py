"""The model, the data and the collator of a Hugging Face Trainer."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from thalweg.lab.workload.adapters.means import Means, size_of
from thalweg.lab.workload.batches import moved
from thalweg.lab.workload.contract import Evaluation, Split, Workload, device_of
from thalweg.lab.workload.tasks.errors import TaskError

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant"}
"""What a Trainer calls the schedules that the lab knows."""


class TransformersTask(Workload):
    """Trains a model whose forward pass returns its loss, as those of transformers do with `labels`.

    Args:
        model: makes the model, as a Trainer's `model_init`; or the model itself, of which every run gets a
            copy with the same weights.
        train: examples to train on; `validation` and `test` likewise.
        validation: to choose on.
        test: to report on.
        collate: makes a batch of a list of examples, as a Trainer's `data_collator`.
        steps: optimizer steps of one run.
        batch_size: examples in a batch.
        evaluate_every: steps between two evaluations; by default a tenth.
        compute_metrics: as a Trainer's: from an `EvalPrediction` to a dictionary of numbers.
        metric: which of these decides; by default the loss.
        more: what a task may have: `higher_is_better`, `clip_norm`, `schedule`, `autocast`, ...
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        train: Sequence[Any],
        validation: Sequence[Any],
        test: Sequence[Any],
        collate: Callable[[list[Any]], Any],
        *,
        steps: int,
        batch_size: int,
        evaluate_every: int | None = None,
        compute_metrics: Callable[[Any], dict[str, float]] | None = None,
        metric: str = "loss",
        **more: Any,
    ) -> None:
        self.made, self.collate, self.compute_metrics = model, collate, compute_metrics
        self.data = {"train": train, "validation": validation, "test": test}
        self.steps, self.batch_size, self.metric = steps, batch_size, metric
        self.evaluate_every = evaluate_every or max(1, steps // 10)
        for name, value in more.items():
            setattr(self, name, value)

    @classmethod
    def of(cls, trainer: Any, test: Sequence[Any], **more: Any) -> "TransformersTask":
        """The task of a Trainer that has not trained yet: its model, data, collator and arguments.

        Batch size, `max_steps`, accumulation, clipping, schedule and precision are those of its arguments;
        its optimizer is not, since that is what is compared. A subclass' `compute_loss` is not called.

        Args:
            trainer: with a train_dataset and an eval_dataset, which validates.
            test: examples of which neither has any.
            more: what is to be otherwise, such as `steps` or `metric`.
        """
        given = trainer.args
        schedule = str(getattr(given.lr_scheduler_type, "value", given.lr_scheduler_type))
        stated: dict[str, Any] = {
            "steps": given.max_steps,
            "batch_size": given.per_device_train_batch_size,
            "accumulate": given.gradient_accumulation_steps,
            "clip_norm": given.max_grad_norm or None,
            "autocast": "bfloat16" if given.bf16 else "float16" if given.fp16 else None,
            "schedule": SCHEDULES.get(schedule, schedule),
            "compute_metrics": trainer.compute_metrics,
            **more,
        }
        if stated["steps"] < 1:
            raise TaskError("a Trainer without max_steps: say steps=")
        init = getattr(trainer, "model_init", None)
        model = trainer.model if init is None else init
        return cls(model, trainer.train_dataset, trainer.eval_dataset, test, trainer.data_collator, **stated)

    def model(self, seed: int) -> nn.Module:
        """A new model, or a copy of the one that was given."""
        made = self.made
        return copy.deepcopy(made).cpu() if isinstance(made, nn.Module) else made()

    def batches(self, seed: int) -> Iterator[Any]:
        """Epoch after epoch in a new random order, without the last incomplete batch."""
        data, generator = self.data["train"], np.random.default_rng(seed)
        if len(data) < self.batch_size:
            raise TaskError(f"{len(data)} examples to train on are no batch of {self.batch_size}")
        while True:
            order = generator.permutation(len(data))
            for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
                rows = order[start : start + self.batch_size]
                yield self.collate([data[int(row)] for row in rows])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss that the model returns."""
        return _loss_of(model(**batch))

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Mean loss over a split, and what `compute_metrics` makes of the predictions."""
        data, device = self.data[split], device_of(model)
        means, predicted, labels = Means(), list[Any](), list[Any]()
        for start in range(0, len(data), self.batch_size):
            examples = [data[row] for row in range(start, min(start + self.batch_size, len(data)))]
            batch = moved(self.collate(examples), device)
            outputs = model(**batch)
            means.add("loss", _loss_of(outputs), size_of(batch))
            if self.compute_metrics is not None:
                predicted.append(outputs["logits"].float().cpu().numpy())
                labels.append(batch["labels"].cpu().numpy())
        found = dict(means.values())
        if self.compute_metrics is not None:
            from transformers import EvalPrediction  # type: ignore[import-not-found,unused-ignore]

            predictions = EvalPrediction(predictions=_joined(predicted), label_ids=_joined(labels))
            found |= {
                key.removeprefix("eval_"): float(v) for key, v in self.compute_metrics(predictions).items()
            }
        name = self.metric.removeprefix("eval_")
        if name not in found:
            raise TaskError(f"metric {self.metric!r} is not computed; there are: {', '.join(found)}")
        return Evaluation(found[name], found["loss"])


def _loss_of(outputs: Any) -> Tensor:
    loss = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
    if not isinstance(loss, Tensor):
        raise TaskError("the model returned no loss: do the batches have labels?")
    return loss


def _joined(parts: list[Any]) -> Any:
    """Batches under each other, padded with -100 where sequences differ in length, as a Trainer does."""
    longest = max(part.shape[1] if part.ndim > 1 else 0 for part in parts)

    def padded(part: Any) -> Any:
        if part.ndim < 2:
            return part
        missing = [(0, 0), (0, longest - part.shape[1]), *[(0, 0)] * (part.ndim - 2)]
        return np.pad(part, missing, constant_values=-100)

    return np.concatenate([padded(part) for part in parts])
