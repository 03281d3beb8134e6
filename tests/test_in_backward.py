"""Steps in backward against the plain ones, bit for bit."""

import copy
import gc
import math
import os
import warnings
import weakref

import pytest
import torch
from support import ONE_EACH, groups_of, label, loss_of, net, numbers
from torch import nn
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

import thalweg as tw
from thalweg.optimizer.obstacles import refuse_late_overflows

STORAGES = [
    (torch.float32, {}),
    (torch.float32, {"state": "int8", "seed": 3}),
    (torch.bfloat16, {"state": "int8", "weight_bits": 24}),
    (torch.bfloat16, {"state": "bfloat16", "weight_bits": 16}),
]
RULES = [*ONE_EACH, ("Lion", {"lr": 1e-3})]
PAIRS = [(rule, storage) for rule in RULES for storage in STORAGES]
if os.environ.get("THALWEG_TEST_ADDITIONS") != "all":
    PAIRS = [(rule, STORAGES[i % len(STORAGES)]) for i, rule in enumerate(RULES)]


def name_of(pair):
    first, second = pair
    return label(pair) if isinstance(first, str) else "-".join([str(first)[6:], *map(str, second.values())])


def made(name, settings, dtype=torch.float32):
    model = net(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, getattr(tw, name)(groups_of(model), **settings)


def twins(name, settings, dtype=torch.float32):
    return made(name, settings, dtype), made(name, settings, dtype)


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


@pytest.mark.filterwarnings("ignore:the first step")
@pytest.mark.parametrize(("rule", "storage"), PAIRS, ids=name_of)
def test_parts_are_the_whole_step(rule, storage):
    name, settings = rule
    dtype, stored = storage
    plain, parts = twins(name, {**settings, **stored}, dtype)
    train(*plain, 4)
    with parts[1].in_backward(hold=0):
        train(*parts, 2)
        parts[1].param_groups[0]["lr"] = plain[1].param_groups[0]["lr"]  # another object
        train(*parts, 2, begin=2)
    same(plain, parts)
    assert all(param.grad is None for param in parts[0].parameters())


@pytest.mark.parametrize("hold", [0, 20_000, None])
def test_gradients_are_freed_while_others_arrive(hold):
    model, optimizer = made("AdamW", {"lr": 1e-3})
    large = [p for p in model.parameters() if p.requires_grad and p.numel() >= 4096]
    held = []

    def look(param):
        held.append(sum(p.grad.nbytes for p in large if p.grad is not None))

    handles = [param.register_post_accumulate_grad_hook(look) for param in large]
    optimizer.in_backward(hold=hold)
    loss_of(model, 0).backward()
    for handle in handles:
        handle.remove()
    sizes = [p.nbytes for p in large]  # 16,384 of the words, 24,576 each of the layers
    assert sorted(sizes) == [16_384, 24_576, 24_576]
    assert max(held) == {0: 24_576, 20_000: 24_576, None: 65_536}[hold]
    assert all(param.grad is None for param in model.parameters())


def test_many_small_parameters_are_one_part(monkeypatch):
    params = [nn.Parameter(torch.ones(8)) for _ in range(50)]
    optimizer = tw.AdamW(params)
    steps = []
    monkeypatch.setattr(tw.AdamW, "step_part", lambda self, parts: steps.append(self._step(parts)))
    optimizer.in_backward()
    torch.cat(params).sum().backward()
    assert len(steps) == 1
    assert all(optimizer.state[param]["step"] == 1 for param in params)


@pytest.mark.parametrize(
    "rule", [ONE_EACH[4], ("SGD", {"lr": 0.1, "momentum": 0.9, "state": "int8"})], ids=label
)
def test_accumulation(rule):
    plain, parts = twins(*rule)
    for step in range(6):
        loss_of(plain[0], step).backward()
        if step % 3 == 2:
            plain[1].step()
            plain[1].zero_grad()
    parts[1].in_backward(hold=0)
    for step in range(6):
        if step % 3 == 2:
            loss_of(parts[0], step).backward()
        else:
            with parts[1].accumulating():
                loss_of(parts[0], step).backward()
            assert all(p.grad is not None for p in parts[0].inner.parameters())
    same(plain, parts)


def test_accumulation_by_count_and_a_rest():
    plain, parts = twins("AdamW", {"lr": 1e-3})
    for step in range(5):
        loss_of(plain[0], step).backward()
        if step in (1, 3, 4):
            plain[1].step()
            plain[1].zero_grad()
    parts[1].in_backward(hold=0, every=2)
    for step in range(5):
        loss_of(parts[0], step).backward()
    parts[1].step()  # the end of an epoch
    parts[1].zero_grad()
    same(plain, parts)
    loss_of(parts[0], 5).backward()
    assert parts[0].inner.weight.grad is not None, "the count begins anew"


def test_accumulating_does_nothing_to_plain_steps():
    plain, other = twins("AdamW", {"lr": 1e-3})
    train(*plain, 2)
    with other[1].accumulating():
        train(*other, 2)
    same(plain, other)


def test_what_only_accumulated_waits_for_step():
    model, optimizer = made("SGD", {"lr": 1.0})
    optimizer.in_backward(hold=0)
    with optimizer.accumulating():
        model.unused(torch.ones(1, 3)).sum().backward()
    before = model.unused.weight.detach().clone()
    loss_of(model, 0).backward()
    assert torch.equal(model.unused.weight, before)
    assert torch.equal(model.unused.weight.grad, torch.ones(3, 3))
    optimizer.step()
    assert torch.equal(model.unused.weight, before - 1.0)


def test_one_step_after_another_in_several_backwards():
    plain, parts = twins("AdamW", {"lr": 1e-3, "state": "int8"})
    train(*plain, 4)
    parts[1].in_backward(hold=0)
    for step in range(4):
        loss_of(parts[0], step).backward()
    same(plain, parts)


def test_hooks_before_and_after_see_the_gradient():
    model, optimizer = made("SGD", {"lr": 0.5})
    param = model.inner.weight
    before = param.detach().clone()
    seen = []

    def halve(p):
        seen.append("before")
        p.grad.mul_(0.5)

    param.register_post_accumulate_grad_hook(halve)
    optimizer.param_groups[1]["lr"] = 0.5
    optimizer.in_backward(hold=0)
    param.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    loss_of(model, 0).backward()
    assert seen[0] == "before"
    assert len(seen) == 2
    torch.testing.assert_close(param.detach(), before - 0.5 * seen[1], rtol=0, atol=0)
    assert param.grad is None


def test_activation_checkpointing():
    plain, parts = twins("AdamW", {"lr": 1e-3, "state": "int8"})
    train(*plain, 3)
    parts[1].in_backward(hold=0)
    for step in range(3):
        checkpoint(loss_of, parts[0], step, use_reentrant=False).backward()
    same(plain, parts)


def test_a_pass_within_a_pass_is_refused_and_steps_nothing():
    model, optimizer = made("SGD", {"lr": 1.0})
    optimizer.in_backward(hold=0)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 64, requires_grad=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        checkpoint(model.inner, x, use_reentrant=True).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    optimizer.zero_grad()
    loss_of(model, 0).backward()
    assert not torch.equal(model.inner.weight, before["inner.weight"])


def test_what_was_stepped_before_an_error_stays_so():
    model, optimizer = made("AdamW", {"lr": 1e-3, "state": "int8"})
    optimizer.in_backward(hold=0)
    model.words.weight.register_hook(lambda grad: 1 / 0)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    with pytest.raises(ZeroDivisionError):
        loss_of(model, 0).backward()
    moved = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
    assert moved == {"inner.weight", "inner.bias", "outer.weight", "outer.bias"}
    counts = [group["rounding_step"] for group in optimizer.state_dict()["param_groups"]]
    assert counts == [0, 1, 0], "what has drawn is counted"
    assert all(param.grad is None for param in model.parameters())


def test_a_step_at_the_end_takes_no_second_one():
    model, optimizer = made("AdamW", {"lr": 1e-3})
    optimizer.in_backward(hold=0)
    loss_of(model, 0).backward()
    before = copy.deepcopy(optimizer.state_dict())
    assert optimizer.step() is None
    assert torch.equal(optimizer.state_dict()["state"][2]["step"], before["state"][2]["step"])


def test_closures():
    plain, parts = twins("RMSprop", {"lr": 1e-3})
    parts[1].in_backward(hold=0)
    for model, optimizer in (plain, parts):
        for step in range(3):

            def closure(model=model, optimizer=optimizer, step=step):
                optimizer.zero_grad()
                loss = loss_of(model, step)
                loss.backward()
                return loss

            assert optimizer.step(closure) > 0
    plain[1].zero_grad()
    same(plain, parts)


def test_schedulers_find_a_step_before_theirs():
    plain, parts = twins("AdamW", {"lr": 1e-3})
    for model, optimizer in (plain, parts):
        is_plain = optimizer is plain[1]
        if not is_plain:
            optimizer.in_backward(hold=0)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in range(3):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                if is_plain:
                    optimizer.step()
                schedule.step()
    same(plain, parts)


def test_checkpoints_between_passes():
    whole, parts = twins("AdamW", {"lr": 1e-3, "state": "int8"})
    train(*whole, 4)
    parts[1].in_backward(hold=0)
    train(*parts, 2)
    saved = copy.deepcopy((parts[0].state_dict(), parts[1].state_dict()))
    model, optimizer = made("AdamW", {"lr": 1e-3, "state": "int8"})
    model.load_state_dict(saved[0])
    with optimizer.in_backward(hold=0):
        optimizer.load_state_dict(saved[1])
        train(model, optimizer, 2, begin=2)
    same(whole, (model, optimizer))


def test_parameters_that_come_or_thaw_later():
    model, optimizer = made("SGD", {"lr": 1.0})
    optimizer.in_backward(hold=0)
    new = nn.Parameter(torch.zeros(3))
    optimizer.add_param_group({"params": [new]})
    model.frozen.requires_grad_(True)
    (loss_of(model, 0) + new.sum()).backward()
    assert torch.equal(new, torch.full((3,), -1.0))
    assert not torch.equal(model.frozen, torch.ones(64))
    assert model.frozen.grad is None


@pytest.mark.parametrize("others", ["lazy", "exact"])
def test_sparse_gradients(others):
    tables = [nn.Embedding(50, 8, sparse=True) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    plain, parts = (tw.Adam(table.parameters(), lr=0.1, sparse=others) for table in tables)
    parts.in_backward(hold=0)
    for step in range(3):
        for table, optimizer in zip(tables, (plain, parts), strict=True):
            optimizer.zero_grad()
            table(numbers(step) % 50).square().sum().backward()
        plain.step()
    plain.flush()
    parts.flush()
    assert torch.equal(tables[0].weight, tables[1].weight)


@pytest.mark.parametrize(
    "additions",
    [
        {"max_value": 0.01},
        {"lamb": True, "max_step_rms": 1.0, "state": "int8"},
        {"cautious": True, "average": 0.9},
        {"lookahead": 2},
    ],
    ids=lambda value: "-".join(value),
)
def test_additions_that_need_one_tensor(additions):
    plain, parts = twins("AdamW", {"lr": 1e-2, **additions})
    train(*plain, 3)
    parts[1].in_backward(hold=0)
    train(*parts, 3)
    same(plain, parts)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("AdamW", {"max_norm": 1.0}, "clip_by_last_norm=True"),
        ("AdamW", {"skip_nonfinite": 3}, "skip_nonfinite needs all gradients at once"),
        ("AdamW", {"statistics": True}, "statistics needs"),
        ("SGD", {"lr": 1.0, "dog": True}, "dog needs"),
        ("Prodigy", {}, "needs all gradients at once"),
        ("AdamW", {"differentiable": True}, "differentiable=True"),
    ],
)
def test_what_needs_all_gradients_is_refused(name, settings, words):
    model, optimizer = made(name, settings)
    with pytest.raises(ValueError, match=words):
        optimizer.in_backward()
    assert not any(param._post_accumulate_grad_hooks for param in model.parameters())


def test_what_is_asked_for_later_is_refused_before_anything_is_stepped():
    model, optimizer = made("SGD", {"lr": 1.0})
    optimizer.in_backward(hold=0)
    before = model.inner.weight.detach().clone()
    optimizer.param_groups[2]["max_norm"] = 1.0
    with pytest.raises(ValueError, match="max_norm"):
        loss_of(model, 0).backward()
    assert torch.equal(model.inner.weight, before)


def norm_of(params):
    return torch.cat([p.grad.double().flatten() for p in params if p.grad is not None]).norm()


def test_clipping_by_the_norm_of_the_step_before():
    plain, parts = twins("SGD", {"lr": 0.1, "momentum": 0.9})
    for group in parts[1].param_groups:
        group["max_norm"] = 0.05
    parts[1].in_backward(hold=0, clip_by_last_norm=True)
    params = [p for p in plain[0].parameters() if p.requires_grad]
    order = []  # of arrival, which is that of the parts
    for param in params:
        param.register_post_accumulate_grad_hook(order.append)
    last = 0.0
    for step in range(3):
        order.clear()
        for model, optimizer in (plain, parts):
            optimizer.zero_grad()
            loss_of(model, step).backward()
        so_far = 0.0
        whole = norm_of(params)
        for param in order:
            so_far += param.grad.double().square().sum()
            norm = max(last, float(so_far) ** 0.5)
            param.grad.mul_(min(1.0, 0.05 / (norm + 1e-6)))
        last = float(whole)
        assert last > 0.05
        plain[1].step()
    for one, other in zip(plain[0].parameters(), parts[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def new_scaler(scale=1024.0):
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)


def train_scaled(model, optimizer, scaler, steps, *, begin=0, micro=1):
    for step in range(begin, begin + steps):
        for i in range(micro):
            scaler.scale(loss_of(model, micro * step + i)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def test_a_scaler_that_it_was_not_told_of_hears_why_not():
    model, optimizer = made("AdamW", {"lr": 1e-3})
    handle = optimizer.in_backward()
    scaler = new_scaler()
    scaler.scale(loss_of(model, 0)).backward()
    with pytest.raises(RuntimeError, match=r"begin again with in_backward\(scaler=scaler\)"):
        scaler.step(optimizer)
    handle.remove()
    assert not hasattr(optimizer, "_step_supports_amp_scaling")


@pytest.mark.parametrize("hold", [0, None])
@pytest.mark.parametrize("storage", STORAGES[::2], ids=["float32", "bfloat16"])
def test_scaled_parts_are_the_whole_scaled_step(storage, hold):
    dtype, stored = storage
    plain, parts = twins("AdamW", {"lr": 1e-3, "fused": True, **stored}, dtype)
    scalers = new_scaler(), new_scaler()
    train_scaled(*plain, scalers[0], 3, micro=2)
    parts[1].in_backward(hold=hold, every=2, scaler=scalers[1])
    train_scaled(*parts, scalers[1], 3, micro=2)
    same(plain, parts)
    assert all(param.grad is None for param in parts[0].parameters())
    assert scalers[0].state_dict() == scalers[1].state_dict()


@pytest.mark.parametrize("kind", [math.inf, math.nan])
def test_after_an_overflow_nothing_is_stepped_until_the_scaler_knows(kind):
    plain, parts = twins("SGD", {"lr": 0.1, "momentum": 0.9, "fused": True})
    scaler = new_scaler()
    parts[1].in_backward(hold=0, scaler=scaler)
    handle = parts[0].inner.weight.register_hook(lambda grad: grad * kind)
    before = copy.deepcopy(parts[0].state_dict())
    scaler.scale(loss_of(parts[0], 0)).backward()
    loss_of(plain[0], 0).backward()
    moved = {name for name, value in parts[0].state_dict().items() if not torch.equal(value, before[name])}
    assert {"outer.weight", "outer.bias"} <= moved, "those before it, by their own gradients"
    assert moved.isdisjoint({"inner.weight", "words.weight"})
    for name in moved:
        lr = parts[1].param_groups[1]["lr"]
        expected = before[name] - lr * plain[0].get_parameter(name).grad
        torch.testing.assert_close(parts[0].get_parameter(name).detach(), expected)
    handle.remove()
    after = copy.deepcopy(parts[0].state_dict())
    scaler.scale(loss_of(parts[0], 1)).backward()
    assert all(torch.equal(value, after[name]) for name, value in parts[0].state_dict().items())
    scaler.step(parts[1])
    scaler.update()
    assert scaler.get_scale() == 512.0
    train_scaled(*parts, scaler, 1)
    assert not torch.equal(parts[0].words.weight, after["words.weight"])
    assert scaler.get_scale() == 512.0


def test_scaled_sparse_and_complex_gradients():
    """A GradScaler looks at no complex ones. Oracle: no scale; this one is a power of two."""
    results = []
    for scaler in (torch.amp.GradScaler("cpu", enabled=False), new_scaler()):
        table, wave = nn.Embedding(50, 8, sparse=True), nn.Parameter(torch.ones(3, dtype=torch.complex64))
        nn.init.constant_(table.weight, 0.5)
        optimizer = tw.SGD([table.weight, wave], lr=0.1)
        optimizer.in_backward(hold=0, scaler=scaler)
        for step in range(2):
            loss = table(numbers(step) % 50).square().sum() + wave.abs().square().sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert not torch.equal(wave, torch.ones(3))
        results.append((table.weight.detach(), wave.detach()))
    assert all(map(torch.equal, *results))


def test_what_a_pass_did_not_reach_is_stepped_by_the_scaler():
    model, optimizer = made("SGD", {"lr": 1.0})
    scaler = new_scaler()
    optimizer.in_backward(hold=0, scaler=scaler)
    with optimizer.accumulating():
        scaler.scale(model.unused(torch.ones(1, 3)).sum()).backward()
    before = model.unused.weight.detach().clone()
    train_scaled(model, optimizer, scaler, 1)
    assert torch.equal(model.unused.weight, before - 1.0)


def test_a_gradient_that_overflows_and_waits_is_told():
    model, optimizer = made("SGD", {"lr": 1.0})
    scaler = new_scaler()
    optimizer.in_backward(hold=0, scaler=scaler)
    with optimizer.accumulating():
        (scaler.scale(model.unused(torch.ones(1, 3)).sum()) * math.inf).backward()
    before = model.unused.weight.detach().clone()
    train_scaled(model, optimizer, scaler, 1)
    assert torch.equal(model.unused.weight, before)
    assert scaler.get_scale() == 512.0


def test_all_are_skipped_where_all_are_held():
    model, optimizer = made("AdamW", {"lr": 1e-3})
    scaler = new_scaler()
    optimizer.in_backward(hold=1 << 30, scaler=scaler)
    model.words.weight.register_hook(lambda grad: grad * math.inf)  # the last to come
    before = copy.deepcopy(model.state_dict())
    train_scaled(model, optimizer, scaler, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert scaler.get_scale() == 512.0


def test_a_scaler_that_is_off_changes_nothing():
    plain, parts = twins("AdamW", {"lr": 1e-3})
    train(*plain, 2)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    parts[1].in_backward(hold=0, scaler=scaler)
    train_scaled(*parts, scaler, 2)
    same(plain, parts)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"scaler": 1024.0}, TypeError, "scaler must be a torch.amp.GradScaler or None, not 1024.0"),
        ({"scaler": new_scaler(), "clip_by_last_norm": True}, ValueError, "clip_by_last_norm=True must be"),
    ],
)
def test_what_a_scaler_cannot_go_with_is_refused(settings, kind, words):
    model, optimizer = made("SGD", {"lr": 1.0})
    with pytest.raises(kind, match=words):
        optimizer.in_backward(**settings)
    assert not model.inner.weight._post_accumulate_grad_hooks


def test_a_base_of_sam_is_refused():
    optimizer = made("SGD", {"lr": 1e-3})[1]
    optimizer.in_backward()
    with pytest.raises(RuntimeError, match="whole pass"):
        tw.SAM(optimizer).ascend()


def test_weights_that_are_averages_are_not_stepped():
    model, optimizer = made("AdamW", {"lr": 1e-3, "average": 0.9})
    optimizer.in_backward()
    loss_of(model, 0).backward()
    before = model.inner.weight.detach().clone()
    with optimizer.averaged(), pytest.raises(RuntimeError, match="averages"):
        loss_of(model, 1).backward()
    assert torch.equal(model.inner.weight, before)


def test_a_second_stepper_is_refused():
    model, optimizer = made("AdamW", {"lr": 1e-3})
    handle = optimizer.in_backward()
    with pytest.raises(ValueError, match=r"in_backward\(\) is on"):
        optimizer.in_backward()
    other = tw.SGD(model.inner.parameters(), lr=1.0)
    with pytest.raises(ValueError, match="is stepped in backward already"):
        other.in_backward()
    handle.remove()
    other.in_backward(hold=0)
    before = model.inner.bias.detach().clone()
    loss_of(model, 0).backward()
    assert not torch.equal(model.inner.bias, before)
    assert model.outer.weight.grad is not None, "the first does not step any more"


@pytest.mark.parametrize("settings", [{"every": 0}, {"every": 1.5}, {"hold": -1}])
def test_arguments_are_checked(settings):
    with pytest.raises(ValueError, match=f"{min(settings)} must be"):
        made("SGD", {"lr": 1.0})[1].in_backward(**settings)


def test_devices_are_not_mixed():
    params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, device="meta"))]
    with pytest.raises(ValueError, match="one device, not of cpu and meta"):
        tw.SGD(params, lr=1.0).in_backward()
    optimizer = tw.SGD(params[:1], lr=1.0)
    optimizer.in_backward()
    with pytest.raises(ValueError, match="one device, not of cpu and meta"):
        optimizer.add_param_group({"params": params[1:]})
    assert len(optimizer.param_groups) == 1


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    model, optimizer = made("SGD", {"lr": 1.0})
    with pytest.raises(ValueError, match="DistributedDataParallel has not reduced"):
        optimizer.in_backward()
    with pytest.raises(ValueError, match="overflows of its own process alone"):
        refuse_late_overflows()
    assert not model.inner.weight._post_accumulate_grad_hooks


def test_nothing_holds_an_optimizer():
    model, optimizer = made("AdamW", {"lr": 1e-3})
    optimizer.in_backward(hold=0)
    loss_of(model, 0).backward()
    known = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert known() is None
    with pytest.raises(RuntimeError, match="keep it"):
        loss_of(model, 0).backward()
    model.zero_grad()
    again = tw.SGD(model.parameters(), lr=1.0)
    again.in_backward()
    loss_of(model, 0).backward()
    assert model.inner.weight.grad is None


def test_copies_step_after_backward():
    model, optimizer = made("AdamW", {"lr": 1e-3})
    optimizer.in_backward()
    twin = copy.deepcopy((model, optimizer))
    loss_of(twin[0], 0).backward()
    assert twin[0].inner.weight.grad is not None
    twin[1].step()
    loss_of(model, 0).backward()
    optimizer.zero_grad()
    twin[1].zero_grad()
    same((model, optimizer), twin)


def test_under_torch_compile():
    plain, parts = twins("AdamW", {"lr": 1e-3})
    train(*plain, 2)
    parts[1].in_backward(hold=0)
    compiled = torch.compile(train, backend="aot_eager")
    compiled(*parts, 2)
    for one, other in zip(plain[0].parameters(), parts[0].parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert all(param.grad is None for param in parts[0].parameters())


@pytest.mark.parametrize(
    "compiler", [lambda graph: graph, torch.compile(backend="eager")], ids=["as is", "compiled"]
)
def test_compiled_autograd_is_refused_before_anything_is_stepped(compiler):
    model, optimizer = made("AdamW", {"lr": 1e-3})
    optimizer.in_backward(hold=0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="compiled_autograd = False"), compiled_autograd._enable(compiler):
        loss_of(model, 0).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer.state_dict()["state"]
    optimizer.zero_grad()
    loss_of(model, 0).backward()
    assert not torch.equal(model.inner.weight, before["inner.weight"])
