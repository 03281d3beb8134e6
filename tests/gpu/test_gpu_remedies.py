"""Learning without a schedule or a rate, sharpness, presets: on a GPU as on the host."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from captured import Captured
from devices import aside, capture, host_kernels, no_waiting
from interpreter import INTERPRETED
from runs import assert_alike, assert_equal, several, start
from support import assert_close, follow, give, gradients, leaf, ours
from torch import nn

import thalweg as tw
from thalweg.algorithms.vision import RECIPE

SHAPES = ((4096,), (1030,), (30,), (), (0, 3))
FEW = ((4160,), (30,))

FREE = {"lr": 0.01, "betas": (0.0, 0.99), "schedule_free": 0.9, "weight_decay": 0.1}
DOG = {"lr": 1.0, "dog": True, "dog_first": 1e-2}
PRODIGY = {"lr": 1.0, "d0": 1e-3, "weight_decay": 0.1, "use_bias_correction": True}
VISION = {"lr": 0.01, **RECIPE, "weight_decay": 1e-5}
RUNS = [
    ("AdamW", FREE),
    ("SGD", {"lr": 0.1, "schedule_free": 0.9, "weight_decay": 0.1}),
    ("SGD", {**DOG, "momentum": 0.9}),
    ("AdamW", {**DOG, "statistics": True}),
    ("Prodigy", PRODIGY),
    ("Prodigy", {"lr": 1.0, "d0": 1e-3, "growth_rate": 1.5, "safeguard_warmup": True}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "momentum_ema": True, "debias": True, "centered": True}),
    ("RMSprop", VISION),
    ("AdamW", {"lr": 0.01, "betas": (0.9, tw.half_life(1000, 64)), "statistics": True}),
]
STORED = [
    ("AdamW", {**FREE, "schedule_free_state": "int8", "state": "bfloat16", "seed": 3}),
    ("SGD", {**DOG, "momentum": 0.9, "state": "int8"}),
    ("Prodigy", {**PRODIGY, "state": "int8"}),
]


def name_of(configuration):
    return "-".join([configuration[0], *configuration[1]])


runs = pytest.mark.parametrize("configuration", RUNS, ids=name_of)
all_runs = pytest.mark.parametrize("configuration", [*RUNS, *STORED], ids=name_of)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@runs
def test_the_devices_kernels_are_the_hosts(configuration, dtype, device):
    with host_kernels() as host:
        expected = several(configuration, host, dtype, SHAPES)
    rtol = 1e-6 if dtype == torch.float64 else 1e-4
    assert_alike(several(configuration, device, dtype, SHAPES), expected, rtol)


@all_runs
def test_nothing_is_waited_for(configuration, device):
    params = start(device, shapes=FEW)
    optimizer = ours(configuration, params)
    for i, one in enumerate([[g.to(device) for g in grads] for grads in gradients(params, 4)]):
        for p, g in zip(params, one, strict=True):
            p.grad = g
        if i < 2:
            optimizer.step()
            continue
        with no_waiting(device):
            optimizer.step()
    assert all(p.isfinite().all() for p in params)


@all_runs
def test_replays_are_steps(configuration, device):
    run = Captured(configuration, device)
    for lr in (configuration[1]["lr"], 0.125, 0.0):
        run.lr.fill_(lr)
        run.replay()
    run.check()


def moved(state_dict, device):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location=device)


@all_runs
def test_a_checkpoint_goes_to_the_host_and_comes_back(configuration, device):
    params = start(device, shapes=FEW)
    steps = gradients(params, 4)
    first = ours(configuration, params)
    follow(first, params, steps[:2])
    on_host = [leaf(p.detach().cpu()) for p in params]
    with host_kernels():
        second = ours(configuration, on_host)
        second.load_state_dict(moved(first.state_dict(), "cpu"))
        assert_equal((params, first), (on_host, second))
    back = [leaf(p.detach().to(device)) for p in on_host]
    third = ours(configuration, back)
    third.load_state_dict(moved(second.state_dict(), device))
    follow(third, back, steps[2:])
    follow(first, params, steps[2:])
    assert_equal((params, first), (back, third))
    with host_kernels():
        follow(second, on_host, steps[2:3])
    assert all(torch.isfinite(p).all() for p in on_host)


@all_runs
def test_state_that_is_made_before_is_that_of_the_first_step(configuration, device):
    mine, theirs = (start(device, shapes=FEW) for _ in range(2))
    a, b = ours(configuration, mine), ours(configuration, theirs)
    a.init_state()
    for p in mine:
        assert all(value.device.type == device.type for value in a.state[p].values() if value.dim())
    for optimizer, params in ((a, mine), (b, theirs)):
        follow(optimizer, params, gradients(mine, 2))
    assert_equal((mine, a), (theirs, b))


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "int8"])
def test_the_average_is_evaluated_and_the_way_goes_on(stored, device):
    def trained(place):
        params = start(place, shapes=FEW)
        optimizer = tw.AdamW(params, **FREE, schedule_free_state=stored)
        steps = gradients(params, 4)
        follow(optimizer, params, steps[:3])
        with optimizer.averaged():
            found = [p.detach().clone().cpu() for p in params]
        follow(optimizer, params, steps[3:])
        return params, optimizer, found

    with host_kernels() as host:
        others, other, expected = trained(host)
    params, optimizer, averages = trained(device)
    for mine, theirs in zip([*params, *averages], [*others, *expected], strict=True):
        assert_close(mine.detach().cpu(), theirs, 1e-4 if stored == "float32" else 1e-2)
    assert optimizer.param_groups[0]["schedule_free"] == other.param_groups[0]["schedule_free"]


@runs
def test_a_scaler_that_leaves_all_to_the_step(configuration, device):
    mine, theirs = (start(device, shapes=FEW) for _ in range(2))
    a, b = ours(configuration, mine), ours(configuration, theirs)
    a._step_supports_amp_scaling = True
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, growth_interval=1000)
    scaler.scale(torch.ones((), device=device))
    for i, grads in enumerate(gradients(mine, 4)):
        give(mine, [g.to(device) * scaler.get_scale() for g in grads])
        if i == 1:
            mine[0].grad[5] = torch.inf
        else:
            follow(b, theirs, [grads])
        scaler.step(a)
        scaler.update()
    assert scaler.get_scale() == 512.0
    a.found_inf = a.grad_scale = None
    assert_equal((mine, a), (theirs, b))


def test_streams_take_turns(cuda):
    mine, theirs = (start(cuda, shapes=FEW) for _ in range(2))
    a, b = (tw.Prodigy(params, **PRODIGY) for params in (mine, theirs))
    side, first = torch.cuda.Stream(), torch.cuda.current_stream()
    for i, grads in enumerate(gradients(mine, 6)):
        with torch.cuda.stream(side if i % 2 else first):
            torch.cuda.current_stream().wait_stream(first if i % 2 else side)
            follow(a, mine, [[g.to(cuda) for g in grads]])
        follow_later = [[g.to(cuda) for g in grads]]
        first.wait_stream(side)
        follow(b, theirs, follow_later)
    torch.cuda.synchronize()
    assert_equal((mine, a), (theirs, b))


# --- sharpness ---


def network(device):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 66)).to(device)


def batch(i, device):
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(i)).to(device)


def loss_of(model, x):
    return (model(x)[:, :2] - x[:, :2]).square().mean()


def climbing(model, **options):
    base = tw.SGD(model.parameters(), lr=0.1, momentum=0.9, max_norm=1.0)
    return tw.SAM(base, 0.1, model=model, **options)


def two_passes(model, optimizer, x, scaled=lambda loss: loss):
    optimizer.zero_grad()
    scaled(loss_of(model, x)).backward()
    if optimizer.ascend():
        scaled(loss_of(model, x)).backward()


@pytest.mark.parametrize("options", [{}, {"adaptive": True}, {"stored": "bfloat16", "every": 2}], ids=str)
def test_sharpness_is_the_hosts(options, device):
    def trained(place):
        model = network(place)
        optimizer = climbing(model, **options)
        for i in range(4):
            two_passes(model, optimizer, batch(i, place))
            optimizer.step()
        return model

    with host_kernels() as host:
        twin = trained(host)
    for one, other in zip(trained(device).state_dict().values(), twin.state_dict().values(), strict=True):
        assert_close(one, other, 1e-4)


def test_sharpness_waits_for_nothing(device):
    model = network(device)
    optimizer = climbing(model)
    batches = [batch(i, device) for i in range(4)]
    for i, x in enumerate(batches):
        if i < 2:
            two_passes(model, optimizer, x)
            optimizer.step()
            continue
        with no_waiting(device):
            two_passes(model, optimizer, x)
            optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


def test_sharpness_under_a_scaler(device):
    model = network(device)
    twin = copy.deepcopy(model)
    optimizer, other = climbing(model), climbing(twin)
    scaler = torch.amp.GradScaler(device.type, init_scale=64.0, growth_interval=1000)
    for i in range(4):
        two_passes(model, optimizer, batch(i, device), scaler.scale)
        two_passes(twin, other, batch(i, device))
        if i == 2:
            model[0].weight.grad[0, 0] = torch.inf
            other.descend()
        else:
            other.step()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 32.0
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(p, q, 1e-4)


def test_sharpness_under_autocast(device):
    model = network(device)
    twin = copy.deepcopy(model)
    for which, enabled in ((model, True), (twin, False)):
        optimizer = climbing(which, adaptive=True)
        for i in range(3):
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                two_passes(which, optimizer, batch(i, device))
                optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.dtype == torch.float32
        assert_close(p, q, 5e-2)


def test_two_passes_are_captured(device):
    """Both passes, the climb and the step in one graph; without batch norm, which counts its batches."""
    model = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 66)).to(device)
    twin = copy.deepcopy(model)
    optimizer, other = climbing(model), climbing(twin)
    x = batch(0, device)

    def work():
        two_passes(model, optimizer, x)
        optimizer.step()

    graph = None
    for i in range(6):
        x.copy_(batch(i, device))
        two_passes(twin, other, batch(i, device))
        other.step()
        if graph is None and i == 3:
            graph = captured(device, optimizer, work)
        graph.replay() if graph else aside(device, work)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(p, q, 1e-5)


def captured(device, optimizer, work):
    optimizer.zero_grad()
    return capture(device, work)


# --- the lab ---


@pytest.mark.skipif(INTERPRETED, reason="what the lab does with a GPU")
def test_a_rate_is_found_for_a_model_there_and_all_is_put_back(cuda):
    own = pytest.importorskip("thalweg.lab.sweeping.rate.own", exc_type=ImportError)
    model = network(cuda)
    optimizer = tw.AdamW(model.parameters(), lr=1e-3, state="int8")
    x = batch(0, cuda)
    loss_of(model, x).backward()
    optimizer.step()
    before = [copy.deepcopy(one) for one in (model.state_dict(), optimizer.state_dict())]
    found = own.find_rate(model, optimizer, lambda: loss_of(model, x), steps=40)
    assert len(found.sweeps) == 1
    for name, value in before[0].items():
        assert torch.equal(model.state_dict()[name], value), name
    now = optimizer.state_dict()
    assert now["param_groups"] == before[1]["param_groups"]
    for i, own_state in before[1]["state"].items():
        for name, value in own_state.items():
            assert torch.equal(now["state"][i][name], value), name


def test_bytes_are_counted_of_a_model_there(device):
    model = nn.Linear(64, 64).to(device)
    found, other = tw.memory(model), tw.memory(nn.Linear(64, 64))
    assert str(found) == str(other)
