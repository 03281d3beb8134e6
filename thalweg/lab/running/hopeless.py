"""Trials that training only makes worse: they end early, by one rule for all optimizers.

A trial is hopeless when half of its steps are over and at every evaluation so far, four at least, both the
validation metric and the validation loss were worse than before training. Nothing else is looked at: neither
other runs, so that a record still depends on its trial alone, nor how much worse.

Only where settings are searched. A run that confirms or measures counts as the worst outcome if it does not
come to its end, which the result that it would have come to may not deserve.

What the rule costs is measured: a tenth of the hopeless trials, drawn by what they are, is finished anyway.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from thalweg.lab.study.record import Trial
from thalweg.lab.workload import Evaluation

STRETCH = 0.5
"""The share of the steps during which it must have been worse,"""

EVALUATIONS = 4
"""at so many evaluations at least."""

FINISHED = 10
"""One of so many hopeless trials is finished all the same."""

STAGES = ("tune", "extend")
"""Where trials end early."""


@dataclass
class Hope:
    """What evaluations tell of a run so far.

    Attributes:
        higher_is_better: of the metric.
        before: the evaluation before training.
        worse: how many there were since, all worse; None as soon as one was not.
    """

    higher_is_better: bool
    before: Evaluation | None = None
    worse: int | None = 0

    def look(self, step: int, evaluation: Evaluation) -> None:
        """Takes note of an evaluation."""
        if step == 0:
            self.before = evaluation
        elif self.worse is not None and self.before is not None:
            self.worse = self.worse + 1 if self._is_worse(evaluation) else None

    def is_lost(self, step: int, steps: int) -> bool:
        """Whether the run is hopeless at this step of all `steps`."""
        enough = step >= STRETCH * steps and (self.worse or 0) >= EVALUATIONS
        return self.before is not None and enough and step < steps

    def _is_worse(self, evaluation: Evaluation) -> bool:
        assert self.before is not None
        sign = 1 if self.higher_is_better else -1
        gained = sign * (evaluation.metric - self.before.metric)
        return gained < 0 and evaluation.loss > self.before.loss

    def reason(self, workload: Any, step: int) -> str:
        """Why it is, for the record."""
        return (
            f"validation {workload.metric} and loss were worse than before training at all {self.worse} "
            f"evaluations up to step {step} of {workload.steps}"
        )


def is_finished_anyway(trial: Trial) -> bool:
    """Whether a trial is of the tenth that is not ended."""
    return int(hashlib.sha256(f"finished {trial.key}".encode()).hexdigest(), 16) % FINISHED == 0
