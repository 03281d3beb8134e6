"""CUDA graphs: a captured step is a step, whatever is stepped beside it.

Without a GPU a stand-in notes launches and copies and does them again (`devices.Graph`).
"""

from __future__ import annotations

import pytest
import torch
from captured import BASE, Captured
from devices import beside, capture
from runs import assert_equal, everything, restore, start
from support import ONE_EACH, assert_close, give, gradients, label, leaf, rand
from torch import nn

import thalweg as tw

one_each = pytest.mark.parametrize("configuration", [*ONE_EACH, ("Lion", {"lr": 0.01})], ids=label)
SHAPES = ((1030,), (30,), ())


CHANGES = [{"weight_decay": 0.25}, {"betas": (0.5, 0.75)}, {"maximize": True}]


@one_each
def test_replays_are_steps(configuration, device):
    run = Captured(configuration, device)
    for _ in range(3):
        run.replay()
    run.check()


@one_each
def test_the_learning_rate_changes_between_replays(configuration, device):
    run = Captured(configuration, device)
    for lr in (0.5, 0.125, 0.0):
        run.lr.fill_(lr)
        run.replay()
    run.check()


@pytest.mark.parametrize("own_gradients", [False, True])
@one_each
def test_eager_steps_between_replays(configuration, own_gradients, device):
    run = Captured(configuration, device)
    for _ in range(2):
        with beside(run.graph):
            run.eager(own_gradients)
        run.replay()
    run.check()


@pytest.mark.parametrize("own_gradients", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_graph_goes_on_as_it_was_captured_whatever_changes_beside_it(change, own_gradients, device):
    run = Captured(("AdamW", {"lr": 0.01}), device)
    group, other = run.optimizer.param_groups[0], run.twin.param_groups[0]
    before = {key: group[key] for key in change}
    for _ in range(2):
        group.update(change)
        other.update(change)
        with beside(run.graph):
            run.eager(own_gradients)
        other.update(before)  # what the graph was captured with
        run.replay()
    run.check()


def test_a_change_before_the_capture_is_there_for_an_eager_step_before_the_first_replay(device):
    run = Captured(("AdamW", {"lr": 0.01}), device)
    for optimizer in (run.optimizer, run.twin):
        optimizer.param_groups[0]["weight_decay"] = 0.25
    graph = capture(device, run.optimizer.step)
    with beside(graph):
        run.eager()
    run.check()


def test_other_patterns_of_gradients_beside_a_graph(device):
    # More than the plans that are kept.
    run = Captured(("AdamW", {"lr": 0.01}), device)
    extra = [leaf(torch.ones(8, device=device)) for _ in range(5)]
    run.optimizer.add_param_group({"params": extra})
    run.give_static()
    graph = None
    for pattern in range(20):
        give(extra, [torch.ones(8) if pattern >> i & 1 else None for i in range(5)])
        run.give_static()
        torch._foreach_zero_(run.static)
        run.optimizer.step()
        if graph is None:
            graph = capture(device, run.optimizer.step)
    before = everything(run.optimizer)
    graph.replay()
    after = everything(run.optimizer)
    changed = [not torch.equal(a, b) for a, b in zip(before[:3], after[:3], strict=True)]
    assert all(changed)
    assert all(p.isfinite().all() for p in run.params)


def drawing(device, storage):
    """Return an optimizer that rounds by random words, its parameter, and a graph replayed once."""
    params = start(device, shapes=((8192,),))
    optimizer = tw.SGD(params, lr=0.1, momentum=0.9, **storage)
    give(params, [g.to(device) for g in gradients(params, 1)[0]])
    for _ in range(BASE):
        optimizer.step()
    graph = capture(device, optimizer.step)
    graph.replay()
    return optimizer, params[0], graph


def momentum_of(optimizer, param):
    """Return the numbers or the codes of the momentum."""
    state = optimizer.state[param]
    return state.get("momentum_buffer_codes", state.get("momentum_buffer"))


def assert_all_differ(seen):
    for i, one in enumerate(seen):
        for other in seen[i + 1 :]:
            assert (one != other).float().mean() > 0.01


@pytest.mark.parametrize("storage", [{"state": "int8"}, {"state": "bfloat16"}], ids=str)
def test_replays_round_by_new_words(storage, device):
    optimizer, param, graph = drawing(device, storage)
    before, seen = everything(optimizer), []
    for _ in range(4):
        restore(optimizer, before)
        graph.replay()
        seen.append(momentum_of(optimizer, param).clone())
    assert_all_differ(seen)


@pytest.mark.parametrize("storage", [{"state": "int8"}, {"state": "bfloat16"}], ids=str)
def test_a_step_beside_a_graph_rounds_by_words_of_its_own(storage, device):
    optimizer, param, graph = drawing(device, storage)
    before, seen = everything(optimizer), []
    for take in (graph.replay, optimizer.step, graph.replay, optimizer.step):
        restore(optimizer, before)
        with beside(graph):
            take()
        seen.append(momentum_of(optimizer, param).clone())
    assert_all_differ(seen)


@pytest.mark.parametrize("storage", [{"state": "int8"}, {"state": "bfloat16"}], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_stored_in_fewer_bytes_replays_go_where_eager_steps_go(name, storage, device):
    kwargs = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
    run = Captured((name, kwargs), device, **storage)
    begun = [p.detach().clone() for p in run.params]
    for i in range(8):
        if i % 3 == 2:
            with beside(run.graph):
                run.eager()
        else:
            run.replay()
    for p, q, start_ in zip(run.params, run.others, begun, strict=True):
        assert (p - q).norm() < 0.05 * (q - start_).norm()
        steps = [o.state[x].get("step") for o, x in ((run.optimizer, p), (run.twin, q))]
        assert steps[0] is None or torch.equal(*steps)


def test_a_captured_step_under_a_scaler_skips_what_overflows(device):
    params = start(device, shapes=SHAPES)
    optimizer = tw.AdamW(params)
    found_inf, scale = torch.zeros((), device=device), torch.full((), 4.0, device=device)
    optimizer.found_inf, optimizer.grad_scale = found_inf, scale
    grads = [g.to(device) for g in gradients(params, 1)[0]]
    give(params, grads)
    for _ in range(BASE):
        optimizer.step()
    graph = capture(device, optimizer.step)
    before = everything(optimizer)
    found_inf.fill_(1)
    graph.replay()
    assert all(map(torch.equal, everything(optimizer), before))
    found_inf.fill_(0)
    graph.replay()
    assert not torch.equal(params[0], before[0])


def capture_training(model, optimizer, x, y):
    def step():
        optimizer.zero_grad(set_to_none=True)
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step()
    return graph, step


@pytest.mark.parametrize("storage", [{}, {"state": "int8"}, {"state": "bfloat16"}], ids=str)
def test_a_captured_training_step(storage, cuda):
    torch.manual_seed(0)
    net, twin = (nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 1)).to(cuda) for _ in range(2))
    twin.load_state_dict(net.state_dict())
    x, y = torch.randn(256, 64, device=cuda), torch.randn(256, 1, device=cuda)
    lr = torch.tensor(1e-3, device=cuda)
    optimizer, other = tw.AdamW(net.parameters(), lr=lr, **storage), tw.AdamW(twin.parameters(), **storage)
    graph, step = capture_training(net, optimizer, x, y)
    rates = [1e-3] * 3 + [1e-2, 1e-3, 5e-3, 1e-3]
    for i, rate in enumerate(rates):
        if i >= 3:
            lr.fill_(rate)
            step() if i == 5 else graph.replay()
        other.param_groups[0]["lr"] = rate
        other.zero_grad()
        nn.functional.mse_loss(twin(x), y).backward()
        other.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        if storage:
            assert (p - q).norm() < 0.05 * q.norm()
        else:
            assert_close(p, q, rtol=1e-5)
        assert torch.equal(optimizer.state[p]["step"], other.state[q]["step"])


def test_two_graphs_of_one_optimizer(device):
    mine, theirs = start(device, shapes=SHAPES), start(device, shapes=SHAPES)
    lr = torch.tensor(0.01, device=device)
    a, b = tw.AdamW(mine, lr=lr), tw.AdamW(theirs, lr=lr.item())
    grads = [[g.to(device) for g in one] for one in gradients(mine, 2)]
    graphs = []
    for static in grads:
        give(mine, static)
        give(theirs, static)
        a.step()
        b.step()
        graphs.append((capture(device, a.step), [p.grad for p in mine], static))
    for graph, _, static in (*graphs, *graphs):
        graph.replay()
        give(theirs, static)
        b.step()
    assert_equal((mine, a), (theirs, b))


def test_a_step_like_the_one_before_is_enough_before_another_capture(device):
    mine, theirs = start(device, shapes=SHAPES), start(device, shapes=SHAPES)
    a, b = tw.AdamW(mine), tw.AdamW(theirs)
    first, *others = [[g.to(device) for g in one] for one in gradients(mine, 3)]

    def both_step():
        for optimizer, params in ((a, mine), (b, theirs)):
            for p, g in zip(params, first, strict=True):
                p.grad = g  # at the same place every time
            optimizer.step()

    graphs = []
    for static in others:
        both_step()
        give(mine, static)
        graphs.append((capture(device, a.step), [p.grad for p in mine], static))
    for graph, _, static in graphs:
        graph.replay()
        give(theirs, static)
        b.step()
    assert_equal((mine, a), (theirs, b))


def test_the_memory_of_a_replay_is_still_the_optimizers(device):
    param = leaf(rand(50).to(device, torch.float32))
    optimizer = tw.AdamW([param])
    param.grad = torch.ones_like(param)
    for _ in range(BASE):
        optimizer.step()
    graph = capture(device, optimizer.step)
    graph.replay()
    assert optimizer.state[param]["step"].item() == BASE + 1
    # A checkpoint after replays has what they did.
    saved = optimizer.state_dict()["state"][0]
    assert saved["step"].item() == BASE + 1
    assert torch.equal(saved["exp_avg"], optimizer.state[param]["exp_avg"])
