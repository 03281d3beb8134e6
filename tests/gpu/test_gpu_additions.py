"""Additions on a GPU: as the host's kernels have them, in graphs, and without waiting for anything."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from devices import beside, capture, host_kernels, no_waiting
from runs import assert_alike, assert_equal, everything, several, start
from support import assert_close, follow, give, gradients, ours, rand

import thalweg as tw
from thalweg.stepping import plan
from thalweg.stepping.batches import ReferenceBatch

SHAPES = ((4096,), (1030,), (30,), (), (0, 3))
FEW = ((4160,), (30,))

RUNS = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "lars": True, "trust_coefficient": 0.5}),
    ("SGD", {"lr": 0.1, "max_norm": 5.0, "max_value": 0.05, "statistics": True}),
    ("RMSprop", {"lr": 0.01, "weight_decay": 0.1, "lookahead": 2, "average": 0.9, "average_every": 2}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1, "lamb": True, "average": 0.9, "average_warmup": True}),
    ("AdamW", {"lr": 0.01, "decay_by": "corrected", "cautious_decay": True, "skip_nonfinite": 3}),
    ("NAdam", {"lr": 0.01, "cautious": True, "max_step_rms": 0.5, "max_norm": 5.0, "statistics": True}),
    ("Lion", {"lr": 0.01, "weight_decay": 0.1, "decay_by": "independent", "max_norm": 5.0}),
]
runs = pytest.mark.parametrize("configuration", RUNS, ids=lambda one: "-".join([one[0], *one[1]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@runs
def test_the_devices_kernels_are_the_hosts(configuration, dtype, device):
    with host_kernels() as host:
        others, other = several(configuration, host, dtype, SHAPES)
    params, one = several(configuration, device, dtype, SHAPES)
    # A step in float32 is another one where a mask falls otherwise.
    rtol = 1e-6 if dtype == torch.float64 else 1e-4
    assert_alike((params, one), (others, other), rtol)
    for mine, theirs in zip(one.statistics(), other.statistics(), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name].device.type == device.type
            assert float(mine[name]) == pytest.approx(float(value), rel=10 * rtol)


@pytest.mark.parametrize("stored", ["int8", "bfloat16"])
def test_averages_in_fewer_bytes_are_the_hosts(stored, device):
    # Powers of two: nothing is rounded but by the codecs.
    options = {"average": 0.5, "lookahead": 2, "max_value": 1.0, "max_norm": 1e9}
    options |= {"average_state": stored, "lookahead_state": stored, "average_every": 2}

    def several_steps(place):
        params = start(place, torch.float32, FEW)
        with torch.no_grad():
            for p in params:
                p.copy_((4 * p).round() / 4)
        optimizer = tw.SGD(params, lr=0.5, momentum=0.5, seed=3, **options)
        for grads in gradients([p.float() for p in params], 5):
            follow(optimizer, params, [[(4 * g).round() / 2 for g in grads]])
        return params, optimizer

    with host_kernels() as host:
        expected = several_steps(host)
    assert_equal(several_steps(device), expected)


@pytest.mark.parametrize("layout", ["transposed", "sparse", "columns"])
def test_layouts_are_the_hosts(layout, device):
    options = {"lr": 0.1, "max_norm": 1.0, "lamb": True, "average": 0.9, "lookahead": 2, "statistics": True}

    def several_steps(place):
        base = rand(90, 60).to(place, torch.float32)
        param = base.t() if layout == "transposed" else base[:, 1:-1] if layout == "columns" else base
        param = param.detach().requires_grad_()
        optimizer = tw.SGD([param], **options)
        for i in range(3):
            grad = rand(*param.shape, seed=i).to(place, torch.float32)
            if layout == "sparse":
                rows = torch.tensor([[3, 80, 7 + i]], device=place)
                grad = torch.sparse_coo_tensor(rows, grad[rows[0]], grad.shape)
            param.grad = grad
            optimizer.step()
        return param, optimizer

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse invariant checks")
        with host_kernels() as host:
            q, other = several_steps(host)
        p, one = several_steps(device)
    assert_close(p, q, 1e-5)
    assert_close(one.averaged_weights()[0].cpu(), other.averaged_weights()[0], 1e-5)
    for name, value in other.statistics()[0].items():
        assert float(one.statistics()[0][name]) == pytest.approx(float(value), rel=1e-5)


# --- graphs ---

IN_GRAPHS = {"max_norm": 5.0, "average": 0.9, "skip_nonfinite": 50, "statistics": True}
STORAGES = [{}, {"average_state": "int8", "lookahead": 3, "lookahead_state": "int8"}]


@pytest.mark.parametrize("storage", STORAGES, ids=["plain", "int8"])
@pytest.mark.filterwarnings("ignore:a step was skipped")
def test_replays_are_steps_also_where_they_are_skipped(storage, device):
    shapes = ((4160,), (30,), ())
    mine, theirs = (start(device, shapes=shapes) for _ in range(2))
    options = {"lr": 0.01, **IN_GRAPHS, **storage}
    a, b = tw.AdamW(mine, **options), tw.AdamW(theirs, **options)
    static = [torch.zeros_like(p) for p in mine]
    steps = [[g.to(device) for g in grads] for grads in gradients(mine, 9)]
    graph = None
    for i, grads in enumerate(steps):
        if i in (3, 6):
            grads[1][4] = math.nan
        give(theirs, grads)
        b.step()
        for p, held, grad in zip(mine, static, grads, strict=True):
            held.copy_(grad)
            p.grad = held
        if i == 2:
            graph = capture(device, a.step)
        if graph is None:
            a.step()
        elif i in (5, 6):
            with beside(graph):
                a.step()
        else:
            graph.replay()
    assert_equal((mine, a), (theirs, b))
    assert a.skipped_steps == b.skipped_steps == 2
    for name, value in b.statistics()[0].items():
        assert torch.equal(a.statistics()[0][name], value), name


@runs
def test_gradients_in_memory_of_the_graphs_own(configuration, device):
    # A step with measures reads the addresses of gradients several times.
    mine, theirs = (start(device, shapes=FEW) for _ in range(2))
    a, b = ours(configuration, mine), ours(configuration, theirs)
    steps = [[g.to(device) for g in grads] for grads in gradients(mine, 6)]
    static = [torch.zeros_like(p) for p in mine]
    graph = None
    for i, grads in enumerate(steps):
        give(theirs, grads)
        b.step()
        if i < 2:
            give(mine, grads)
            a.step()
            continue
        if graph is None:
            for p, held in zip(mine, static, strict=True):
                p.grad = held
            graph = capture(device, a.step)
        torch._foreach_copy_(static, grads)
        graph.replay()
    assert_equal((mine, a), (theirs, b))


# --- nothing is waited for ---


@runs
def test_nothing_is_waited_for(configuration, device):
    name, options = configuration
    params = start(device, shapes=FEW)
    optimizer = ours((name, {**options, "skip_nonfinite": 2, "statistics": True}), params)
    grads = [[g.to(device) for g in one] for one in gradients(params, 5)]
    grads[3][0][7] = math.inf
    for i, one in enumerate(grads):
        for p, g in zip(params, one, strict=True):
            p.grad = g
        if i < 2:
            optimizer.step()
            continue
        with no_waiting(device), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
            found = optimizer.statistics()
    assert found[0]["grad_norm"].device.type == device.type
    assert optimizer.skipped_steps == 1
    assert all(p.isfinite().all() for p in params)


def test_a_guard_counts_there_and_tells_later(device):
    params = start(device, shapes=FEW)
    optimizer = tw.AdamW(params, lr=0.1, skip_nonfinite=3)
    good, bad = ([g.to(device) for g in one] for one in gradients(params, 2))
    bad[0][5] = math.nan

    def step(*several):
        for grads in several:
            give(params, grads)
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()

    step(good)
    before = everything(optimizer)
    with pytest.warns(UserWarning, match="skipped"):
        step(bad, good)
    after = everything(optimizer)
    assert not all(map(torch.equal, before, after))
    assert optimizer.skipped_steps == 1

    with pytest.raises(FloatingPointError, match=r"of [345] steps in a row were not all finite"):
        step(*[bad] * 6)
    assert all(map(torch.equal, after, everything(optimizer)))
    for _ in range(3):  # what the host has not seen yet may be told once more
        try:
            step(good)
        except FloatingPointError:
            continue
    assert not all(map(torch.equal, after, everything(optimizer)))


@pytest.mark.filterwarnings("ignore:a step was skipped")
def test_a_guard_beside_a_scaler(device):
    params = start(device, shapes=FEW)
    optimizer = tw.AdamW(params, lr=0.1, skip_nonfinite=3, max_norm=1.0, fused=True)
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, growth_interval=1000)
    scaler.scale(torch.ones((), device=device))
    for i, grads in enumerate(gradients(params, 4)):
        give(params, [g.to(device) * scaler.get_scale() for g in grads])
        if i == 1:
            params[0].grad[5] = math.inf
        before = everything(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert (i == 1) == all(map(torch.equal, before, everything(optimizer)))
    assert optimizer.skipped_steps == 0  # the scaler's
    assert scaler.get_scale() == 512.0
    optimizer.found_inf = optimizer.grad_scale = None


@pytest.mark.filterwarnings("ignore:a step was skipped")
def test_the_reference_draws_nothing_for_a_step_that_is_skipped(device, monkeypatch):
    monkeypatch.setattr(plan, "batch_for", lambda sort: ReferenceBatch)
    mine, theirs = (start(device, shapes=FEW) for _ in range(2))
    options = {"lr": 0.1, "state": "int8", "average": 0.9, "average_state": "int8"}
    a, b = tw.AdamW(mine, skip_nonfinite=3, **options), tw.AdamW(theirs, **options)
    for i, grads in enumerate(gradients(mine, 4)):
        grads = [g.to(device) for g in grads]
        if i == 1:
            grads[0][5] = math.inf
        else:
            follow(b, theirs, [grads])
        follow(a, mine, [grads])
    assert int(a.param_groups[0]["rounding_step"]) == int(b.param_groups[0]["rounding_step"]) == 3
    assert_equal((mine, a), (theirs, b))
    assert a.skipped_steps == 1
