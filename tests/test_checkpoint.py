"""Checkpoints: torch's load here and ours load there, by name or position, whole or not at all."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from support import (
    NAMES,
    ONE_EACH,
    assert_close,
    assert_same,
    follow,
    gradients,
    label,
    leaf,
    oracle,
    ours,
    rand,
    state_of,
    twins,
)
from torch import nn

import thalweg as tw
from thalweg.rule import Recipe

one_each = pytest.mark.parametrize("configuration", ONE_EACH, ids=label)
SHAPES = ((5, 3), (17,), ())


def start(dtype=torch.float64):
    return [rand(*shape, seed=i).to(dtype) for i, shape in enumerate(SHAPES)]


def saved(optimizer, **options):
    """Return the state dict after a trip through a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True, **options)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("direction", ["torch to ours", "ours to torch", "ours to ours"])
@one_each
def test_a_run_goes_on_with_the_other(configuration, direction, late):
    mine, theirs = twins(start())
    first_of, second_of = {
        "torch to ours": (oracle, ours),
        "ours to torch": (ours, oracle),
        "ours to ours": (ours, ours),
    }[direction]
    steps = gradients(mine, 8)
    if late:
        for grads in steps[:5]:
            grads[0] = None  # the checkpoint lacks this one's state
    first = first_of(configuration, mine)
    follow(first, mine, steps[:4])
    name, kwargs = configuration
    second = second_of((name, {**kwargs, "lr": 77.0}), mine)  # the checkpoint's rate counts
    second.load_state_dict(saved(first))
    follow(second, mine, steps[4:])
    straight = oracle(configuration, theirs)
    follow(straight, theirs, steps)
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q)
        for key, value in straight.state.get(q, {}).items():
            if value is not None:
                assert_close(second.state[p][key], value, rtol=1e-6 if key == "mu_product" else 1e-9)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_torchs_fused_and_plain_checkpoints_load(name, fused):
    mine, theirs = twins(start(torch.float32))
    first = getattr(torch.optim, name)(mine, lr=0.1, fused=fused)
    steps = gradients(mine, 6)
    follow(first, mine, steps[:3])
    second = getattr(tw, name)(mine, lr=0.1)
    second.load_state_dict(saved(first))
    assert second.param_groups[0]["fused"] is None
    follow(second, mine, steps[3:])
    straight = oracle((name, {"lr": 0.1}), theirs)
    follow(straight, theirs, steps)
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q, rtol=1e-5)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_half_precision_state_is_widened_on_the_way_in_and_narrowed_in_torch(name):
    kwargs = {"lr": 0.1, "momentum": 0.9} if name == "SGD" else {"lr": 0.1}
    params = [leaf(rand(9), torch.bfloat16)]
    steps = gradients(params, 4)
    theirs = oracle((name, kwargs), params)
    follow(theirs, params, steps[:2])
    mine = ours((name, kwargs), params)
    mine.load_state_dict(saved(theirs))
    for slot, value in mine.state[params[0]].items():
        assert value.dtype == torch.float32
        assert torch.equal(value, theirs.state[params[0]][slot].float())
    follow(mine, params, steps[2:3])
    back = oracle((name, kwargs), params)
    back.load_state_dict(saved(mine))
    follow(back, params, steps[3:])
    assert params[0].isfinite().all()


def test_scaled_steps_after_an_unfused_checkpoint():
    # In torch, a fused optimizer that has loaded an unfused checkpoint forgets that it unscales.
    mine, theirs = twins([rand(9)])
    donor = torch.optim.Adam([leaf(rand(9))], lr=0.1)
    a, b = tw.Adam(mine, lr=0.1, fused=True), tw.Adam(theirs, lr=0.1)
    a.load_state_dict(donor.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))
    mine[0].grad, theirs[0].grad = rand(9, seed=1) * 1024, rand(9, seed=1)
    scaler.step(a)
    b.step()
    assert_close(mine[0], theirs[0])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()


def train(module, optimizer, steps=2):
    for i in range(steps):
        optimizer.zero_grad()
        (module(rand(3, 4, seed=i)) ** 2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("module", [tw, torch.optim])
def test_reordered_parameters_are_matched_by_name(module):
    model = net()
    first = module.AdamW(model.named_parameters(), lr=0.125)
    train(model, first)
    named = list(model.named_parameters())
    second = tw.AdamW([named[i] for i in (2, 0, 3, 1)])
    second.load_state_dict(saved(first))
    for _, p in named:
        for key, value in first.state[p].items():
            assert torch.equal(second.state[p][key], value)
    assert second.param_groups[0]["lr"] == 0.125
    assert second.param_groups[0]["param_names"] == ["1.weight", "0.weight", "1.bias", "0.bias"]
    train(model, second)


def test_reordered_groups_are_matched_by_name():
    model = net()
    weights = [(n, p) for n, p in model.named_parameters() if n.endswith("weight")]
    biases = [(n, p) for n, p in model.named_parameters() if n.endswith("bias")]
    first = tw.AdamW([{"params": weights, "weight_decay": 0.5}, {"params": biases, "lr": 0.25}])
    train(model, first)
    second = tw.AdamW([{"params": biases[::-1]}, {"params": weights}])
    second.load_state_dict(saved(first))
    assert second.param_groups[0]["lr"] == 0.25
    assert second.param_groups[1]["weight_decay"] == 0.5
    for p in model.parameters():
        assert torch.equal(second.state[p]["exp_avg"], first.state[p]["exp_avg"])


def test_groups_that_are_merged_or_split_keep_their_values():
    model = net()
    named = list(model.named_parameters())
    first = tw.AdamW([{"params": named[:2]}, {"params": named[2:]}], lr=0.25)
    train(model, first)
    merged = tw.AdamW(named)
    merged.load_state_dict(saved(first))
    assert merged.param_groups[0]["lr"] == 0.25
    split = tw.AdamW([{"params": named[:1]}, {"params": named[1:]}])
    split.load_state_dict(saved(merged))
    for p in model.parameters():
        assert torch.equal(split.state[p]["exp_avg"], first.state[p]["exp_avg"])


def test_groups_that_disagree_are_not_merged():
    model = net()
    named = list(model.named_parameters())
    first = tw.AdamW([{"params": named[:2]}, {"params": named[2:], "lr": 0.5}])
    merged = tw.AdamW(named)
    with pytest.raises(ValueError, match=r"group 0 .*'lr'"):
        merged.load_state_dict(first.state_dict())


def test_other_names_are_warned_about_and_matched_by_position():
    model = net()
    first = tw.Adam([(f"old.{n}", p) for n, p in model.named_parameters()])
    train(model, first)
    second = tw.Adam(model.named_parameters())
    with pytest.warns(UserWarning, match=r"names differ.*0\.bias"):
        second.load_state_dict(first.state_dict())
    for p in model.parameters():
        assert torch.equal(second.state[p]["exp_avg"], first.state[p]["exp_avg"])
    assert second.param_groups[0]["param_names"][0] == "0.weight"


def test_names_on_one_side_only_are_no_trouble(recwarn):
    model = net()
    first, second = tw.Adam(model.named_parameters()), tw.Adam(model.parameters())
    train(model, first)
    second.load_state_dict(first.state_dict())
    first.load_state_dict(second.state_dict())
    assert first.param_groups[0]["param_names"][0] == "0.weight"
    assert not recwarn


def wrong_checkpoints():
    params = start()

    def of(groups):
        optimizer = tw.Adam(groups)
        follow(optimizer, params, gradients(params, 1))
        return optimizer.state_dict()

    misshapen, three = of(params), of(params)
    misshapen["state"][1]["exp_avg"] = torch.zeros(4)
    three["param_groups"][0]["betas"] = (0.9, 0.99, 0.999)
    return {
        "fewer groups": (of(params), [{"params": [0]}, {"params": [1, 2]}], "parameter groups"),
        "fewer parameters": (of(params[:2]), [{"params": [0, 1, 2]}], "2 parameters .* and 3"),
        "other shape": (misshapen, [{"params": [0, 1, 2]}], r"'exp_avg'.*\(17,\).*\(4,\)"),
        "wrong value": (three, [{"params": [0, 1, 2]}], "betas must be"),
    }


@pytest.mark.parametrize("kind", ["fewer groups", "fewer parameters", "other shape", "wrong value"])
def test_a_wrong_checkpoint_is_refused_and_nothing_changes(kind):
    checkpoint, groups, match = wrong_checkpoints()[kind]
    params = [leaf(t) for t in start()]
    optimizer = tw.Adam([{"params": [params[i] for i in g["params"]]} for g in groups], lr=0.5)
    follow(optimizer, params, gradients(params, 2))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(checkpoint)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, state in before["state"].items():
        assert all(torch.equal(after["state"][key][name], state[name]) for name in state)
    follow(optimizer, params, gradients(params, 1))


@pytest.mark.parametrize("module", [tw, torch.optim])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop"])
def test_what_a_schedule_has_done_to_a_rate_is_loaded(module, name):
    params, twins = ([leaf(t) for t in start()] for _ in range(2))
    optimizer = getattr(module, name)(params, lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 2)
    for _ in range(3):  # one more than it was written for
        follow(optimizer, params, gradients(params, 1))
        schedule.step()
    for param, twin in zip(params, twins, strict=True):
        twin.data.copy_(param.data)
    other = getattr(module, name)(twins, lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.param_groups[0]["lr"] == pytest.approx(-0.05)
    follow(optimizer, params, gradients(params, 1))
    follow(other, twins, gradients(twins, 1))
    assert all(map(torch.equal, params, twins))


def memory_of(state):
    """Return where the tensors of a parameter's state lie, by name."""
    return {name: value.untyped_storage().data_ptr() for name, value in state.items() if value is not None}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@one_each
def test_saving_and_loading_copy_nothing_that_torch_does_not_copy(configuration, dtype):
    # Checkpoints are made where memory is short.
    found = []
    for optimizer_of in (ours, oracle):
        params = [leaf(t) for t in start(dtype)]
        first, second = optimizer_of(configuration, params), optimizer_of(configuration, params)
        follow(first, params, gradients(params, 2))
        checkpoint = first.state_dict()
        assert [memory_of(s) for s in checkpoint["state"].values()] == [
            memory_of(first.state[p]) for p in params if p in first.state
        ]
        second.load_state_dict(checkpoint)
        shared = [
            {name for name, place in memory_of(second.state[p]).items() if place in memory_of(s).values()}
            for p, s in zip(params, checkpoint["state"].values(), strict=False)
        ]
        found.append(shared)
    assert found[0] == found[1]


def test_what_torch_would_copy_is_copied_once():
    param = leaf(rand(9), torch.bfloat16)
    first, second = tw.Adam([param]), tw.Adam([param])
    follow(first, [param], gradients([param], 1))
    first.state[param]["mask"] = torch.ones(9, dtype=torch.uint8)
    second.load_state_dict(first.state_dict())
    for name in ("exp_avg", "exp_avg_sq", "mask"):
        assert torch.equal(second.state[param][name], first.state[param][name])
        assert memory_of(second.state[param])[name] not in memory_of(first.state[param]).values()


def test_a_copied_checkpoint_stays_as_it_is():
    params = [leaf(t) for t in start()]
    optimizer = tw.AdamW(params)
    follow(optimizer, params, gradients(params, 2))
    checkpoint = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(checkpoint)
    follow(optimizer, params, gradients(params, 2))
    optimizer.param_groups[0]["lr"] = 3.0
    assert checkpoint["param_groups"] == kept["param_groups"]
    for key, state in kept["state"].items():
        assert all(torch.equal(checkpoint["state"][key][name], state[name]) for name in state)


@pytest.mark.parametrize("name", [*NAMES, "Lion"])
def test_a_state_dict_looks_like_torchs(name):
    mine, theirs = twins(start())
    a = getattr(tw, name)(mine)
    b = getattr(torch.optim, name if name != "Lion" else "SGD")(theirs)
    assert a.state_dict().keys() == b.state_dict().keys()
    follow(a, mine, gradients(mine, 1))
    follow(b, theirs, gradients(mine, 1))
    assert a.state_dict()["param_groups"][0]["params"] == [0, 1, 2]
    if name not in ("Lion", "SGD"):
        for i, state in b.state_dict()["state"].items():
            found = a.state_dict()["state"][i]
            assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
                k: (v.shape, v.dtype) for k, v in state.items()
            }


def test_dtypes_of_state_survive():
    param = leaf(rand(6), torch.bfloat16)
    optimizer = tw.Adam([param])
    follow(optimizer, [param], gradients([param], 1))
    optimizer.state[param]["mask"] = torch.arange(6, dtype=torch.uint8)
    optimizer.state[param]["note"] = "the user's"
    second = tw.Adam([param])
    second.load_state_dict(saved(optimizer))
    state = second.state[param]
    assert state["exp_avg"].dtype == torch.float32
    assert state["step"].dtype == torch.float32
    assert state["mask"].dtype == torch.uint8
    assert torch.equal(state["mask"], torch.arange(6, dtype=torch.uint8))
    assert state["note"] == "the user's"
    follow(second, [param], gradients([param], 1))
    assert second.state[param]["mask"].dtype == torch.uint8


def test_state_of_no_parameter_survives():
    param = leaf(rand(6))
    optimizer = tw.Adam([param])
    optimizer.state["whole"] = {"counter": 3}
    second = tw.Adam([param])
    second.load_state_dict(saved(optimizer))
    assert second.state["whole"] == {"counter": 3}


@pytest.mark.parametrize("key", ["foreach", "fused", "capturable", "differentiable"])
def test_loading_does_not_change_how_steps_are_carried_out(key):
    param = leaf(rand(6))
    first, second = tw.Adam([param], **{key: True}), tw.Adam([param])
    kept = second.param_groups[0][key]
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0][key] is kept
    first.load_state_dict(second.state_dict())
    assert first.param_groups[0][key] is True


def test_what_an_older_checkpoint_lacks_is_filled_in():
    # A checkpoint from before `decoupled_weight_decay` and `maximize`, as torch's old ones are.
    param = leaf(rand(6))
    optimizer = tw.Adam([param], lr=0.25)
    checkpoint = optimizer.state_dict()
    for key in ("decoupled_weight_decay", "maximize", "capturable"):
        del checkpoint["param_groups"][0][key]
    optimizer.load_state_dict(checkpoint)
    assert optimizer.param_groups[0]["maximize"] is False
    follow(optimizer, [param], gradients([param], 1))


def test_a_step_that_was_a_number_loads():
    param = leaf(rand(6))
    optimizer = tw.Adam([param])
    follow(optimizer, [param], gradients([param], 3))
    checkpoint = optimizer.state_dict()
    checkpoint["state"][0]["step"] = 3
    optimizer.load_state_dict(checkpoint)
    follow(optimizer, [param], gradients([param], 1))
    assert optimizer.state[param]["step"] == 4
    assert optimizer.state[param]["step"].dtype == torch.float32


def test_a_tensor_learning_rate_survives():
    param = leaf(rand(6))
    first, second = tw.Adam([param], lr=torch.tensor(0.25)), tw.Adam([param])
    second.load_state_dict(saved(first))
    assert isinstance(second.param_groups[0]["lr"], torch.Tensor)
    first.param_groups[0]["lr"].fill_(0.5)
    assert second.param_groups[0]["lr"] == 0.25


def test_memory_order_does_not_matter_to_a_checkpoint():
    shape = (2, 3, 4, 5)
    mine = leaf(rand(*shape))
    theirs = rand(*shape).to(memory_format=torch.channels_last).requires_grad_()
    a, b = tw.Adam([mine]), tw.Adam([theirs])
    steps = gradients([mine], 4)
    follow(a, [mine], steps[:2])
    follow(b, [theirs], steps[:2])
    b.load_state_dict(saved(a))
    follow(a, [mine], steps[2:])
    follow(b, [theirs], steps[2:])
    assert_same(a, [mine], b, [theirs], rtol=1e-14)


def test_hooks():
    param, seen = leaf(rand(6)), []
    first, second = tw.Adam([param], lr=0.25), tw.Adam([param])
    first.register_state_dict_pre_hook(lambda o: seen.append("save pre"))

    def add(optimizer, state_dict):
        seen.append("save post")
        return {**state_dict, "extra": 1}

    def change(optimizer, state_dict):
        seen.append("load pre")
        assert state_dict["extra"] == 1
        groups = [{**group, "lr": 0.5} for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    first.register_state_dict_post_hook(add)
    second.register_load_state_dict_pre_hook(change)
    second.register_load_state_dict_post_hook(lambda o: seen.append("load post"))
    checkpoint = first.state_dict()
    second.load_state_dict(checkpoint)
    assert seen == ["save pre", "save post", "load pre", "load post"]
    assert second.param_groups[0]["lr"] == 0.5
    assert checkpoint["param_groups"][0]["lr"] == 0.25


def test_a_hook_in_place_does_not_change_the_callers_checkpoint():
    param = leaf(rand(6))
    optimizer = tw.Adam([param])
    checkpoint = optimizer.state_dict()

    def drop(optimizer, state_dict):
        state_dict["state"] = {}

    follow(optimizer, [param], gradients([param], 1))
    checkpoint = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(drop)
    optimizer.load_state_dict(checkpoint)
    assert not optimizer.state
    assert checkpoint["state"]


def copied(optimizer, params, how):
    """Return a copy of an optimizer and its parameters."""
    if how == "deepcopy":
        return copy.deepcopy((optimizer, params))
    return pickle.loads(pickle.dumps((optimizer, params)))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@one_each
def test_copies_go_on_alone(configuration, how):
    mine, theirs = twins(start())
    a, b = ours(configuration, mine), ours(configuration, theirs)
    steps = gradients(mine, 4)
    follow(a, mine, steps[:2])
    follow(b, theirs, steps[:2])
    before = state_of(a, mine)
    c, params = copied(a, mine, how)
    follow(c, params, steps[2:])
    follow(b, theirs, steps[2:])
    assert all(map(torch.equal, params, theirs))
    for x, y in zip(before, state_of(a, mine), strict=True):
        assert all(torch.equal(x[key], y[key]) for key in x)
    follow(a, mine, steps[2:])
    assert all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adagrad"])
@pytest.mark.filterwarnings("ignore")
def test_distributed_checkpoints_in_one_process(name):
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    kwargs = {"momentum": 0.9} if name == "SGD" else {}
    model, twin = net(), net()
    first = getattr(tw, name)(model.parameters(), lr=0.125, **kwargs)
    train(model, first)
    checkpoint = copy.deepcopy(get_optimizer_state_dict(model, first))
    assert "0.weight" in checkpoint["state"]
    twin.load_state_dict(model.state_dict())
    second = getattr(tw, name)(twin.parameters(), lr=0.5, **kwargs)
    set_optimizer_state_dict(twin, second, checkpoint)
    assert second.param_groups[0]["lr"] == 0.125
    train(model, first)
    train(twin, second)
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


# --- names ---


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("named", [True, False])
def test_models_with_the_same_names(named):
    twins_of = [net() for _ in range(2)]
    every = [p for model in twins_of for p in model.parameters()]
    pairs = [pair for model in twins_of for pair in model.named_parameters()]
    first, second = (tw.AdamW(pairs if named else every) for _ in range(2))
    follow(first, every, gradients(every, 2))
    second.load_state_dict(saved(first))
    for p in every:
        assert torch.equal(second.state[p]["exp_avg"], first.state[p]["exp_avg"])
    assert list(first.full_precision_weights()) == list(range(8))


def test_the_same_names_and_weights_of_more_bits():
    params = [leaf(rand(5, seed=i), torch.bfloat16) for i in range(3)]
    optimizer = tw.AdamW(zip(["w", "w", "b"], params, strict=True), weight_bits=32)
    follow(optimizer, params, gradients(params, 2))
    weights = optimizer.full_precision_weights()
    before = [p.clone() for p in params]
    optimizer.load_full_precision_weights(weights)
    assert all(map(torch.equal, params, before))
    assert all(torch.equal(w, weights[key]) for key, w in optimizer.full_precision_weights().items())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("names", [["head"], ["a", "b", "c"], None, "ab", [1, 2], ("a", "a")], ids=str)
def test_names_that_are_not_one_for_each_are_no_trouble(names):
    params = [leaf(t) for t in start()[:2]]
    first, second = (tw.AdamW([{"params": params, "param_names": names}]) for _ in range(2))
    follow(first, params, gradients(params, 2))
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["param_names"] == names
    assert list(first.full_precision_weights()) == [0, 1]
    first.load_full_precision_weights(first.full_precision_weights())


# --- checkpoints of other algorithms ---

STARTS = {**{name: {} for name in (*NAMES, "Lion")}, "SGD": {"momentum": 0.9}}


def of_another(library, name, steps):
    params = [leaf(t) for t in start()]
    optimizer = getattr(library, name)(params, lr=0.25, **STARTS[name])
    follow(optimizer, params[:2], gradients(params[:2], steps))  # one never has a gradient
    return copy.deepcopy(optimizer.state_dict())


def torch_takes(checkpoint, name):
    """Say whether torch's optimizer goes on from a checkpoint; torch often says no at the step only."""
    params = [leaf(t) for t in start()]
    optimizer = getattr(torch.optim, name)(params, **STARTS[name])
    try:
        optimizer.load_state_dict(copy.deepcopy(checkpoint))
        follow(optimizer, params, gradients(params, 1))
    except KeyError:
        return False
    return True


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("other", NAMES)
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_another_algorithm_is_taken_or_refused_as_in_torch(name, other, steps):
    for library in (tw, torch.optim):
        checkpoint = of_another(library, other, steps)
        params = [leaf(t) for t in start()]
        optimizer = getattr(tw, name)(params, lr=0.5, **STARTS[name])
        follow(optimizer, params, gradients(params, 1))
        before = copy.deepcopy(optimizer.state_dict())
        if torch_takes(of_another(torch.optim, other, steps), name):
            optimizer.load_state_dict(checkpoint)
            assert optimizer.param_groups[0]["lr"] == 0.25
            follow(optimizer, params, gradients(params, 1))
            continue
        with pytest.raises(ValueError, match=r"the checkpoint is not of .* no '\w+'"):
            optimizer.load_state_dict(checkpoint)
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for key, state in before["state"].items():
            assert all(torch.equal(after["state"][key][k], v) for k, v in state.items() if v is not None)


def test_the_error_names_what_is_missing():
    optimizer = tw.AdamW([leaf(t) for t in start()])
    with pytest.raises(ValueError, match="parameter group 0 has no 'betas', 'eps'"):
        optimizer.load_state_dict(of_another(tw, "SGD", 2))
    with pytest.raises(ValueError, match="parameter 0 has 'step', 'exp_avg', 'exp_inf', and no 'exp_avg_sq'"):
        optimizer.load_state_dict(of_another(tw, "Adamax", 2))


def test_adams_checkpoint_leaves_adamw_what_it_is():
    optimizer = tw.AdamW([leaf(t) for t in start()])
    optimizer.load_state_dict(of_another(torch.optim, "Adam", 2))
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
    other = tw.Adam([leaf(t) for t in start()])
    other.load_state_dict(of_another(torch.optim, "AdamW", 2))
    assert other.param_groups[0]["decoupled_weight_decay"] is True


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_amsgrad_is_the_checkpoints(name, here, there):
    params = [leaf(t) for t in start()]
    first = getattr(torch.optim, name)(params, amsgrad=there)
    second = getattr(tw, name)(params, amsgrad=here)
    follow(first, params, gradients(params, 2))
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["amsgrad"] is there
    assert ("max_exp_avg_sq" in second.state[params[0]]) is there


def test_weights_that_were_loaded_before_the_first_step_are_saved():
    param = leaf(rand(5), torch.bfloat16)
    first, second = tw.AdamW([param], weight_bits=32), tw.AdamW([param], weight_bits=32)
    first.load_full_precision_weights({0: rand(5).float()})
    second.load_state_dict(saved(first))
    assert torch.equal(second.full_precision_weights()[0], rand(5).float())


# --- torch's tools ---


@pytest.mark.parametrize("name", NAMES)
def test_groups_and_checkpoints_have_torchs_keys(name):
    keys = getattr(torch.optim, name)([leaf(rand(3))]).param_groups[0].keys()
    param = leaf(rand(3))
    optimizer = getattr(tw, name)([param])
    follow(optimizer, [param], gradients([param], 2))
    for found in (optimizer, pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert found.param_groups[0].keys() == keys
        assert found.state_dict()["param_groups"][0].keys() == keys
    optimizer.add_param_group({"params": [leaf(rand(3))], "state": "float32", "seed": 0})
    assert optimizer.param_groups[1].keys() == keys
    optimizer.add_param_group({"params": [leaf(rand(3))], "state": "int8"})
    ours = {"state", "weight_bits", "seed", "rounding_step"}
    assert optimizer.param_groups[2].keys() == keys | ours
    optimizer.param_groups[0]["state"] = "bfloat16"
    follow(optimizer, [param], gradients([param], 1))
    assert optimizer.param_groups[0].keys() == keys | ours


@pytest.mark.parametrize("state", ["float32", "block8"])
def test_older_checkpoints_with_our_keys_load(state):
    params = [leaf(rand(5000), torch.float32)]
    first, second = (tw.RMSprop(params, momentum=0.9, state=state) for _ in range(2))
    follow(first, params, gradients(params, 2))
    checkpoint = saved(first)
    stored = {"state": state, "weight_bits": None, "seed": 0, "rounding_step": 2 * (state == "block8")}
    flags = dict.fromkeys(Recipe.of(first.rule).extras, False)
    checkpoint["param_groups"][0].update(stored | flags)
    own = checkpoint["state"][0]
    for name in ("square_avg", "momentum_buffer"):
        if state == "block8":
            own[name] = own.pop(f"{name}_codes")
    second.load_state_dict(checkpoint)
    assert second.param_groups[0] == first.param_groups[0]
    for name, value in first.state[params[0]].items():
        assert torch.equal(second.state[params[0]][name], value)


def test_flags_that_torch_lacks_come_from_the_checkpoint():
    params = [leaf(t) for t in start()]
    on, off = tw.RMSprop(params, debias=True, nesterov=True, momentum=0.9), tw.RMSprop(params)
    kept = copy.deepcopy(off.state_dict())
    off.load_state_dict(on.state_dict())
    assert off.param_groups[0]["debias"] is True
    on.load_state_dict(kept)
    assert "debias" not in on.param_groups[0]


def move(source, target, **options):
    """Take an optimizer's state through a distributed checkpoint to another one."""
    import tempfile

    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    chosen = StateDictOptions(**options)
    with tempfile.TemporaryDirectory() as folder:
        there = get_optimizer_state_dict(*source, options=chosen)
        dcp.save({"optimizer": there}, checkpoint_id=folder, no_dist=True)
        here = {"optimizer": get_optimizer_state_dict(*target, options=chosen)}
        dcp.load(here, checkpoint_id=folder, no_dist=True)
    set_optimizer_state_dict(*target, here["optimizer"], options=chosen)


def trained(library, name, **kwargs):
    torch.manual_seed(0)
    model = nn.Linear(128, 64)
    optimizer = getattr(library, name)(model.parameters(), lr=0.01, **kwargs)
    params = list(model.parameters())
    follow(optimizer, params, gradients(params, 3, seed=len(kwargs)))
    return model, optimizer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("direction", ["torch to ours", "ours to torch", "ours to ours"])
@pytest.mark.parametrize("name", NAMES)
def test_distributed_checkpoints_are_torchs(name, direction, flatten):
    there, here = ({"torch": torch.optim, "ours": tw}[word] for word in direction.split(" to "))
    kwargs = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    source = trained(there, name, **kwargs)
    target = trained(here, name, weight_decay=0.5, **kwargs)
    move(source, target, flatten_optimizer_state_dict=flatten)
    assert target[1].param_groups[0]["weight_decay"] == source[1].param_groups[0]["weight_decay"]
    for p, q in zip(source[0].parameters(), target[0].parameters(), strict=True):
        for key, value in source[1].state[p].items():
            assert torch.equal(target[1].state[q][key], value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("seeds", [(0, 0), (7, 0)])
def test_distributed_checkpoints_of_codes(seeds, flatten):
    source, target = (trained(tw, "AdamW", state="int8", seed=seed) for seed in seeds)
    move(source, target, flatten_optimizer_state_dict=flatten)
    assert target[1].param_groups[0] | {"params": 0} == source[1].param_groups[0] | {"params": 0}
    for p, q in zip(source[0].parameters(), target[0].parameters(), strict=True):
        for key, value in source[1].state[p].items():
            assert torch.equal(target[1].state[q][key], value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("there", "here"),
    [
        ((tw, {"state": "int8"}), (torch.optim, {})),
        ((tw, {"state": "int8"}), (tw, {})),
        ((tw, {"state": "int8"}), (tw, {"state": "bfloat16"})),
        ((torch.optim, {}), (tw, {"state": "int8"})),
        ((tw, {}), (tw, {"state": "int8"})),
        # Scales of the one kind, converted, would be scales of the other.
        ((tw, {"state": {"exp_avg_sq": "block8"}}), (tw, {"state": {"exp_avg_sq": "int8"}})),
        ((tw, {"state": {"exp_avg_sq": "int8"}}), (tw, {"state": {"exp_avg_sq": "block8"}})),
    ],
)
def test_distributed_checkpoints_never_take_codes_for_numbers(there, here):
    from torch.distributed.checkpoint import CheckpointException

    with pytest.raises(CheckpointException, match=r"Missing key in checkpoint state_dict: .*exp_avg"):
        move(trained(there[0], "AdamW", **there[1]), trained(here[0], "AdamW", **here[1]))


@pytest.mark.filterwarnings("ignore")
def test_distributed_checkpoints_do_not_write_into_the_choice_of_storage():
    chosen = {"exp_avg": "float32"}
    source = trained(tw, "AdamW", state={"exp_avg": "bfloat16"})
    target = trained(tw, "AdamW", state=chosen)
    move(source, target)
    assert chosen == target[1].param_groups[0]["state"] == {"exp_avg": "float32"}
    for p, q in zip(source[0].parameters(), target[0].parameters(), strict=True):
        assert torch.equal(target[1].state[q]["exp_avg"], source[1].state[p]["exp_avg"].float())


def test_torchs_class_does_not_take_codes_for_numbers():
    model, optimizer = trained(tw, "AdamW", state="int8")
    theirs = torch.optim.AdamW(model.parameters())
    theirs.load_state_dict(saved(optimizer))
    with pytest.raises(KeyError, match="exp_avg"):
        follow(theirs, list(model.parameters()), gradients(list(model.parameters()), 1))
    # What torch has made numbers of the codes in the meantime is no code to us.
    with pytest.raises(ValueError, match=r"'exp_avg_scale' must be a torch\.uint8"):
        optimizer.load_state_dict(theirs.state_dict())


def test_numbers_that_are_put_beside_codes_are_the_slot():
    model, optimizer = trained(tw, "AdamW", state="int8")
    weight = model.weight
    optimizer.state[weight]["exp_avg"] = torch.zeros_like(weight)
    follow(optimizer, [weight], [[torch.ones_like(weight)]])
    assert "exp_avg" not in optimizer.state[weight]
    found = optimizer.full_precision_state_dict()["state"][0]["exp_avg"]
    torch.testing.assert_close(found, torch.full_like(found, 0.1), rtol=1 / 16, atol=0)
