"""Steps that are differentiated: gradients by all that may require one, against differences and torch."""

from __future__ import annotations

import pytest
import torch
from support import NAMES, assert_close, leaf, rand

import thalweg as tw

VALUES = {
    "lr": 0.1,
    "momentum": 0.9,
    "dampening": 0.1,
    "weight_decay": 0.05,
    "alpha": 0.9,
    "eps": 1e-3,
    "betas": (0.8, 0.9),
    "lr_decay": 0.1,
    "rho": 0.9,
    "momentum_decay": 4e-3,
}

# With flags that change the maths of the scalars.
RUNS = [
    *[(name, {}) for name in (*NAMES, "Lion")],
    ("SGD", {"decoupled_weight_decay": True}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"debias": True, "momentum_ema": True, "nesterov": True}),
    ("Adam", {"amsgrad": True}),
    ("NAdam", {"decoupled_weight_decay": True}),
]


def numbers_of(name):
    """Return the hyperparameters that are numbers, and that steps after the first one read."""
    hypers = getattr(tw, name).rule.hypers
    return [h.name for h in hypers if h.name in VALUES]


def cases():
    for name, flags in RUNS:
        for key in (None, *numbers_of(name)):
            yield pytest.param(name, flags, key, id=f"{name}-{','.join(flags)}-{key}")


@pytest.fixture(autouse=True)
def in_float64():
    # Counters are then float64, and differences are not lost in the rounding of theirs.
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def loss_of(library, name, root, arguments, differentiable):
    """Take steps from `root`, on gradients that depend on it, and return a number."""
    param = root.clone()
    optimizer = getattr(library, name)([param], differentiable=differentiable, **arguments)
    for i in range(7):  # RAdam trusts its variance after five
        param.grad = torch.sin(param.clone()) + rand(4, seed=i)
        optimizer.step()
    return (param * torch.arange(1.0, 5.0)).sum()


def slopes(library, name, flags, key):
    """Return the loss's gradients by the root and by a hyperparameter."""
    root = leaf(rand(4, seed=9))
    arguments, by = {k: VALUES[k] for k in numbers_of(name)} | flags, [root]
    if key is not None:
        value = arguments[key]
        given = tuple(map(tensor_of, value)) if key == "betas" else tensor_of(value)
        arguments[key] = given
        by += given if key == "betas" else [given]
    return torch.autograd.grad(loss_of(library, name, root, arguments, True), by, allow_unused=True)


def tensor_of(value):
    return torch.tensor(value, requires_grad=True)


def difference(name, flags, key, index):
    """Return the slope by a hyperparameter, or by an element of the root, from plain steps."""
    step = 1e-6

    def at(distance):
        arguments, start = {k: VALUES[k] for k in numbers_of(name)} | flags, rand(4, seed=9)
        if key is None:
            start[index] += distance
        elif key == "betas":
            arguments[key] = tuple(b + distance * (i == index) for i, b in enumerate(VALUES[key]))
        else:
            arguments[key] = VALUES[key] + distance
        with torch.no_grad():
            return loss_of(tw, name, start, arguments, False).item()

    return (at(step) - at(-step)) / (2 * step)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "flags", "key"), cases())
def test_gradients_are_slopes(name, flags, key):
    of_root, *of_key = slopes(tw, name, flags, key)
    found = of_root if key is None else torch.stack([torch.zeros(()) if g is None else g for g in of_key])
    expected = torch.tensor([difference(name, flags, key, i) for i in range(len(found))])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "key"),
    [
        *[(name, None) for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop")],
        *[(name, key) for name in ("Adam", "AdamW") for key in ("lr", "betas", "eps", "weight_decay")],
        *[("RAdam", "lr"), ("NAdam", "eps"), ("RMSprop", "momentum"), ("Adadelta", "eps")],
    ],
)
def test_gradients_are_torchs_where_torch_has_them(name, key):
    # Not SGD's: torch detaches the momentum that the first gradient makes.
    for one, other in zip(slopes(tw, name, {}, key), slopes(torch.optim, name, {}, key), strict=True):
        assert_close(one, other, rtol=1e-8)


@pytest.mark.parametrize("library", [tw, torch.optim], ids=["ours", "torch"])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop"])
def test_a_counter_that_requires_a_gradient_is_refused(library, name):
    param = leaf(rand(4)).clone()
    optimizer = getattr(library, name)([param], differentiable=True)
    param.grad = torch.ones(4)
    optimizer.step()
    optimizer.state[param]["step"] = torch.tensor(1.0, requires_grad=True)
    before = param.detach().clone()
    with pytest.raises(RuntimeError, match=r"`requires_grad` is not supported for `step`|leaf Variable"):
        optimizer.step()
    assert torch.equal(param.detach(), before)


def test_betas_in_one_tensor():
    betas = torch.tensor([0.8, 0.9], requires_grad=True)
    param = leaf(rand(4)).clone()
    optimizer = tw.Adamax([param], betas=betas, differentiable=True)
    for i in range(2):
        param.grad = rand(4, seed=i)
        optimizer.step()
    (slope,) = torch.autograd.grad(param.sum(), betas)
    assert slope.shape == (2,)
    assert slope.all()


def test_keys_of_a_group_that_are_no_strings():
    param = leaf(rand(4)).clone()
    optimizer = tw.SGD([{"params": [param], 5: "five"}], differentiable=True)
    param.grad = rand(4)
    optimizer.step()
