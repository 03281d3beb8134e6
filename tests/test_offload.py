"""Steps on the host for parameters elsewhere, where the CPU stands for both, against the plain ones."""

import copy
import gc
import os
import warnings
import weakref

import pytest
import support
import torch
from support import ONE_EACH, groups_of, label, loss_of, rand
from torch import nn

import thalweg as tw
from thalweg.optimizer import offload

STORAGES = [
    (torch.float32, {}),
    (torch.float32, {"state": "int8", "seed": 3}),
    (torch.bfloat16, {"state": "int8", "weight_bits": 24}),
    (torch.bfloat16, {"weight_bits": 32}),
    (torch.bfloat16, {"state": "bfloat16", "weight_bits": 16}),
]
RULES = [*ONE_EACH, ("Lion", {"lr": 1e-3}), ("Prodigy", {})]
WAYS = ["whole", "chunks"]
IS_WHOLE_MATRIX = os.environ.get("THALWEG_TEST_ADDITIONS") == "all"
CASES = [(rule, storage, way) for rule in RULES for storage in STORAGES for way in WAYS]
if not IS_WHOLE_MATRIX:
    CASES = [(rule, STORAGES[i % len(STORAGES)], WAYS[i % 2]) for i, rule in enumerate(RULES)]

ADDITIONS = [
    {"max_norm": 0.01},
    {"max_value": 1e-3},
    {"skip_nonfinite": 3},
    {"statistics": True},
    {"average": 0.9},
    {"schedule_free": 0.9, "betas": (0.0, 0.999)},
    {"lamb": True},
    {"cautious": True},
    {"state": "block8"},
]


def name_of(value):
    if isinstance(value, str):
        return value
    first, second = value
    return label(value) if isinstance(first, str) else "-".join([str(first)[6:], *map(str, second.values())])


def net(dtype=torch.float32):
    model = support.net(dtype)
    model.outer.weight.data = model.outer.weight.data.t().contiguous().t()
    return model


def made(name, settings, dtype=torch.float32):
    model = net(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, getattr(tw, name)(groups_of(model), **settings)


def twins(name="AdamW", settings=None, dtype=torch.float32):
    """Return a model with its optimizer, and the same with steps on the host."""
    plain, away = (made(name, settings or {}, dtype) for _ in range(2))
    away[1].offload(from_cpu=True)
    return plain, away


def train(model, optimizer, steps, *, begin=0):
    for step in range(begin, begin + steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def same(a, b):
    """Assert that two models with their optimizers are alike, bit for bit."""
    for (name, one), other in zip(a[0].named_parameters(), b[0].parameters(), strict=True):
        assert torch.equal(one, other), name
    one, other = (optimizer.state_dict() for _, optimizer in (a, b))
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    for key, own in one["state"].items():
        assert own.keys() == other["state"][key].keys()
        for name, value in own.items():
            assert torch.equal(value, other["state"][key][name]), (key, name)


def homes(optimizer):
    return [mirror.home for mirror in optimizer._offload._mirrors.values()]


def divide(monkeypatch):
    """Have steps be taken chunk after chunk as soon as there is anything to divide."""
    monkeypatch.setattr(offload, "LEAST_CHUNK", 1)


@pytest.mark.filterwarnings("ignore:the first step")
@pytest.mark.parametrize(("rule", "storage", "way"), CASES, ids=name_of)
def test_steps_on_the_host_are_the_plain_ones(rule, storage, way, monkeypatch):
    if way == "chunks":
        divide(monkeypatch)
    name, settings = rule
    dtype, stored = storage
    plain, away = twins(name, {**settings, **stored}, dtype)
    for begin in (0, 2):
        for model, optimizer in (plain, away):
            train(model, optimizer, 2, begin=begin)
            optimizer.param_groups[1]["lr"] = 0.002
        same(plain, away)
    assert not {home.data_ptr() for home in homes(away[1])} & {p.data_ptr() for p in away[0].parameters()}


@pytest.mark.filterwarnings("ignore:the first step")
@pytest.mark.parametrize("settings", ADDITIONS, ids=lambda settings: next(iter(settings)))
def test_additions_are_the_plain_ones(settings, monkeypatch):
    divide(monkeypatch)  # what needs all gradients is stepped whole all the same
    plain, away = twins("AdamW", {"lr": 0.01, **settings, "state": "int8"})
    train(*plain, 3)
    train(*away, 3)
    same(plain, away)
    assert plain[1].statistics() == away[1].statistics()
    for averages in zip(*(one[1].averaged_weights().values() for one in (plain, away)), strict=True):
        assert torch.equal(*averages)


def test_a_step_is_divided_in_the_order_in_which_gradients_came(monkeypatch):
    divide(monkeypatch)
    model, optimizer = made("SGD", {"lr": 0.1, "momentum": 0.9})
    optimizer.offload(from_cpu=True)
    train(model, optimizer, 1)
    divided = []
    step_chunks = optimizer._offload._step_chunks
    monkeypatch.setattr(
        optimizer._offload, "_step_chunks", lambda *args: (divided.append(args[1]), step_chunks(*args))
    )
    train(model, optimizer, 1, begin=1)
    (order,) = [[mirror.param for chunk in one for mirror in chunk] for one in divided]
    assert len(divided[0]) > 2
    assert [id(p) for p in order[-1:]] == [id(model.words.weight)]  # used first, complete last
    assert len(order) == 5


def test_fresh_weights_are_taken_up():
    plain, away = twins("AdamW", {"weight_bits": 24, "lr": 0.01}, torch.bfloat16)
    for model, optimizer in (plain, away):
        train(model, optimizer, 2)
        saved = copy.deepcopy(model.state_dict())
        train(model, optimizer, 2, begin=2)
        model.load_state_dict(saved)
        with torch.no_grad():
            model.inner.bias.add_(1)
        model.outer.bias.data = torch.ones_like(model.outer.bias)
        train(model, optimizer, 2, begin=4)
    same(plain, away)


def test_memory_of_another_shape_order_or_dtype_gets_a_new_home():
    plain, away = twins("SGD", {"lr": 0.1})
    for model, optimizer in (plain, away):
        train(model, optimizer, 1)
        model.inner.weight.data = model.inner.weight.data.t().contiguous().t()
        train(model, optimizer, 1, begin=1)
        model.double()
        train(model, optimizer, 1, begin=2)
    same(plain, away)


def test_clipping_scaling_and_accumulation_after_backward_are_seen():
    plain, away = twins("AdamW", {"lr": 0.01, "eps": 1e-3})
    for model, optimizer in (plain, away):
        for step in range(4):
            optimizer.zero_grad()
            for part in range(3):
                loss_of(model, 3 * step + part).backward()
            if step % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
    same(plain, away)


def test_what_was_fetched_in_vain_is_not_fetched_again(monkeypatch):
    model, optimizer = made("SGD", {"lr": 0.1})
    optimizer.offload(from_cpu=True)
    mirror = optimizer._offload._mirrors[model.inner.weight]
    fetched = []
    fetch = mirror._lane.fetch
    monkeypatch.setattr(
        mirror._lane, "fetch", lambda to, tensor: (fetched.append(to is mirror._buffer), fetch(to, tensor))[1]
    )
    counts = []
    for _ in range(3):
        optimizer.zero_grad()
        for part in range(4):
            loss_of(model, part).backward()
        optimizer.step()
        counts.append(sum(fetched))
        fetched.clear()
    assert counts == [4, 1, 1]


def test_gradients_set_by_hand_missing_and_of_rows():
    plain, away = twins("Adagrad", {"lr": 0.1})
    for model, optimizer in (plain, away):
        train(model, optimizer, 1)
        optimizer.zero_grad()
        model.inner.weight.grad = rand(96, 64, seed=7).float()
        optimizer.step()
        optimizer.step()  # the same gradient once more
        model.inner.weight.grad = rand(96, 64, seed=8).float()
        rows = torch.tensor([[3, 5, 3]])
        model.words.weight.grad = torch.sparse_coo_tensor(rows, rand(3, 64, seed=9).float(), (64, 64))
        optimizer.step()
    same(plain, away)


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_unscales_and_skips(fused):
    plain, away = twins("AdamW", {"lr": 0.01, "fused": fused})
    for model, optimizer in (plain, away):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
        for step in range(5):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            scaler.scale(loss * float("inf") if step == 2 else loss).backward()
            scaler.step(optimizer)
            scaler.update()
    same(plain, away)


def test_what_autograd_is_not_told_of():
    plain, away = made("SGD", {"lr": 0.1}), made("SGD", {"lr": 0.1})
    handle = away[1].offload(from_cpu=True, early=False)
    for model, optimizer in (plain, away):
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            model.inner.weight.grad.data.mul_(0.5)
            if step == 1:
                model.inner.weight.data.mul_(2)
                handle.refresh()
            optimizer.step()
    same(plain, away)


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_that_has_unscaled_before_clipping(fused):
    plain, away = twins("AdamW", {"lr": 0.01, "fused": fused})
    for model, optimizer in (plain, away):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        for step in range(3):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    same(plain, away)


def test_rows_that_rest_catch_up():
    def run(away):
        table = nn.Embedding(32, 64, sparse=True)
        table.weight.data = rand(32, 64, seed=1)
        optimizer = tw.AdamW(table.parameters(), lr=0.01, sparse="exact")
        if away:
            optimizer.offload(from_cpu=True)
        for step in range(6):
            optimizer.zero_grad()
            table(torch.tensor([step, 3])).square().sum().backward()
            optimizer.step()
            if step == 3:
                optimizer.flush(table.weight, torch.tensor([1]))
        optimizer.flush()
        return table, optimizer

    same(run(False), run(True))


def test_checkpoints_go_both_ways():
    plain, away = twins("AdamW", {"lr": 0.01, "state": "int8", "seed": 5})
    train(*plain, 2)
    train(*away, 2)
    saved = [copy.deepcopy((m.state_dict(), o.state_dict())) for m, o in (plain, away)]
    others = twins("AdamW", {"lr": 0.02, "state": "int8"})
    for (model, optimizer), (weights, state) in zip(others, reversed(saved), strict=True):
        model.load_state_dict(weights)
        optimizer.load_state_dict(copy.deepcopy(state))
        train(model, optimizer, 2, begin=2)
    same(*others)
    train(*plain, 2, begin=2)
    same(plain, others[1])
    away[1].load_state_dict(saved[1][1])  # into an optimizer that has been stepped
    away[0].load_state_dict(saved[1][0])
    train(*away, 2, begin=2)
    same(plain, away)


def test_checkpoints_of_torch_go_both_ways():
    model, away = made("AdamW", {"lr": 0.01})
    away.offload(from_cpu=True)
    other = net()
    theirs = torch.optim.AdamW(groups_of(other), lr=0.01)
    train(other, theirs, 2)
    model.load_state_dict(other.state_dict())
    away.load_state_dict(copy.deepcopy(theirs.state_dict()))
    train(other, theirs, 2, begin=2)
    train(model, away, 2, begin=2)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    theirs.load_state_dict(copy.deepcopy(away.state_dict()))
    train(other, theirs, 1, begin=4)


def test_it_begins_and_ends_in_the_middle():
    plain, away = (made("NAdam", {"lr": 0.01, "state": "int8"}) for _ in range(2))
    train(*plain, 6)
    train(*away, 2)
    with away[1].offload(from_cpu=True) as handle:
        train(*away, 2, begin=2)
    assert not handle.is_on
    train(*away, 2, begin=4)
    same(plain, away)
    away[1].offload(from_cpu=True)
    with pytest.raises(ValueError, match="is on"):
        away[1].offload()


def test_parameters_that_come_later():
    plain, away = twins("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.1})
    for model, optimizer in (plain, away):
        train(model, optimizer, 1)
        late = model.late = nn.Parameter(rand(64, seed=3))
        optimizer.add_param_group({"params": [late], "lr": 0.5})
        model.register_forward_hook(lambda module, inputs, output, late=late: output * late)
        model.frozen.requires_grad_()
        train(model, optimizer, 3, begin=1)
    same(plain, away)


def test_groups_of_different_rules_and_schedules():
    results = []
    for is_away in (False, True):
        model = net()
        groups = groups_of(model)
        for group, name in zip(groups, ("Adam", "SGD", "Lion"), strict=True):
            group |= {"optimizer": name, "lr": 0.01}
        optimizer = tw.Mixed(groups, max_norm=0.1)
        if is_away:
            optimizer.offload(from_cpu=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=5, cycle_momentum=False)
        for step in range(4):
            train(model, optimizer, 1, begin=step)
            schedule.step()
        results.append((model, optimizer))
    same(*results)


def test_steps_in_backward():
    plain, away = twins("AdamW", {"lr": 0.01, "state": "int8"})
    train(*plain, 4)
    away[1].in_backward(hold=0)
    train(*away, 4)
    same(plain, away)
    assert all(param.grad is None for param in away[0].parameters())


def test_a_closure_and_two_passes():
    plain, away = twins("SGD", {"lr": 0.1, "momentum": 0.9})
    for model, optimizer in (plain, away):
        sam = tw.SAM(optimizer, rho=0.1)

        def closure(model=model, sam=sam):
            loss = loss_of(model, 1)
            loss.backward()
            return loss

        for _ in range(3):
            sam.step(closure)
        optimizer.zero_grad()
        assert optimizer.step(closure) is not None
    same(plain, away)


def test_weights_and_averages_come_out_and_in():
    plain, away = twins("AdamW", {"lr": 0.01, "weight_bits": 24, "average": 0.9}, torch.bfloat16)
    for model, optimizer in (plain, away):
        train(model, optimizer, 3)
        with optimizer.averaged(model):
            assert not torch.equal(model.inner.weight, optimizer.full_precision_weights()[2].bfloat16())
        optimizer.eval()
        optimizer.train()
        weights = {key: value * 2 for key, value in optimizer.full_precision_weights().items()}
        optimizer.load_full_precision_weights(weights)
        train(model, optimizer, 2, begin=3)
    same(plain, away)


def test_state_that_is_made_before_the_first_step():
    plain, away = twins("AdamW", {"lr": 0.01})
    for _, optimizer in (plain, away):
        optimizer.init_state()
    same(plain, away)
    train(*plain, 2)
    train(*away, 2)
    same(plain, away)


def test_a_step_that_is_skipped_sends_nothing():
    model, optimizer = made("AdamW", {"lr": 0.01, "skip_nonfinite": 5})
    optimizer.offload(from_cpu=True)
    train(model, optimizer, 1)
    before = [param._version for param in model.parameters()]
    optimizer.zero_grad()
    (loss_of(model, 1) * float("nan")).backward()
    with pytest.warns(UserWarning, match="skipped"):
        optimizer.step()
    assert [param._version for param in model.parameters()] == before
    assert optimizer.skipped_steps == 1


def test_what_cannot_be_is_refused_before_anything_changes():
    whole = torch.zeros(8)
    shared = [nn.Parameter(whole[:5]), nn.Parameter(whole[4:])]
    spread = [nn.Parameter(torch.zeros(1).expand(4))]
    for params, said in ((shared, "share no memory"), (spread, "lie apart")):
        optimizer = tw.SGD(params, lr=0.1)
        with pytest.raises(ValueError, match=said):
            optimizer.offload(from_cpu=True)
        assert optimizer._offload is None
    optimizer = tw.SGD([nn.Parameter(torch.zeros(4))], lr=0.1, differentiable=True)
    with pytest.raises(ValueError, match="differentiable"):
        optimizer.offload(from_cpu=True)
    with torch.inference_mode():
        unseen = torch.zeros(4)
    optimizer = tw.SGD([unseen], lr=0.1)
    with pytest.raises(RuntimeError, match="inference mode"):
        optimizer.offload(from_cpu=True)


def test_parameters_of_the_cpu_stay_where_they_are():
    plain, away = made("AdamW", {"lr": 0.01}), made("AdamW", {"lr": 0.01})
    away[1].offload()
    train(*plain, 2)
    train(*away, 2)
    same(plain, away)
    assert not homes(away[1])


def test_the_optimizer_goes_when_it_is_let_go():
    model, optimizer = made("AdamW", {"lr": 0.01})
    optimizer.offload(from_cpu=True)
    train(model, optimizer, 1)
    known = [weakref.ref(optimizer), *map(weakref.ref, homes(optimizer))]
    del optimizer
    gc.collect()
    assert all(ref() is None for ref in known)
    loss_of(model, 1).backward()
    other = tw.AdamW(groups_of(model))
    other.offload(from_cpu=True)
    train(model, other, 1)


def test_copies_step_where_their_parameters_are():
    model, optimizer = made("AdamW", {"lr": 0.01})
    optimizer.offload(from_cpu=True)
    train(model, optimizer, 1)
    model, optimizer = copy.deepcopy((model, optimizer))
    assert optimizer._offload is None
    train(model, optimizer, 1, begin=1)
