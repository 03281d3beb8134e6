import math

import pytest
import torch
from torch import nn

import thalweg
from thalweg.lab import spaces


@pytest.mark.parametrize("name", spaces.SPACES)
def test_the_line_to_paste_builds_what_was_measured(name):
    space = spaces.find(name)
    model = nn.Linear(2, 1)
    measured = space.build(model.parameters(), 0.00123)
    pasted = eval(space.code(0.00123), {"thalweg": thalweg, "model": model})
    assert type(pasted) is type(measured)
    assert pasted.defaults == measured.defaults
    assert pasted.defaults["lr"] == 0.00123


@pytest.mark.parametrize("space", spaces.SPACES.values(), ids=list(spaces.SPACES))
def test_every_range_is_three_decades_wide(space):
    assert math.log10(space.high / space.low) == pytest.approx(3)


def test_sgd_has_momentum():
    optimizer = spaces.find("sgd").build([torch.zeros(1, requires_grad=True)], 0.1)
    assert optimizer.defaults["momentum"] == 0.9


def test_an_unknown_name_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="unknown optimizer 'sgdd'; choose from: sgd, rmsprop"):
        spaces.find("sgdd")


def test_a_class_that_thalweg_lacks_is_unknown(monkeypatch):
    monkeypatch.delattr(thalweg, "AdamW")
    with pytest.raises(ValueError, match="unknown optimizer 'adamw'"):
        spaces.find("adamw")
