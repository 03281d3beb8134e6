"""Steps where tensors are not memory: under dispatch modes, on fake tensors and on tensor subclasses."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from support import ONE_EACH, assert_close, label, leaf, rand
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import thalweg as tw

BOTH = pytest.mark.parametrize("library", [tw, torch.optim], ids=["ours", "torch"])
NAMES = pytest.mark.parametrize("name", ["SGD", "AdamW"])

# What lies in plan.py and batches.py.


class Noting(TorchDispatchMode):
    """Notes every operation that writes in place."""

    def __init__(self):
        super().__init__()
        self.written = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.is_mutable:
            self.written.append(args[0])
        return func(*args, **(kwargs or {}))


class Refusing(TorchDispatchMode):
    """Lets nothing be written in place but by itself."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.is_mutable and "record_function" not in str(func):
            raise PermissionError(f"{func} writes")
        return func(*args, **(kwargs or {}))


class Wrapped(Tensor):
    """A tensor around another one, which alone has memory."""

    @staticmethod
    def __new__(cls, inner):
        return Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=inner.device, requires_grad=inner.requires_grad
        )

    def __init__(self, inner):
        self.inner = inner.detach()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(cls, lambda t: t.inner, (args, kwargs or {}))
        found = func(*args, **kwargs)
        if func._schema.is_mutable:
            return found
        return tree_map_only(Tensor, cls, found)


def made(library, name, param):
    param.grad = torch.ones_like(param)
    return getattr(library, name)([param], lr=0.1)


@BOTH
@NAMES
def test_a_mode_sees_what_a_step_writes(library, name):
    param = leaf(rand(5))
    optimizer = made(library, name, param)
    optimizer.step()
    with Noting() as mode:
        optimizer.step()
    written = {t.data_ptr() for t in mode.written if isinstance(t, Tensor)}
    assert param.data_ptr() in written
    slots = [v for v in optimizer.state.get(param, {}).values() if isinstance(v, Tensor) and v.dim()]
    assert all(slot.data_ptr() in written for slot in slots)


@BOTH
@NAMES
def test_a_mode_may_refuse_what_a_step_writes(library, name):
    param = leaf(rand(5))
    optimizer = made(library, name, param)
    optimizer.step()
    before = param.detach().clone()
    with Refusing(), pytest.raises(PermissionError):
        optimizer.step()
    assert torch.equal(param, before)


@NAMES
def test_a_mode_changes_nothing_of_a_step(name):
    mine, theirs = leaf(rand(5)), leaf(rand(5))
    a, b = made(tw, name, mine), made(tw, name, theirs)
    for _ in range(2):
        with Noting():
            a.step()
        a.step()
        b.step()
        b.step()
    assert_close(mine, theirs, rtol=1e-14)


def fake_layer():
    layer = nn.Linear(4, 4)
    for param in layer.parameters():
        param.grad = torch.ones_like(param)
    return layer


@BOTH
def test_fake_parameters_without_counters(library):
    with FakeTensorMode():
        layer = fake_layer()
        optimizer = library.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        before = layer.weight._version
        optimizer.step()
        optimizer.step()
    assert isinstance(optimizer.state[layer.weight]["momentum_buffer"], FakeTensor)
    assert layer.weight._version > before


@BOTH
@pytest.mark.parametrize("name", ["AdamW", "NAdam", "Adagrad"])
def test_fake_parameters(library, name):
    with FakeTensorMode():
        layer = fake_layer()
        optimizer = getattr(library, name)(layer.parameters())
        before = layer.weight._version
        optimizer.step()
        optimizer.step()
    assert all(isinstance(value, FakeTensor) for value in optimizer.state[layer.weight].values())
    assert layer.weight._version > before


@BOTH
def test_fake_parameters_outside_of_their_mode(library):
    with FakeTensorMode():
        layer = fake_layer()
    optimizer = library.AdamW(layer.parameters())
    optimizer.step()
    assert isinstance(optimizer.state[layer.weight]["exp_avg"], FakeTensor)


@BOTH
@NAMES
def test_memory_in_a_fake_mode_is_refused(library, name):
    optimizer = made(library, name, leaf(rand(5)))
    optimizer.step()
    with FakeTensorMode(), pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        optimizer.step()


def fake():
    with FakeTensorMode():
        return torch.ones(5, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore")
@BOTH
def test_fake_slots_beside_memory_are_refused(library):
    param = leaf(rand(5))
    optimizer = made(library, "AdamW", param)
    optimizer.step()
    optimizer.state[param]["exp_avg"] = fake()
    with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        optimizer.step()


@pytest.mark.filterwarnings("ignore")
@BOTH
def test_a_fake_gradient_beside_memory_is_refused(library):
    param = leaf(rand(5))
    optimizer = made(library, "AdamW", param)
    param.grad = fake()
    with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        optimizer.step()


@pytest.mark.filterwarnings("ignore")
def test_a_fake_gradient_after_an_ordinary_one_is_refused():
    param = leaf(rand(5))
    optimizer = made(tw, "AdamW", param)
    optimizer.step()
    param.grad = fake()
    with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        optimizer.step()


@NAMES
def test_a_wrapped_gradient_after_an_ordinary_one(name):
    param, twin = leaf(rand(5)), leaf(rand(5))
    a, b = made(tw, name, param), made(tw, name, twin)
    a.step()
    param.grad = Wrapped(torch.ones(5, dtype=torch.float64))
    a.step()
    b.step()
    b.step()
    assert_close(param.detach(), twin, rtol=1e-14)


@NAMES
def test_wrapped_tensors_are_stepped_behind_the_wrapper(name):
    inner, twin = rand(5), leaf(rand(5))
    param = nn.Parameter(Wrapped(inner))
    a, b = made(tw, name, param), made(tw, name, twin)
    for _ in range(2):
        a.step()
        b.step()
    assert_close(param.inner, twin, rtol=1e-14)
    assert all(isinstance(v, Wrapped) for v in a.state.get(param, {}).values() if v.dim())


WHATEVER = [
    *ONE_EACH,
    ("AdamW", {"state": "int8", "seed": 3}),
    ("AdamW", {"max_norm": 0.5, "skip_nonfinite": 3, "average": 0.9, "statistics": True}),
    ("SGD", {"lr": 0.1, "sparse": "exact", "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "schedule_free": 0.9}),
]


@pytest.mark.parametrize("configuration", WHATEVER, ids=label)
def test_torchs_default_device_is_no_matter_to_a_step(configuration):
    # What a step makes without saying where would be on it, beside parameters that are elsewhere.
    name, kwargs = configuration

    def steps(context):
        weight, bias = (leaf(rand(*shape).float()) for shape in ((9, 64), (5,)))
        optimizer = getattr(tw, name)([weight, bias], **kwargs)
        for step in range(4):
            rows = torch.tensor([step, 1], device="cpu")
            loss = nn.functional.embedding(rows, weight, sparse="sparse" in kwargs).square().sum()
            optimizer.zero_grad()
            (loss + bias.square().sum()).backward()
            with context():
                optimizer.step()
                if step == 2:
                    optimizer.load_state_dict(optimizer.state_dict())
        return weight, bias

    for one, other in zip(steps(nullcontext), steps(lambda: torch.device("meta")), strict=True):
        assert torch.equal(one, other)


def test_a_parameter_of_inference_mode_with_other_memory_is_refused_as_in_torch():
    # It is no inference tensor any more, and yet autograd counts nothing for it.
    for library in (torch.optim, tw):
        with torch.inference_mode():
            param = nn.Parameter(torch.ones(3))
        param.data = torch.ones(3)
        param.grad = torch.ones(3)
        assert not param.is_inference()
        optimizer = library.SGD([param], lr=0.1)
        with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
            optimizer.step()
        before = param.data.clone()  # torch's has written, and then raised
        with torch.inference_mode():
            optimizer.step()
        assert_close(param.data, before - 0.1)
    assert_close(before, torch.ones(3))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_parameter_may_be_given_memory_that_inference_mode_made(name):
    params = []
    for library in (torch.optim, tw):
        param = leaf(torch.ones(3))
        optimizer = made(library, name, param)
        optimizer.step()
        with torch.inference_mode():
            param.data = torch.full((3,), 5.0)
        before = param._version
        optimizer.step()
        assert param._version > before
        params.append(param.detach().clone())
    assert_close(*params)
