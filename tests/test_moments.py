"""Signal-to-noise ratios of second moments. Oracle: numpy in float64, and ratios by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from pages import examples
from support import leaf, rand
from torch import Tensor, nn

import thalweg as tw


def planted(second: Tensor, **options) -> tuple[Tensor, tw.Optimizer]:
    """Return a parameter whose second moment is `second`: that of a gradient which is its root."""
    p = leaf(torch.zeros_like(second), torch.float64)
    optimizer = tw.Adagrad([p], lr=0.1, **options)
    p.grad = second.double().sqrt()
    optimizer.step()
    return p, optimizer


def ratios(second: np.ndarray) -> dict[str, float]:
    matrix = second.reshape(len(second), -1)
    over = {"row": 1, "column": 0, "tensor": (0, 1)}
    return {per: (matrix.mean(axis) ** 2 / matrix.var(axis)).mean() for per, axis in over.items()}


@pytest.mark.parametrize("shape", [(64, 80), (16, 32, 3, 3), (2, 4096)])
def test_ratios_are_those_of_the_paper(shape):
    second = rand(*shape).square()
    p, optimizer = planted(second)
    (one,) = tw.second_moment_snr(optimizer)
    assert (one.param is p, one.name, one.slot, one.looks) == (True, 0, "sum", 1)
    assert one.snr == pytest.approx(ratios(optimizer.state[p]["sum"].numpy()), rel=1e-12)


def test_ratios_by_hand():
    """Rows (1, 3, 1, 3 ...) and (10, 30 ...): mean 2 and 20, variance 1 and 100, so 4 over each row."""
    row = torch.tensor([1.0, 3.0]).repeat(1024)
    (one,) = tw.second_moment_snr(planted(torch.stack([row, 10 * row]))[1])
    assert one.snr["row"] == pytest.approx(4)
    # Columns (1, 10) and (3, 30): mean 5.5 and 16.5, variance 4.5 and 13.5 squared.
    assert one.snr["column"] == pytest.approx((5.5 / 4.5) ** 2)
    # All: mean 11; squares (1 + 9 + 100 + 900) / 4.
    assert one.snr["tensor"] == pytest.approx(121 / (1010 / 4 - 121))
    assert (one.best(), one.best(least=4.1)) == ("row", None)


def test_what_is_all_alike_is_left_out_unless_all_is():
    row = torch.tensor([1.0, 3.0]).repeat(1024)
    (one,) = tw.second_moment_snr(planted(torch.stack([row, torch.full_like(row, 7), 0 * row]))[1])
    assert one.snr["row"] == pytest.approx(4)
    (one,) = tw.second_moment_snr(planted(torch.full((64, 64), 4.0))[1])
    assert (one.snr, one.best()) == (dict.fromkeys(("row", "column", "tensor"), math.inf), "row")
    (one,) = tw.second_moment_snr(planted(torch.zeros(64, 64))[1])
    assert all(map(math.isnan, one.snr.values()))
    assert one.best() is None


def test_looks_are_averaged():
    p, optimizer = planted(rand(64, 64, seed=1).square())
    found, seen = None, []
    for step in range(3):
        found = tw.second_moment_snr(optimizer, found)
        seen.append(ratios(optimizer.state[p]["sum"].numpy()))
        p.grad = rand(64, 64, seed=step)
        optimizer.step()
    (one,) = found
    assert one.looks == 3
    for per, ratio in one.snr.items():
        assert ratio == pytest.approx(np.mean([look[per] for look in seen]), rel=1e-12)


def test_stored_moments_are_read_in_full():
    """bfloat16 and int8 are what they stand for."""
    p = leaf(torch.zeros(64, 64), torch.float32)
    for state in ("bfloat16", "int8"):
        optimizer = tw.Adam([p], state=state)
        p.grad = rand(64, 64, seed=3).float()
        optimizer.step()
        (one,) = tw.second_moment_snr(optimizer)
        second = optimizer.full_precision_state_dict()["state"][0]["exp_avg_sq"]
        assert one.snr == pytest.approx(ratios(second.double().numpy()), rel=1e-9)


def test_what_cannot_have_means_is_left_out():
    params = [leaf(rand(*shape), torch.float32) for shape in [(5000,), (8, 8), (64, 64), (64, 64)]]
    params.append(torch.complex(rand(64, 64), rand(64, 64)).requires_grad_())
    optimizer = tw.Adam(params)
    for p in (params[0], params[1], params[2], params[4]):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [one.name for one in tw.second_moment_snr(optimizer)] == [2]
    sgd = tw.SGD(params, lr=0.1, momentum=0.9)
    sgd.step()
    assert not tw.second_moment_snr(sgd)
    centered = tw.RMSprop(params, centered=True)
    centered.step()
    assert not tw.second_moment_snr(centered)


def test_sparse_gradients_have_rows_alone():
    table = nn.Embedding(64, 64, sparse=True)
    optimizer = tw.Adam(table.parameters())
    table(torch.arange(64)).square().sum().backward()
    optimizer.step()
    (one,) = tw.second_moment_snr(optimizer)
    assert one.snr.keys() == {"row"}


def test_means_cannot_be_asked():
    _, optimizer = planted(rand(64, 64).square(), state={"sum": "column"})
    with pytest.raises(ValueError, match="'sum' of the parameter 0 is kept by column"):
        tw.second_moment_snr(optimizer)


def test_looks_at_other_parameters_are_refused():
    before = tw.second_moment_snr(planted(rand(64, 64).square())[1])
    with pytest.raises(ValueError, match="before has looked at 1 parameters"):
        tw.second_moment_snr(planted(rand(64, 64).square())[1], before)


@pytest.mark.parametrize(
    ("state", "others"),
    [(None, {}), ("int8", {"exp_avg": "int8"}), ({"exp_avg": "bfloat16"}, {"exp_avg": "bfloat16"})],
)
def test_groups_keep_means_where_these_do(state, others):
    """Of three matrices the first is alike in rows, the second in columns, and of the third none is."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.rand(64, generator=generator).double().exp() * 10
    wild = (6 * rand(64, 64, seed=9)).exp()
    seconds = [(1 + 0.1 * rand(64, 64, seed=i).abs()) for i in range(2)]
    seconds = [seconds[0] * scale[:, None], seconds[1] * scale, wild]
    options = {} if state is None else {"state": state}
    params = [(f"layer{i}", leaf(torch.zeros(64, 64), torch.float32)) for i in range(3)]
    bias = ("bias", leaf(torch.zeros(64), torch.float32))
    optimizer = tw.AdamW(
        [{"params": params, "lr": 0.1}, {"params": [bias], "weight_decay": 0.0}], lr=0.2, **options
    )
    for (_, p), second in zip(params, seconds, strict=True):
        p.grad = second.sqrt().float()
    bias[1].grad = torch.ones(64)
    optimizer.step()
    found = tw.second_moment_snr(optimizer)
    assert [(one.name, one.best()) for one in found] == [
        ("layer0", "row"),
        ("layer1", "column"),
        ("layer2", None),
    ]
    assert str(found).splitlines()[1].split()[0] == "layer0"
    groups = found.groups()
    assert [group["param_names"] for group in groups] == [["layer0"], ["layer1"], ["layer2"], ["bias"]]
    assert [group["lr"] for group in groups] == [0.1, 0.1, 0.1, 0.2]
    assert groups[3]["weight_decay"] == 0
    assert groups[0]["state"] == {**others, "exp_avg_sq": "row"}
    assert groups[1]["state"] == {**others, "exp_avg_sq": "column"}
    assert groups[2].get("state", "float32") == (state or "float32")
    slim = tw.AdamW(groups)
    slim.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # by name
    slim.step()
    kept = [next(key for key in slim.state[p] if key.startswith("exp_avg_sq")) for _, p in params]
    assert kept[:2] == ["exp_avg_sq_rows", "exp_avg_sq_columns"]


def test_groups_of_several_rules():
    first, second = (leaf(rand(64, 64, seed=i), torch.float32) for i in range(2))
    optimizer = tw.Mixed(
        [
            {"optimizer": tw.Adam, "params": [first], "lr": 1e-3},
            {"optimizer": tw.SGD, "params": [second], "lr": 1e-2},
        ]
    )
    for p in (first, second):
        p.grad = torch.ones_like(p)
    optimizer.step()
    groups = tw.second_moment_snr(optimizer).groups()
    assert groups[0]["state"] == {"exp_avg_sq": "row"}
    tw.Mixed(groups).step()
    assert "exp_avg_sq_rows" not in optimizer.state[first]


def test_the_example_of_the_page(capsys):
    (block,) = [one for one in examples("docs/storage.md") if "second_moment_snr" in one]
    names = {}
    exec(compile(block, "docs/storage.md", "exec"), names)
    assert [one.looks for one in names["found"]] == [4, 4]
    kept = {id(p) for group in names["slim"].param_groups for p in group["params"]}
    assert kept == {*map(id, names["model"].parameters())}
    assert "0.weight" in capsys.readouterr().out
