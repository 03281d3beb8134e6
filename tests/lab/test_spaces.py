import math

import pytest
import torch
from torch import nn

import thalweg
from thalweg.lab import spaces
from thalweg.lab.spaces import FEW, MANY, SOME, Axis, Space
from thalweg.lab.spaces.search import points


def pasted(line: str, model: nn.Module) -> torch.optim.Optimizer:
    return eval(line, {"thalweg": thalweg, "torch": torch, "model": model})


def middle(space: Space, trials: int) -> dict[str, float]:
    return {axis.name: float(f"{math.sqrt(axis.low * axis.high):.3g}") for axis in space.searched(trials)}


@pytest.mark.parametrize("trials", [FEW, SOME, MANY])
@pytest.mark.parametrize("name", spaces.SPACES)
def test_the_line_to_paste_builds_what_was_measured(name, trials):
    space = spaces.find(name)
    model = nn.Linear(2, 1)
    for point in [middle(space, trials), *points(space.searched(trials), 8, seed=1)]:
        settings = space.settings(point)
        measured = spaces.build(space.optimizer, model.parameters(), settings)
        again = pasted(spaces.code(space.optimizer, settings), model)
        assert type(again) is type(measured)
        assert again.defaults == measured.defaults
        assert {key: measured.defaults[key] for key in settings} == settings


@pytest.mark.parametrize("name", spaces.SPACES)
def test_corners_of_every_range_are_accepted_by_the_optimizer(name):
    space = spaces.find(name)
    axes = space.searched(MANY)
    for corner in ("low", "high"):
        point = {axis.name: getattr(axis, corner) for axis in axes}
        # A range may be extended twice by a decade.
        point[axes[0].name] *= 100 if corner == "high" else 0.01
        spaces.build(space.optimizer, nn.Linear(2, 1).parameters(), space.settings(point))


@pytest.mark.parametrize(
    ("trials", "counts"),
    [
        (1, {"sgd": 1, "rmsprop": 1, "adamw": 1, "adagrad": 1}),
        (9, {"sgd": 1, "rmsprop": 1, "adamw": 1, "adagrad": 1}),
        (10, {"sgd": 2, "rmsprop": 2, "adamw": 2, "adagrad": 1}),
        (24, {"sgd": 2, "rmsprop": 2, "adamw": 2, "adagrad": 1}),
        (25, {"sgd": 3, "rmsprop": 5, "adamw": 5, "adagrad": 3}),
    ],
)
def test_more_trials_search_more_axes(trials, counts):
    assert {name: len(spaces.find(name).searched(trials)) for name in counts} == counts


def test_ranges_are_those_of_the_protocol():
    def ranges(name):
        return {axis.name: (axis.low, axis.high) for axis in spaces.find(name).axes}

    assert ranges("sgd") == {
        "lr / (1 - momentum)": (1e-3, 10),
        "1 - momentum": (1e-2, 1),
        "weight_decay": (1e-6, 1e-2),
    }
    assert ranges("rmsprop") == {
        "lr": (1e-5, 3e-2),
        "1 - momentum": (1e-2, 1),
        "1 - alpha": (1e-3, 0.3),
        "eps": (1e-10, 1),
        "weight_decay": (1e-6, 1e-2),
    }
    assert ranges("adamw") == {
        "lr": (3e-5, 3e-2),
        "1 - beta1": (1e-2, 1),
        "1 - beta2": (1e-4, 0.1),
        "eps": (1e-10, 1),
        "weight_decay": (1e-4, 0.5),
    }


def test_axes_that_are_not_searched_take_their_defaults():
    sgd, adamw, rmsprop = map(spaces.find, ("sgd", "adamw", "rmsprop"))
    # The effective rate lr / (1 - momentum) is what is searched.
    assert sgd.settings({"lr / (1 - momentum)": 0.5}) == {"lr": 0.05, "momentum": 0.9}
    assert sgd.settings({"lr / (1 - momentum)": 0.5, "1 - momentum": 0.02}) == {"lr": 0.01, "momentum": 0.98}
    assert adamw.settings({"lr": 0.01}) == {"lr": 0.01, "betas": (0.9, 0.999)}
    assert adamw.settings({"lr": 0.01, "1 - beta1": 0.2}) == {"lr": 0.01, "betas": (0.8, 0.999)}
    assert rmsprop.settings({"lr": 0.01}) == {"lr": 0.01}


def test_hyperparameters_that_a_line_shows_are_short():
    for name in spaces.SPACES:
        space = spaces.find(name)
        for point in points(space.searched(MANY), 16, seed=2):
            line = spaces.code(space.optimizer, space.settings(point))
            assert "00000" not in line
            assert "99999" not in line


def test_an_optimizer_of_torch_is_searched_like_ours_of_that_name():
    ours, torchs = spaces.find("adamw"), spaces.find("torch.optim.AdamW")
    assert (torchs.name, torchs.optimizer, torchs.title) == ("torch.optim.AdamW",) * 3
    assert torchs.axes == ours.axes
    settings = torchs.settings(middle(torchs, MANY))
    model = nn.Linear(2, 1)
    measured = spaces.build(torchs.optimizer, model.parameters(), settings)
    assert type(measured) is torch.optim.AdamW
    assert pasted(spaces.code(torchs.optimizer, settings), model).defaults == measured.defaults


def test_names_are_found_in_any_case_and_by_the_path_of_ours():
    assert spaces.find("AdamW") is spaces.SPACES["adamw"]
    assert spaces.find("thalweg.Lion").optimizer == "thalweg.Lion"


def test_spaces_of_a_task_come_before_ours_and_are_found_by_name_or_path():
    own = [
        Space("adamw", "thalweg.AdamW", [Axis("lr", 1e-4, 1e-3)], {"betas": (0.8, 0.9)}),
        Space("asgd", "torch.optim.ASGD", [Axis("lr", 1e-3, 1.0), Axis("alpha", 0.5, 0.9, trials=SOME)]),
    ]
    assert spaces.find("adamw", own) is own[0]
    assert spaces.find("asgd", own) is own[1]
    assert spaces.find("torch.optim.ASGD", own) is own[1]
    assert own[0].settings({"lr": 5e-4}) == {"lr": 5e-4, "betas": (0.8, 0.9)}
    assert own[1].settings({"lr": 0.1}) == {"lr": 0.1}
    assert own[1].settings({"lr": 0.1, "alpha": 0.7}) == {"lr": 0.1, "alpha": 0.7}
    optimizer = spaces.build("torch.optim.ASGD", nn.Linear(2, 1).parameters(), {"lr": 0.1, "alpha": 0.7})
    assert type(optimizer) is torch.optim.ASGD


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sgdd", ["unknown optimizer 'sgdd'", "choose from: mine, sgd, rmsprop", "dotted path"]),
        ("", ["unknown optimizer ''"]),
        ("torch.optim.LBFGS", ["no search space for 'torch.optim.LBFGS'", "spaces"]),
        ("torch.optim.NoSuch", ["no search space for 'torch.optim.NoSuch'"]),
        ("mypkg.MyOpt", ["no search space for 'mypkg.MyOpt'", "spaces"]),
    ],
)
def test_what_cannot_be_found_is_an_error_that_says_what_is_missing(name, words):
    own = [Space("mine", "mypkg.Mine", [Axis("lr", 1e-3, 1.0)])]
    with pytest.raises(ValueError, match=words[0]) as caught:
        spaces.find(name, own)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("path", ["no_such_package.Adam", "torch.optim.NoSuch", "Adam", "torch..Adam", ""])
def test_a_path_without_a_class_is_an_error_that_names_it(path):
    with pytest.raises(ValueError, match="no optimizer at") as caught:
        spaces.build(path, nn.Linear(2, 1).parameters(), {"lr": 0.1})
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0, math.inf), (math.nan, 1.0)]
)
def test_a_range_that_cannot_be_searched_is_an_error(low, high):
    with pytest.raises(ValueError, match="axis 'lr': a range needs 0 < low < high"):
        Axis("lr", low, high)


def test_a_space_without_axes_is_an_error():
    with pytest.raises(ValueError, match="space 'mine': axes must hold at least the learning rate"):
        Space("mine", "mypkg.Mine", [])
    with pytest.raises(ValueError, match="space 'mine': axes must be a list, not a single Axis"):
        Space("mine", "mypkg.Mine", Axis("lr", 1e-3, 1))
    with pytest.raises(ValueError, match="a space's name must be a text that is not empty, not ''"):
        Space("", "mypkg.Mine", [Axis("lr", 1e-3, 1)])


# Ranges that are not a plain log range


def values(axis: Axis) -> list:
    return [point[axis.name] for point in points([axis], 64, seed=3)]


def test_whole_numbers_have_all_their_values_and_no_others():
    found = values(Axis("k", 1, 4, integer=True))
    assert {type(value) for value in found} == {int}
    assert set(found) == {1, 2, 3, 4}


def test_zero_is_a_point_of_its_own_beside_the_range():
    found = values(Axis("weight_decay", 1e-4, 1e-1, zero=True))
    assert 0.15 < found.count(0.0) / len(found) < 0.25
    assert all(value == 0 or 1e-4 <= value <= 1e-1 for value in found)
    assert {min(v for v in found if v) < 3e-4, max(found) > 3e-2} == {True}


def test_choices_are_tried_alike():
    found = values(Axis("nesterov", choices=(True, False), default=False))
    assert found.count(True) == found.count(False) == 32
    assert set(values(Axis("mode", choices=["a", None, 3]))) == {"a", None, 3}


def test_a_linear_range_may_lie_around_zero():
    found = values(Axis("dropout", -0.5, 0.5, scale="linear"))
    assert -0.5 < min(found) < -0.4 < 0.4 < max(found) < 0.5


def test_a_choice_reaches_the_optimizer_and_the_store():
    axes = (Axis("lr", 1e-3, 1.0), Axis("foreach", choices=(None, False)), Axis("k", 0, 3, integer=True,
            scale="linear"))  # fmt: skip
    space = Space("mine", "torch.optim.SGD", axes)
    assert space.settings({"lr": 0.1, "foreach": None, "k": 0}) == {"lr": 0.1, "foreach": None, "k": 0}
    assert space.settings({"lr": 0.1}) == {"lr": 0.1}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"low": 1.0, "high": 2.0, "choices": (1, 2)}, "either a range or choices"),
        ({"choices": (1,)}, "at least two"),
        ({"choices": (1, object())}, "choices must be"),
        ({"low": 0.0, "high": 1.0}, "0 < low < high"),
        ({"low": 1.5, "high": 4, "integer": True}, "whole ends"),
        ({"low": 1.0, "high": 4, "scale": "square"}, "scale must be"),
        ({"low": "1e-3", "high": "1"}, "axis 'x': a range has two numbers, not '1e-3' and '1'"),
        ({"low": None, "high": 1}, "axis 'x': a range has two numbers, not None and 1"),
        (
            {"choices": ((0.9, 0.99), (0.8, 0.99))},
            "such as a tuple, choose by a text and have the space's `arg",
        ),
        ({"choices": (0.9, 0.9)}, "choices must differ"),
    ],
)
def test_an_axis_that_cannot_be_is_told(more, message):
    with pytest.raises(ValueError, match=message):
        Axis("x", **more)


@pytest.mark.parametrize(
    ("axes", "fixed", "message"),
    [
        ([Axis("lr", 0.1, 1.0), Axis("lr", 0.1, 1.0)], {}, "different names, not 'lr' twice"),
        ([Axis("lr", 0.1, 1.0)], {"lr": 0.2}, "'lr' is searched, it cannot be fixed"),
    ],
)
def test_an_argument_has_one_place_in_a_space(axes, fixed, message):
    with pytest.raises(ValueError, match=message):
        Space("mine", "torch.optim.SGD", axes, fixed=fixed)


@pytest.mark.parametrize(
    "axis", [Axis("lr", choices=(0.1, 0.2)), Axis("lr", 1e-3, 1.0, zero=True), Axis("lr", 1, 3, integer=True)]
)
def test_the_learning_rate_is_a_plain_range(axis):
    with pytest.raises(ValueError, match="the first axis is the learning rate"):
        Space("mine", "torch.optim.SGD", (axis,))


def test_ranges_in_words_and_for_the_name_of_a_study():
    assert Axis("lr", 1e-3, 1.0).text() == "0.001 to 1"
    assert Axis("wd", 1e-3, 1.0, zero=True).text() == "0, or 0.001 to 1"
    assert Axis("n", choices=(True, False)).text() == "True or False"
    # As it always was: studies are named by it.
    assert repr(Axis("lr", 1e-3, 1.0)) == "Axis(name='lr', low=0.001, high=1.0, default=None, trials=1)"
    assert repr(Axis("k", 1, 3, integer=True)).endswith("trials=1, integer=True)")


def test_a_space_to_paste_is_said_where_there_is_none():
    with pytest.raises(ValueError, match="no search space") as caught:
        spaces.find("torch.optim.ASGD")
    pasted = str(caught.value).partition("spaces = ")[2]
    [space] = eval(pasted, {"Space": Space, "Axis": Axis})
    assert (space.optimizer, space.axes[0].low, space.axes[0].high) == ("torch.optim.ASGD", 3e-4, 0.3)
