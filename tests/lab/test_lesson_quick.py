"""Every claim in its short form: real runs, two seeds and a few steps. What they say means nothing.

With ``THALWEG_TEST_LESSON=all`` the remedies too, and two learning rates, of which the better is confirmed.
"""

import math
import os

import pytest

from thalweg.lab.lesson import experiment as experiment_
from thalweg.lab.lesson import known, making, wording
from thalweg.lab.lesson.claims import catalogue
from thalweg.lab.lesson.experiment import QUICK_SEEDS
from thalweg.lab.lesson.plans import factorial
from thalweg.lab.running.connecting import IN_MEMORY
from thalweg.lab.running.pool import Pool
from thalweg.lab.study.protocol import due
from thalweg.lab.workload.data import MissingDataError

CLAIMS = catalogue()
WITH_ALL = os.environ.get("THALWEG_TEST_LESSON") == "all"
TUNED = ("E3",)
"""Claims whose rates are always tuned and confirmed; they share no experiment with others."""


@pytest.fixture(scope="module")
def pool():
    with Pool(2) as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lesson")


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.experiments])
def test_a_claim_runs(name, pool, folder, monkeypatch):
    claim = CLAIMS[name]
    if not WITH_ALL and name not in TUNED and {e.plan for e in claim.experiments} <= {due, factorial}:
        monkeypatch.setattr(experiment_, "QUICK_TRIALS", 1)
    for experiment in claim.needed.values() if WITH_ALL else claim.experiments:
        try:
            making.make(experiment.shortened(), folder, pool, storage=IN_MEMORY, say=print)
        except MissingDataError as missing:
            pytest.skip(str(missing))
    (found,) = known.look(folder, [claim], quick=True)
    assert not {e.name for e in found.open} & {e.name for e in claim.experiments}
    if claim.exact is None:
        assert len(found.values) == QUICK_SEEDS
        assert all(map(math.isfinite, found.values.values()))
        assert found.verdict.kind == "inconclusive", "two seeds tell nothing"
    assert all(line.text for line in claim.secondary(found.found))
    assert list(wording.listed([found]))
