"""What torch accepts is accepted, and means the same; what torch refuses early is refused early."""

from __future__ import annotations

import threading
from collections import OrderedDict, UserDict, UserList, namedtuple
from copy import deepcopy
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from support import NAMES, assert_close, follow, gradients, leaf, rand, twins

import thalweg as tw

BOTH = pytest.mark.parametrize("library", [tw, torch.optim], ids=["ours", "torch"])
ALL = [*NAMES, "Lion"]
WITH_BETAS = ["Adam", "AdamW", "Adamax", "NAdam", "RAdam"]


def made(library, name="SGD", **kwargs):
    """Return an optimizer and its one parameter, which has a gradient."""
    param = leaf(rand(5))
    param.grad = torch.ones_like(param)
    return getattr(library, name)([param], **kwargs), param


def stepped(optimizer, param, steps=2):
    for _ in range(steps):
        param.grad = torch.ones_like(param)
        optimizer.step()
    return param


# --- pairs ---

PAIRS = {
    "tuple": (0.8, 0.9),
    "list": [0.8, 0.9],
    "UserList": UserList([0.8, 0.9]),
    "array": np.array([0.8, 0.9]),
    "tensor": torch.tensor([0.8, 0.9], dtype=torch.float64),
    "tensors": (torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)),
    "scalars": (np.float64(0.8), np.float64(0.9)),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("name", WITH_BETAS)
def test_any_two_numbers_are_betas(name, kind):
    mine, theirs = (made(library, name, betas=PAIRS[kind]) for library in (tw, torch.optim))
    assert type(mine[0].param_groups[0]["betas"]) is type(theirs[0].param_groups[0]["betas"])
    plain = made(tw, name, betas=(0.8, 0.9))
    assert torch.equal(stepped(*mine), stepped(*plain))
    copied = made(tw, name)
    copied[0].load_state_dict(mine[0].state_dict())
    stepped(*copied)


@pytest.mark.parametrize("kind", ["list", "UserList", "array", "tensor"])
def test_betas_that_are_changed_in_place_count(kind):
    results = []
    for library in (tw, torch.optim):
        betas = {
            "list": [0.8, 0.9],
            "UserList": UserList([0.8, 0.9]),
            "array": np.array([0.8, 0.9]),
            "tensor": torch.tensor([0.8, 0.9], dtype=torch.float64),
        }[kind]
        optimizer, param = made(library, "NAdam", betas=betas)
        stepped(optimizer, param)
        betas[0] = 0.5
        results.append(stepped(optimizer, param))
    assert_close(*results)


@pytest.mark.parametrize("kind", [list, tuple])
def test_tensors_among_betas_that_are_changed_in_place_count(kind):
    results = []
    for library in (tw, torch.optim):
        betas = kind([torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)])
        optimizer, param = made(library, "NAdam", betas=betas)
        stepped(optimizer, param)
        betas[0].fill_(0.5)
        results.append(stepped(optimizer, param))
    assert_close(*results)


@pytest.mark.parametrize("name", [*WITH_BETAS, "Lion"])
@pytest.mark.parametrize(
    ("betas", "error"),
    [
        ((0.9, 0.99, 0.5), ValueError),
        ((0.9,), ValueError),
        (np.ones((3,)) / 2, ValueError),
        (0.9, TypeError),
        (None, TypeError),
        ("ab", TypeError),
        ("0.9, 0.99", TypeError),
        (("0.9", "0.99"), TypeError),
        ({0.9, 0.99}, TypeError),
        ({0: 0.9, 1: 0.99}, TypeError),
    ],
    ids=str,
)
def test_what_is_no_pair_is_refused(name, betas, error):
    with pytest.raises(error, match="betas must be two numbers"):
        made(tw, name, betas=betas)
    optimizer, _ = made(tw, name)
    with pytest.raises(error, match="betas must be two numbers"):
        optimizer.add_param_group({"params": [leaf(rand(2))], "betas": betas})
    assert len(optimizer.param_groups) == 1


@BOTH
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"betas": (torch.tensor(0.5), 0.9)}, "betas must be either both floats or both Tensors"),
        ({"betas": (0.5, torch.tensor(0.9))}, "betas must be either both floats or both Tensors"),
        ({"lr": torch.tensor(0.1), "foreach": True}, "lr as a Tensor is not supported"),
        (
            {"betas": (torch.tensor(0.5), torch.tensor(0.9)), "foreach": True},
            r"betas\[0\] as a Tensor is not supported",
        ),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
    ],
    ids=str,
)
def test_tensors_that_adam_refuses_early(library, name, kwargs, match):
    with pytest.raises(ValueError, match=match):
        made(library, name, **kwargs)


@BOTH
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_tensors_that_adam_takes(library, name):
    for kwargs in (
        {"lr": torch.tensor([0.1])},
        {"lr": torch.tensor(0.1), "foreach": False},
        {"betas": (torch.tensor([0.5]), torch.tensor([[0.9]]))},
    ):
        optimizer, param = made(library, name, **kwargs)
        stepped(optimizer, param)
        assert all(b.dim() == 0 for b in optimizer.param_groups[0]["betas"] if isinstance(b, torch.Tensor))
    # A group is not checked by torch.
    optimizer.add_param_group({"params": [other := leaf(rand(3))], "betas": (torch.tensor(0.5), 0.9)})
    stepped(optimizer, other)


@BOTH
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
@pytest.mark.parametrize("other", ["foreach", "differentiable"])
def test_fused_and_another_way_are_refused(library, name, other):
    with pytest.raises(RuntimeError, match="fused"):
        made(library, name, fused=True, **{other: True})


# --- flags and numbers ---

TRUTHS = [0, 1, np.bool_(False), np.bool_(True), None, "yes", torch.tensor(True)]


@pytest.mark.parametrize("truth", TRUTHS, ids=repr)
@pytest.mark.parametrize(
    ("name", "flag", "kwargs"),
    [
        ("Adam", "amsgrad", {}),
        ("AdamW", "amsgrad", {"state": "bfloat16"}),
        ("AdamW", "maximize", {}),
        ("SGD", "nesterov", {"momentum": 0.9}),
        ("SGD", "decoupled_weight_decay", {"weight_decay": 0.1}),
        ("NAdam", "decoupled_weight_decay", {"weight_decay": 0.1}),
        ("RMSprop", "centered", {}),
        ("RMSprop", "debias", {}),
        ("RAdam", "capturable", {}),
    ],
)
def test_flags_are_on_or_off_by_their_truth(name, flag, kwargs, truth):
    given = made(tw, name, **{flag: truth}, **kwargs)
    plain = made(tw, name, **{flag: bool(truth)}, **kwargs)
    assert torch.equal(stepped(*given), stepped(*plain))
    assert given[0].state[given[1]].keys() == plain[0].state[plain[1]].keys()
    group = made(tw, name, **kwargs)[0]
    group.add_param_group({"params": [param := leaf(rand(5))], flag: truth})
    assert torch.equal(stepped(group, param), plain[1])


@pytest.mark.parametrize(
    "number",
    [
        np.float64(0.25),
        np.float32(0.25),
        np.float16(0.25),
        np.array(0.25),
        Fraction(1, 4),
        torch.tensor(0.25),
        torch.tensor([0.25]),
        torch.tensor(0.25, requires_grad=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ALL)
def test_numbers_of_all_kinds(name, number):
    given, plain = made(tw, name, lr=number), made(tw, name, lr=0.25)
    assert given[0].param_groups[0]["lr"] is number
    assert torch.equal(stepped(*given).detach(), stepped(*plain).detach())


@pytest.mark.parametrize("number", [1, True, np.int64(1)], ids=repr)
def test_whole_numbers(number):
    assert torch.equal(
        stepped(*made(tw, lr=number, weight_decay=number)), stepped(*made(tw, lr=1.0, weight_decay=1.0))
    )


@pytest.mark.parametrize(
    "number", ["1e-3", np.str_("0.1"), b"1", None, 1j, Decimal("0.1"), np.ones(1), [0.1], "x"], ids=repr
)
@pytest.mark.parametrize("name", ALL)
def test_what_is_no_number_is_refused(name, number):
    for key in ("lr", "weight_decay"):
        with pytest.raises(TypeError, match=f"{key} must be a number") as caught:
            made(tw, name, **{key: number})
        assert ("YAML" in str(caught.value)) == (isinstance(number, str) and number != "x")
        optimizer, param = made(tw, name)
        with pytest.raises(TypeError, match=f"{key} must be a number"):
            optimizer.add_param_group({"params": [leaf(rand(2))], key: number})
        assert len(optimizer.param_groups) == 1
        optimizer.param_groups[0][key] = number
        before = param.detach().clone()
        with pytest.raises(TypeError, match=f"{key} must be a number"):
            optimizer.step()
        assert torch.equal(param, before)


# --- state and groups as users leave them ---

FOREIGN = {"global_step": 7, "note": "text", "list": [1, 2], ("a", 1): None, 3.5: {"count": 1}}


@BOTH
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_foreign_entries_of_state_are_saved_and_loaded(library, name):
    optimizer, param = made(library, name)
    stepped(optimizer, param)
    optimizer.state.update(FOREIGN)
    saved = optimizer.state_dict()
    assert FOREIGN.items() <= saved["state"].items()
    other, _ = made(library, name)
    other.load_state_dict(saved)
    assert all(other.state[key] == value for key, value in FOREIGN.items())
    if library is tw:
        assert FOREIGN.items() <= optimizer.full_precision_state_dict()["state"].items()


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_foreign_entries_of_state_are_stepped_over(name):
    optimizer, param = made(tw, name)
    optimizer.state.update(FOREIGN)
    plain = made(tw, name)
    stepped(optimizer, param)
    optimizer.state["late"] = object()
    assert torch.equal(stepped(optimizer, param), stepped(*plain, 4))
    assert FOREIGN.items() <= optimizer.state.items()


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
@pytest.mark.parametrize("name", NAMES)
def test_groups_appended_by_hand_have_torchs_keys(name, kind):
    keys = made(torch.optim, name)[0].param_groups[0].keys() - {"params"}
    extra, twin = leaf(rand(5)), leaf(rand(5))
    optimizer, param = made(tw, name)
    plain, _ = made(tw, name)
    stepped(optimizer, param)
    plain.add_param_group({"params": [twin]})
    own = {key: optimizer.param_groups[0][key] for key in keys}
    optimizer.param_groups.append(kind({"params": [extra], **own}))
    # A group that is no dict is stepped by the reference, which rounds otherwise.
    assert_close(stepped(optimizer, extra), stepped(plain, twin), 1e-12)
    plain.load_state_dict(deepcopy(optimizer.state_dict()))
    assert_close(stepped(optimizer, extra), stepped(plain, twin), 1e-12)


def test_a_group_appended_by_hand_to_one_that_is_stored_in_less():
    optimizer, _ = made(tw, "AdamW", state="int8")
    keys = made(torch.optim, "AdamW")[0].param_groups[0].keys() - {"params"}
    extra = leaf(rand(5000), torch.float32)
    optimizer.param_groups.append(
        {"params": [extra], **{key: optimizer.param_groups[0][key] for key in keys}}
    )
    stepped(optimizer, extra)
    assert optimizer.state[extra]["exp_avg"].dtype == torch.float32


@BOTH
@pytest.mark.parametrize("kind", [tuple, UserList])
def test_groups_may_be_another_sequence(library, kind):
    optimizer, param = made(library, "AdamW")
    optimizer.param_groups = kind(optimizer.param_groups)
    stepped(optimizer, param)
    optimizer.param_groups[0]["lr"] = 0.5
    stepped(optimizer, param)
    other, _ = made(library, "AdamW")
    other.load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert kind is not tuple or library is not tw or torch.equal(param, stepped(*made_twice()))


def made_twice():
    """Return an optimizer that has taken two steps, and has another rate for two more."""
    optimizer, param = made(tw, "AdamW")
    stepped(optimizer, param)
    optimizer.param_groups[0]["lr"] = 0.5
    return optimizer, param


class Raising:
    """An object that cannot be compared."""

    def __init__(self, error=TypeError):
        self.error = error

    def __eq__(self, other):
        raise self.error("cannot compare")

    __hash__ = None


class Uncopied:
    """An object that cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot copy")


Spec = namedtuple("Spec", "name rank")

VALUES = {
    "namedtuple": lambda: Spec("a", 1),
    "array": lambda: np.ones(3),
    "tensor": lambda: torch.ones(3),
    "raises": Raising,
    "raises another": lambda: Raising(OSError),
    "lock": threading.Lock,
    "uncopied": Uncopied,
    "function": lambda: lambda: None,
    "set": lambda: {1, 2},
}
UNCOPIED = ("lock", "uncopied")


@BOTH
@pytest.mark.parametrize("kind", VALUES)
def test_groups_hold_any_value_of_the_users(library, kind):
    optimizer, param = made(library, "SGD", momentum=0.9)
    plain, twin = made(library, "SGD", momentum=0.9)
    for _ in range(3):
        optimizer.param_groups[0]["mine"] = value = VALUES[kind]()
        stepped(optimizer, param, 1)
        stepped(plain, twin, 1)
    assert torch.equal(param, twin)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["mine"] is value
    if kind in UNCOPIED:
        with pytest.raises(TypeError):
            plain.load_state_dict(saved)
        assert "mine" not in plain.param_groups[0]
    else:
        plain.load_state_dict(saved)
        assert type(plain.param_groups[0]["mine"]) is type(value)
        assert (plain.param_groups[0]["mine"] is value) == (kind == "function")
    stepped(plain, twin)


@BOTH
def test_groups_are_made_with_any_value(library):
    for kind in VALUES:
        optimizer = library.SGD([{"params": [param := leaf(rand(5))], "mine": VALUES[kind](), 5: "five"}])
        stepped(optimizer, param)
        optimizer.state_dict()


@BOTH
def test_the_users_keys_are_those_of_the_checkpoint(library):
    first, second = made(library)[0], made(library)[0]
    first.param_groups[0]["theirs"] = 1
    second.param_groups[0]["mine"] = 2
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0].keys() == first.param_groups[0].keys()


# --- counters ---

COUNTS = {
    "int": 3,
    "float": 3.0,
    "numpy": np.float32(3),
    "one element": torch.tensor([3.0]),
    "int64": torch.tensor(3),
    "float64": torch.tensor(3.0, dtype=torch.float64),
    "int32, one element": torch.tensor([3], dtype=torch.int32),
    "bfloat16": torch.tensor(3.0, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("way", ["checkpoint", "by hand"])
@pytest.mark.parametrize("name", ["AdamW", "NAdam", "Adagrad", "RMSprop"])
def test_counters_of_any_form_count_on(name, way, count):
    mine, theirs = twins([rand(5)])
    a, b = getattr(tw, name)(mine), getattr(tw, name)(theirs)
    steps = gradients(mine, 5)
    follow(a, mine, steps[:3])
    follow(b, theirs, steps[:3])
    value = COUNTS[count]
    value = value.clone() if isinstance(value, torch.Tensor) else value
    if way == "checkpoint":
        saved = a.state_dict()
        saved["state"] = {0: {**saved["state"][0], "step": value}}
        a.load_state_dict(saved)
    else:
        a.state[mine[0]]["step"] = value
    follow(a, mine, steps[3:])
    follow(b, theirs, steps[3:])
    assert torch.equal(mine[0], theirs[0])
    assert a.state[mine[0]]["step"] == 5


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("name", ["Adam", "NAdam", "RMSprop"])
def test_shared_state_stays_shared(name, shape):
    # As Hogwild does: state is made and shared before anybody steps.
    optimizer, param = made(tw, name)
    state = optimizer.state[param]
    like, _ = made(torch.optim, name)
    like.step()
    for key, value in next(iter(like.state.values())).items():
        initial = torch.ones(shape) if key == "mu_product" else torch.zeros(shape)
        state[key] = (torch.zeros_like(value) if value.dim() else initial).share_memory_()
    shared = dict(state)
    stepped(optimizer, param)
    for key, value in shared.items():
        assert optimizer.state[param][key].is_shared()
        assert optimizer.state[param][key].data_ptr() == value.data_ptr()
        assert torch.equal(optimizer.state[param][key], value.reshape(state[key].shape))
    assert torch.equal(param, stepped(*made(tw, name)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", torch.tensor(0)),
        ("exp_avg", torch.zeros(5, dtype=torch.float32)),
        ("exp_avg", torch.zeros(5, 2)[:, 0]),
    ],
    ids=["int64 counter", "float32 for float64", "strided"],
)
def test_shared_state_is_not_silently_exchanged(key, value):
    optimizer, param = made(tw, "Adam")
    stepped(optimizer, param)
    optimizer.state[param][key] = value.share_memory_()
    before = param.detach().clone()
    with pytest.raises(ValueError, match=f"'{key}' lies in shared memory as .*convert it before"):
        optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.state[param][key] is value
