"""The simulation drives the real protocol; a tiny form of it."""

import re

import numpy as np
import pytest

from thalweg.cli import main
from thalweg.lab.simulating import studies
from thalweg.lab.simulating.families import FAMILIES
from thalweg.lab.simulating.studies import begin, cases, complete, outcomes
from thalweg.lab.study import protocol

NAMES = {family.name: family for family in FAMILIES}
STUDIES = 40


@pytest.mark.parametrize("name", ["normal", "exponential", "accuracy", "crashes", "one-exponential"])
def test_equal_optimizers_are_seldom_told_apart(name):
    family = NAMES[name]
    equal, usual, behind, _ = (list(outcomes(family, case, 2, range(STUDIES), 1)) for case in cases(family))
    # Of 40 at 5 %, more than six are one in two hundred.
    assert sum(outcome.ahead for outcome in equal) <= 6
    assert sum(outcome.ahead for outcome in usual) <= 6
    assert sum(outcome.beyond for outcome in behind) <= 6
    assert np.mean([outcome.covered for outcome in equal]) > 0.85


def test_a_clear_lead_is_told_and_takes_fewer_seeds():
    family = NAMES["normal"]
    equal, _, _, lead = (list(outcomes(family, case, 2, range(20), 1)) for case in cases(family))
    assert np.mean([outcome.told for outcome in lead]) > 0.7
    assert np.mean([outcome.seeds for outcome in lead]) < np.mean([outcome.seeds for outcome in equal])


def test_a_made_up_study_is_one_of_the_protocols():
    family = NAMES["peaked"]
    made = complete(begin(family, cases(family)[0], 3, 7), family, np.zeros(3), np.random.default_rng(7))
    assert protocol.is_complete(made)
    assert {r.trial.stage for r in made.records} >= {"tune", "confirm", "final"}
    assert len(made.final_of(made.spaces[0])) in studies.looks_up_to(studies.SEEDS)


def test_the_command_gives_a_table(capsys):
    with pytest.raises(SystemExit) as done:
        main(["simulate", "--families", "normal", "--optimizers", "2", "--studies", "3"])
    assert done.value.code == 0
    head, _, line = capsys.readouterr().out.splitlines()
    assert head.startswith("| family | optimizers | ahead, margin 0")
    assert re.fullmatch(r"\| normal \| 2 (\| \d+\.\d % ){5}(\| \d+\.\d ){2}\|", line)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--families", "odd"], "--families: unknown family 'odd'; there are normal, "),
        (["--optimizers", "1"], "--optimizers must be whole numbers of at least 2"),
        (["--optimizers", "x"], "--optimizers must be whole numbers of at least 2"),
        (["--studies", "0"], "--studies must be a whole number of at least 1, not 0"),
    ],
)
def test_options_that_cannot_be_met_are_named(options, message, capsys):
    with pytest.raises(SystemExit) as done:
        main(["simulate", *options])
    assert done.value.code == 2
    assert message in capsys.readouterr().err
