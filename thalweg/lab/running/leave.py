"""Whether a final run may be measured, and how much of its time that may take."""

import math
from dataclasses import dataclass

from thalweg.lab.study.study import Study
from thalweg.lab.study.why import Why

SHARE = 0.2
"""The most of the time of an optimizer's runs, from the first trial on, that may be spent on this."""


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
