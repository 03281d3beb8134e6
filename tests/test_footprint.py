"""Bytes of training, against models that are trained as a whole."""

import json
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.lab.memory.optimizers import settings

STORAGES = ("float32", "bfloat16", "int8")


class Mixed(nn.Module):
    """Small and large, tied, frozen, channels_last, complex and double parameters, and buffers."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(300, 64)
        self.logits = nn.Linear(64, 300, bias=False)
        self.logits.weight = self.words.weight
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)  # 4,096 elements: packed
        self.small = nn.Linear(63, 65)  # 4,095
        self.frozen = nn.Linear(80, 80).requires_grad_(False)
        self.images = nn.Conv2d(16, 32, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(32)
        self.waves = nn.Parameter(torch.zeros(70, 70, dtype=torch.complex64))
        self.exact = nn.Parameter(torch.zeros(70, 70, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(1.0))


def nbytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def trained(model, optimizer) -> dict[str, int]:
    """Steps the whole model once on gradients of autograd's, and counts what there is then."""
    loss = sum((p.abs() ** 2).sum() for p in model.parameters() if p.requires_grad)
    loss.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.step()
    parameters = list(model.parameters())
    state = [value for held in optimizer.state.values() for value in held.values()]
    return {
        "weights": nbytes(parameters),
        "buffers": nbytes(model.buffers()),
        "gradients": nbytes(p.grad for p in parameters if p.grad is not None),
        "state": nbytes(value for value in state if isinstance(value, torch.Tensor)),
    }


def counted(row) -> dict[str, int]:
    return {
        "weights": row.weights,
        "buffers": row.buffers,
        "gradients": row.gradients,
        "state": row.state + row.corrections,
    }


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    "optimizer",
    [
        partial(tw.SGD, momentum=0.9),
        partial(tw.RMSprop, centered=True, momentum=0.9),
        partial(tw.AdamW, amsgrad=True),
        tw.NAdam,
        tw.Lion,
    ],
)
def test_bytes_are_those_of_the_whole_model(optimizer, storage):
    model = Mixed()
    (row,) = tw.memory(model, [optimizer], [storage]).rows
    assert counted(row) == trained(model, optimizer(model.parameters(), state=storage))
    assert row.total == sum(counted(row).values())


@pytest.mark.parametrize("bits", [None, 16, 24, 32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cast", [False, True])
def test_bytes_of_16_bit_weights(bits, dtype, cast):
    def model(dtype):
        return nn.Sequential(nn.Linear(100, 80), nn.BatchNorm1d(80), nn.Linear(80, 5)).to(dtype)

    whole = model(dtype)
    told = dtype if cast else None
    (row,) = tw.memory(
        model(torch.float32) if cast else whole, "adamw", "int8", weight_bits=bits, dtype=told
    ).rows
    assert counted(row) == trained(whole, tw.AdamW(whole.parameters(), state="int8", weight_bits=bits))
    assert row.corrections == {24: 1, 32: 2}.get(bits, 0) * row.parameters


def test_7_bytes_a_parameter():
    (row,) = tw.memory(nn.Linear(1000, 1000), "adamw", "int8", weight_bits=24, dtype="bfloat16").rows
    assert round(row.bytes_per_parameter, 2) == 7.07  # biases and counters; the matrix alone takes 7.06
    (row,) = tw.memory([torch.zeros(1000, 1000).requires_grad_()], "adamw", "int8", weight_bits=24,
                       dtype="bfloat16").rows  # fmt: skip
    assert round(row.bytes_per_parameter, 2) == 7.06
    assert (row.slots, row.scales, row.counters) == (2_000_000, 2 * 2 * 1_000_000 // 64, 4)


@pytest.mark.parametrize(("layers", "width"), [(20, 512), (3, 1200), (3, 100)])
def test_gradients_that_steps_in_backward_hold(layers, width):
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    params, held = list(model.parameters()), []

    def look(param):
        held.append(nbytes(p.grad for p in params if p.grad is not None))

    for param in params:
        param.register_post_accumulate_grad_hook(look)
    optimizer = tw.SGD(params, lr=0.1)
    with optimizer.in_backward():
        model(torch.ones(1, width)).sum().backward()
    ours, theirs = tw.memory(model, ["sgd", "torch.optim.SGD"], ["float32"], in_backward=True).rows
    assert theirs.gradients == nbytes(params)
    # It is a bound: what is held may be little when the largest gradient comes.
    assert 0.5 * ours.gradients < max(held) <= ours.gradients


@pytest.mark.parametrize("width", [60, 64])
def test_state_of_sparse_gradients(width):
    words = nn.Embedding(1000, width, sparse=True)
    (row,) = tw.memory(words, "adamw", "int8").rows
    optimizer = tw.AdamW(words.parameters(), state="int8")
    words(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    assert row.state == nbytes(optimizer.state[words.weight].values())
    assert row.gradients == row.weights


def test_torchs_own_optimizers():
    for make in (torch.optim.AdamW, partial(torch.optim.Adam, amsgrad=True), torch.optim.Adafactor):
        model = nn.Sequential(nn.Linear(100, 80), nn.Linear(80, 5))
        rows = tw.memory(model, [make]).rows
        assert [row.storage for row in rows] == [None]
        assert counted(rows[0]) == trained(model, make(model.parameters()))


def test_a_model_on_the_meta_device():
    with torch.device("meta"):
        there = Mixed()
        rows = tw.memory(there).rows
    assert rows == tw.memory(Mixed()).rows


def test_a_large_model_takes_the_memory_of_its_largest_parameter():
    with torch.device("meta"):
        layers = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(2000)))
    (row,) = tw.memory(layers, "adamw", "int8").rows
    assert (row.weights, row.scales) == (8 * 10**9, 2 * 4 * 10**9 // 64)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_is_only_looked_at(mode):
    model = Mixed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    with mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        tw.memory(model, weight_bits=16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_warnings_of_steps_are_kept_back():
    class Loud(torch.optim.SGD):
        def step(self, closure=None):
            warnings.warn("a step", stacklevel=2)
            return super().step(closure)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tw.memory(nn.Linear(3, 3), [Loud])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"optimizers": ["adamx"]}, ["optimizers", "'adamx'", "adamw"]),
        ({"optimizers": ["torch.optim.Nothing"]}, ["optimizers", "'torch.optim.Nothing'"]),
        ({"optimizers": ["torch.nn.Linear"]}, ["optimizers", "torch.optim.Optimizer"]),
        ({"optimizers": [3]}, ["optimizers", "3", "partial"]),
        ({"optimizers": []}, ["optimizers", "empty"]),
        ({"storages": ["int4"]}, ["storages", "'int4'", "int8"]),
        ({"weight_bits": 8}, ["weight_bits", "8", "24"]),
        ({"dtype": "int8"}, ["dtype", "'int8'", "bfloat16"]),
        ({"model": 3}, ["model", "int"]),
        ({"model": [3]}, ["model", "int"]),
        ({"model": nn.LazyLinear(3)}, ["lazy"]),
        ({"optimizers": ["torch.optim.LBFGS"]}, ["torch.optim.LBFGS", "closure"]),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises((TypeError, ValueError)) as error:
        tw.memory(**{"model": nn.Linear(3, 3), **arguments})
    assert all(name in str(error.value) for name in named)


def test_names_are_the_labs_and_sgd_has_momentum():
    found = settings(["sgd", "AdamW", "torch.optim.AdamW"], ["int8"], None)
    titles = [(one.title, one.storage) for one in found]
    assert titles == [("SGD(momentum=0.9)", "int8"), ("AdamW", "int8"), ("torch.optim.AdamW", None)]


def test_the_result_as_text_as_data_and_as_a_page(tmp_path):
    memory = tw.memory(Mixed(), weight_bits=24, dtype="bfloat16")
    assert str(memory).splitlines()[1].split()[:2] == ["SGD(momentum=0.9)", "float32"]
    assert json.loads(json.dumps(memory.to_dict()))["rows"][0]["total"] == memory.rows[0].total
    figure = memory.figure()
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.name for bar in bars] == ["weights", "corrections", "gradients", "state"]
    ends = [sum(bar.x[i] for bar in bars) for i in range(len(memory.rows))]
    assert ends == pytest.approx([row.total / 1e3 for row in memory.rows], rel=1e-4)
    memory.save(tmp_path / "memory.html")
    page = (tmp_path / "memory.html").read_text()
    assert memory.headline in page
    assert "srcdoc" in memory._repr_html_()
    with pytest.raises(ValueError, match=r"\.html"):
        memory.save(tmp_path / "memory.png")


def test_counting_needs_none_of_the_labs_packages():
    program = """
import sys
for name in ("cloudpickle", "optuna", "plotly", "rich", "scipy", "sklearn", "typer"):
    sys.modules[name] = None
import torch, thalweg as tw
memory = tw.memory(torch.nn.Linear(3, 3))
assert memory._repr_html_() is None
print(memory)
try:
    memory.figure()
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "AdamW" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("pip install 'thalweg[lab]'")
