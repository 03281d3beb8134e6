"""The warning that a learning rate is too small for the weights' precision."""

from __future__ import annotations

import warnings

import pytest
import torch
from support import leaf, rand

import thalweg as tw


def step(param, optimizer):
    param.grad = rand(*param.shape, seed=1).to(param.dtype)
    optimizer.step()


@pytest.mark.parametrize(
    ("name", "lr", "dtype"),
    [("Adam", 1e-4, torch.bfloat16), ("Adam", 1e-5, torch.float16), ("SGD", 1e-4, torch.bfloat16)],
)
def test_steps_that_are_rounded_away_are_warned_of_once(name, lr, dtype):
    param = leaf(rand(5000) + 3, dtype)
    optimizer = getattr(tw, name)([param], lr=lr)
    what = f"group 0, with lr={lr:g}, .*100% of its {str(dtype)[6:]} weights; weight_bits=16, 24 or 32"
    with pytest.warns(UserWarning, match=what):
        step(param, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(param, optimizer)


@pytest.mark.parametrize(
    ("lr", "dtype", "storage"),
    [
        (1e-1, torch.bfloat16, {}),
        (1e-3, torch.float16, {}),
        (1e-6, torch.float32, {}),
        (1e-4, torch.bfloat16, {"weight_bits": 16}),
        (1e-4, torch.bfloat16, {"weight_bits": 24}),
        (0.0, torch.bfloat16, {}),
    ],
)
def test_no_warning_where_weights_move_or_are_not_meant_to(lr, dtype, storage):
    param = leaf(rand(5000) + 3, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(param, tw.Adam([param], lr=lr, **storage))


def test_each_group_is_looked_at_when_it_first_has_gradients():
    params = [leaf(rand(50) + 3, torch.bfloat16) for _ in range(2)]
    optimizer = tw.Adam([{"params": [p]} for p in params], lr=1e-4)
    with pytest.warns(UserWarning, match="group 1"):
        step(params[1], optimizer)
    params[1].grad = None
    with pytest.warns(UserWarning, match="group 0"):
        step(params[0], optimizer)
