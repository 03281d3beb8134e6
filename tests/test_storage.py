"""State and weights in fewer bytes, through the optimizers: kernels, reference, checkpoints, settings."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from interpreter import sampled, smaller
from support import NAMES, ONE_EACH, follow, give, gradients, label, leaf, oracle, ours, rand
from torch import Tensor

import thalweg as tw
from thalweg.lowering.cpu import kernels
from thalweg.stepping import plan
from thalweg.stepping.batches import ReferenceBatch
from thalweg.stepping.engines import engine_for
from thalweg.storage.choices import CORRECTION, SMALL, WEIGHT_BITS, keys_of
from thalweg.storage.codecs import BLOCK
from thalweg.storage.codecs.tensors import pack

WITH_STATE = [one for one in ONE_EACH if one != ("SGD", {"lr": 0.1})] + [("Lion", {"lr": 0.01})]
with_state = pytest.mark.parametrize("configuration", WITH_STATE, ids=label)
STATES = ("int8", "bfloat16")
STORAGES = pytest.mark.parametrize("state", STATES)


def name_of(value):
    return label(value) or str(value)


# Ends of blocks, of chunks and of spans, and strides; the last is small and stays float32.
SHAPES = smaller(((4096,), (16385,), (64, 65), (4095 + 64,), (30,)), ((4096,), (4095 + 64,), (30,)))


def start(dtype=torch.float32, shapes=SHAPES) -> list[Tensor]:
    return [leaf(rand(*shape, seed=i), dtype) for i, shape in enumerate(shapes)]


def stored(configuration, **storage):
    name, kwargs = configuration
    return name, {**kwargs, **storage}


def run(configuration, steps=4, params=None, **storage):
    params = start() if params is None else params
    optimizer = ours(stored(configuration, **storage), params)
    follow(optimizer, params, gradients(params, steps))
    return params, optimizer


def assert_equal_runs(a, b) -> None:
    (params, one), (twins, other) = a, b
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
        assert one.state[p].keys() == other.state[q].keys()
        for name, value in one.state[p].items():
            assert torch.equal(value, other.state[q][name]), name


def saved(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.fixture
def reference_only(monkeypatch):
    def switch():
        monkeypatch.setattr(plan, "batch_for", lambda sort: ReferenceBatch)

    return switch


@pytest.mark.parametrize(("configuration", "state"), sampled(WITH_STATE, STATES), ids=name_of)
def test_a_stored_run_goes_where_the_plain_one_goes(configuration, state):
    # Noisy gradients of a quadratic bowl: both runs come as near to its bottom.
    length = smaller(5000, SMALL)

    def distance(**storage):
        param, noise = leaf(rand(length), torch.float32), torch.Generator().manual_seed(7)
        optimizer = ours(stored(configuration, **storage), [param])
        optimizer.param_groups[0]["weight_decay"] = 0.0
        for _ in range(smaller(60, 15)):
            param.grad = param.detach() + 0.3 * torch.randn(length, generator=noise)
            optimizer.step()
        return param.detach()

    plain, packed = distance(), distance(state=state)
    assert not torch.equal(plain, packed)
    walked = (plain - rand(length).float()).norm()
    assert (packed - plain).norm() < (0.12 if state == "int8" else 0.02) * walked
    assert packed.norm() < 1.05 * plain.norm()


@pytest.mark.parametrize(
    ("configuration", "state", "weight_bits"), sampled(WITH_STATE, STATES, WEIGHT_BITS), ids=name_of
)
def test_the_kernel_is_the_reference(configuration, state, weight_bits, reference_only):
    dtype = torch.float32 if weight_bits is None else torch.bfloat16
    kernel = run(configuration, 1, start(dtype), state=state, weight_bits=weight_bits)
    reference_only()
    reference = run(configuration, 1, start(dtype), state=state, weight_bits=weight_bits)
    (params, one), (twins, other) = kernel, reference
    for p, q in zip(params, twins, strict=True):
        for name in one.state[p].keys() - {CORRECTION}:
            # A multiplication and an addition are rounded once in the kernel and twice in torch; what lies
            # at the edge of two codes may then fall to either side.
            differ = one.state[p][name] != other.state[q][name]
            exact = one.state[p][name].dtype == torch.float32
            assert exact or differ.float().mean() < 0.003, name
        torch.testing.assert_close(p, q, rtol=2**-7, atol=1e-6)
    weights, twins_weights = one.full_precision_weights(), other.full_precision_weights()
    rtol = {None: 1e-5, 16: 2**-7, 24: 2**-14, 32: 1e-5}[weight_bits]
    for key, value in weights.items():
        torch.testing.assert_close(value, twins_weights[key], rtol=rtol, atol=1e-6)


def test_where_arithmetic_is_exact_kernel_and_reference_are_equal(reference_only):
    # Momentum 1/2 and halves of integers: nothing is rounded but by the codecs.
    def several_steps():
        params = start(torch.bfloat16)
        optimizer = tw.SGD(params, lr=0.5, momentum=0.5, state="int8", weight_bits=24, seed=5)
        for i in range(6):
            give(params, [(rand(*p.shape, seed=i) * 4).round() / 2 for p in params])
            optimizer.step()
        return params, optimizer

    kernel = several_steps()
    reference_only()
    assert_equal_runs(kernel, several_steps())


@pytest.mark.parametrize(
    ("configuration", "storage"),
    sampled(WITH_STATE, [{"state": "int8"}, {"state": "bfloat16"}, {"weight_bits": 24}]),
    ids=name_of,
)
def test_threads_and_chunks_do_not_change_a_bit(configuration, storage, monkeypatch):
    dtype = torch.bfloat16 if "weight_bits" in storage else torch.float32
    threads = torch.get_num_threads()
    runs = []
    try:
        engine = engine_for(torch.device("cpu"))
        usual = smaller(kernels.chunk(0), 4096)
        more = smaller(((2, usual), (2, 64), (1, 1088), (2, 16 * usual)), ())
        for count, most in ((1, usual), (2, usual // 4), *more):
            torch.set_num_threads(count)
            monkeypatch.setattr(engine, "chunk", staticmethod(lambda elements, most=most: most))
            runs.append(run(configuration, 3, start(dtype, (*SHAPES, (smaller(40_000, 64),))), **storage))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert_equal_runs(runs[0], other)


@pytest.mark.parametrize(
    ("configuration", "storage"),
    sampled(WITH_STATE, [{"state": "int8", "weight_bits": 24}, {"state": "bfloat16"}, {"weight_bits": 16}]),
    ids=name_of,
)
def test_a_resumed_run_is_the_uninterrupted_one(configuration, storage):
    straight = run(configuration, 7, start(torch.bfloat16), **storage, seed=3)
    params = start(torch.bfloat16)
    first = ours(stored(configuration, **storage, seed=3), params)
    steps = gradients(params, 7)
    follow(first, params, steps[:4])
    second = ours(stored(configuration, **storage), params)
    second.load_state_dict(saved(first.state_dict()))
    follow(second, params, steps[4:5])
    third = pickle.loads(pickle.dumps(second))
    params = third.param_groups[0]["params"]
    follow(third, params, steps[5:6])
    fourth = copy.deepcopy(third)
    params = fourth.param_groups[0]["params"]
    follow(fourth, params, steps[6:])
    assert_equal_runs(straight, (params, fourth))


def test_seeds():
    runs = [run(("Adam", {}), state="int8", seed=seed) for seed in (0, 0, 1)]
    assert_equal_runs(runs[0], runs[1])
    assert not torch.equal(runs[0][0][0], runs[2][0][0])


def test_steps_and_parameters_are_rounded_by_different_words():
    params = [leaf(torch.zeros(SMALL), torch.float32) for _ in range(2)]
    optimizer = tw.SGD(params, lr=1.0, momentum=0.9, state="int8")
    grad = torch.linspace(0.5, 1, SMALL)
    seen = []
    for _ in range(2):
        optimizer.state.clear()
        give(params, [grad, grad])
        optimizer.step()
        seen += [optimizer.state[p]["momentum_buffer_codes"].clone() for p in params]
    for i, one in enumerate(seen):
        for other in seen[i + 1 :]:
            assert 0.2 < (one != other).float().mean() < 0.8


@STORAGES
def test_memory_order_does_not_matter(state):
    # The same elements in the same order of memory, seen as another shape.
    plain = leaf(rand(80, 70), torch.float32)
    turned = plain.detach().clone().t().requires_grad_()
    grads = [g for (g,) in gradients([plain], 4)]
    a, b = (tw.Adam([p], lr=0.1, state=state) for p in (plain, turned))
    follow(a, [plain], [[g] for g in grads])
    for g in grads:
        turned.grad = g.t()
        b.step()
    assert torch.equal(plain, turned.t())


@STORAGES
def test_strided_tensors_are_stepped_like_their_copies(state):
    base = rand(80, 140).float()
    view, copy_ = base[:, ::2].requires_grad_(), leaf(base[:, ::2].contiguous())
    steps = gradients([copy_], 3)
    for p in (view, copy_):
        follow(tw.Adam([p], lr=0.1, state=state), [p], steps)
    assert torch.equal(view, copy_)


def test_a_checkpoint_of_another_memory_order():
    wide, turned = leaf(rand(80, 70), torch.float32), rand(70, 80).float().t().requires_grad_()
    a, b = (tw.Adam([p], state="int8") for p in (wide, turned))
    follow(a, [wide], gradients([wide], 2))
    b.load_state_dict(saved(a.state_dict()))
    before = a.full_precision_state_dict()["state"][0]
    after = b.full_precision_state_dict()["state"][0]
    for slot in ("exp_avg", "exp_avg_sq"):
        # Other elements share a block, so codes of a coarser block may be needed.
        scale = before[slot].abs().max()
        torch.testing.assert_close(after[slot], before[slot], rtol=1 / 32, atol=scale.item() / 256)
    follow(b, [turned], gradients([turned], 1))


def stored_of(optimizer, param, slot) -> Tensor:
    """Return the numbers or the codes of a slot, whichever there are."""
    state = optimizer.state[param]
    (key,) = (key for key in keys_of(slot) if key in state)
    return state[key]


def bytes_of(tensors) -> int:
    return sum(t.nbytes for t in tensors if t.dim() > 0)


@pytest.mark.parametrize(
    ("state", "most"), [("float32", 8.0), ("bfloat16", 4.0), ("int8", 2.07), ({"exp_avg": "int8"}, 5.04)]
)
def test_bytes_of_state(state, most):
    param = leaf(rand(1000, 300), torch.float32)
    optimizer = tw.AdamW([param], state=state)
    follow(optimizer, [param], gradients([param], 1))
    assert most - 0.05 < bytes_of(optimizer.state[param].values()) / param.numel() <= most


def test_bytes_of_training_with_24_bits():
    param = leaf(rand(1000, 300), torch.bfloat16)
    optimizer = tw.AdamW([param], state="int8", weight_bits=24)
    follow(optimizer, [param], gradients([param], 1))
    everything = [param, param.grad, *optimizer.state[param].values()]
    assert 7.0 < bytes_of(everything) / param.numel() <= 7.1
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    assert file.tell() < 3.1 * param.numel()


def test_what_stays_as_it_is():
    params = {
        "small": leaf(rand(SMALL - 1), torch.float32),
        "double": leaf(rand(SMALL)),
        "complex": torch.complex(rand(SMALL), rand(SMALL)).to(torch.complex64).requires_grad_(),
        "half": leaf(rand(SMALL), torch.bfloat16),
        "large": leaf(rand(SMALL), torch.float32),
    }
    optimizer = tw.Adam(list(params.values()), state="int8", weight_bits=24)
    follow(optimizer, list(params.values()), gradients(list(params.values()), 2))
    dtypes = {name: stored_of(optimizer, p, "exp_avg").dtype for name, p in params.items()}
    assert dtypes == {
        "small": torch.float32,
        "double": torch.float64,
        "complex": torch.complex64,
        "half": torch.int8,
        "large": torch.int8,
    }
    assert [name for name, p in params.items() if CORRECTION in optimizer.state[p]] == ["half"]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients_of_uneven_rows_have_float32_state_and_may_become_dense():
    param, twin = (leaf(rand(100, 60), torch.float32) for _ in range(2))
    a, b = tw.Adagrad([param], lr=0.1, state="int8"), tw.Adagrad([twin], lr=0.1)
    rows = torch.zeros(100, 60).index_put_((torch.tensor([3, 70]),), torch.ones(60)).to_sparse(1)
    assert a.state[param]["sum_windows"].dtype == torch.uint8
    for _ in range(2):
        param.grad, twin.grad = rows.clone(), rows.clone()
        a.step()
        b.step()
    assert a.state[param]["sum"].dtype == torch.float32
    assert not {"sum_windows", "sum_scale"} & a.state[param].keys()
    assert torch.equal(param, twin)
    c = tw.Adagrad([param], lr=0.1, state="int8")
    c.load_state_dict(saved(a.state_dict()))
    assert torch.equal(c.state[param]["sum"], b.state[twin]["sum"])  # not packed on the way
    param.grad = torch.ones(100, 60)
    c.step()
    assert c.state[param]["sum_windows"].dtype == torch.uint8
    assert "sum" not in c.state[param]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("weight_bits", [16, 24, 32])
def test_sparse_gradients_of_corrected_weights(weight_bits):
    param = leaf(rand(100, 60), torch.bfloat16)
    optimizer = tw.SGD([param], lr=1e-4, weight_bits=weight_bits)
    index = torch.tensor([3, 70])
    before = optimizer.full_precision_weights()[0]
    for _ in range(100):
        rows = torch.zeros(100, 60).index_put_((index,), torch.ones(60)).to_sparse(1)
        param.grad = rows.to(torch.bfloat16)
        optimizer.step()
    moved = (before - optimizer.full_precision_weights()[0]).mean(1)
    assert moved[[3, 70]].tolist() == pytest.approx([0.01, 0.01], rel=0.3 if weight_bits == 16 else 0.02)
    assert (moved != 0).sum() == 2


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("length", [1, 60, 64, 200])
@pytest.mark.parametrize("weight_bits", [16, 24])
def test_rows_of_any_length_draw_the_same_words_in_kernel_and_reference(weight_bits, length, reference_only):
    def several_steps():
        param = leaf(rand(100, length), torch.bfloat16)
        optimizer = tw.SGD([param], lr=1e-3, weight_bits=weight_bits)
        index = torch.tensor([3, 70, 99])
        for i in range(4):
            values = rand(3, length, seed=i, dtype=torch.float32)
            param.grad = torch.zeros(100, length).index_put_((index,), values).to_sparse(1).bfloat16()
            optimizer.step()
        return [param], optimizer

    kernel = several_steps()
    reference_only()
    ((p,), one), ((q,), other) = kernel, several_steps()
    # What lies at the edge of two values may fall to either side: see above.
    assert (p != q).float().mean() < 0.003
    if weight_bits == 24:
        differ = one.state[p][CORRECTION] != other.state[q][CORRECTION]
        assert differ.float().mean() < 0.003


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@with_state
def test_a_bad_gradient_spoils_its_element_only(configuration, bad):
    params, twins = start(), start()
    optimizers = [ours(stored(configuration, state="int8"), p) for p in (params, twins)]
    for i, grads in enumerate(gradients(params, smaller(4, 3))):
        grads = [g.clone() for g in grads]
        for g in grads:
            g.view(-1)[7] = 0.0
        follow(optimizers[1], twins, [grads])
        if i == 1:
            for g in grads:
                g.view(-1)[7] = bad
        follow(optimizers[0], params, [grads])
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p.view(-1)[BLOCK:], q.view(-1)[BLOCK:])
        # Of its block it was perhaps the smallest, by which the others were rounded.
        for one in (slice(0, 7), slice(8, BLOCK)):
            torch.testing.assert_close(p.view(-1)[one], q.view(-1)[one], rtol=0.02, atol=0.02)
        assert configuration[0] == "Lion" or not p.view(-1)[7].isfinite()


@pytest.mark.parametrize("fused", [True, False])
@STORAGES
def test_scaled_steps_and_overflows(state, fused):
    params, twins = start(), start()
    a, b = tw.AdamW(params, state=state, fused=fused), tw.AdamW(twins, state=state)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))
    for i, grads in enumerate(gradients(params, 4)):
        give(params, [g * 1024 for g in grads])
        if i == 2:
            params[0].grad[5] = math.inf
        else:
            follow(b, twins, [grads])
        scaler.step(a)
        scaler.update(1024.0)
    assert a.param_groups[0]["rounding_step"] == 3
    assert_equal_runs((params, a), (twins, b))


@pytest.mark.parametrize("name", [*NAMES, "Lion"])
@pytest.mark.parametrize("state", ["float32", "int8"])
def test_32_bits_are_float32_weights(name, state):
    half = start(torch.bfloat16)
    full = [leaf(p, torch.float32) for p in half]
    kwargs = {"lr": 0.01, "state": state}
    a, b = getattr(tw, name)(half, weight_bits=32, **kwargs), getattr(tw, name)(full, **kwargs)
    for grads in gradients(half, smaller(5, 2)):
        follow(a, half, [grads])
        follow(b, full, [[g.float() for g in grads]])
    for key, value in a.full_precision_weights().items():
        assert torch.equal(value, full[key])
        number = half[key].float()
        assert ((number - value).abs() <= (value.bfloat16().float() - value).abs()).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight_bits", WEIGHT_BITS)
def test_small_steps_move_weights_that_have_the_bits(dtype, weight_bits):
    length, steps, tolerance = smaller((5000, 1000, 1e-3), (1024, 100, 2e-4))
    param = leaf(torch.full((length,), 1.0), dtype)
    optimizer = tw.SGD([param], lr=1e-5, weight_bits=weight_bits)
    for _ in range(steps):
        param.grad = torch.ones_like(param)
        optimizer.step()
    mean = optimizer.full_precision_weights()[0].mean().item()
    if weight_bits is None:
        assert mean == 1.0
    else:
        assert mean == pytest.approx(1 - 1e-5 * steps, abs=tolerance)


def test_full_precision_weights_go_out_and_in():
    named = [
        ("a", leaf(rand(70, 60), torch.bfloat16)),
        ("b", leaf(rand(5))),
        ("c", leaf(rand(3), torch.float16)),
    ]
    optimizer = tw.Adam(named, weight_bits=32)
    weights = {"a": rand(70, 60, seed=5).float(), "b": rand(5, seed=6), "c": rand(3, seed=7).float()}
    optimizer.load_full_precision_weights(weights)
    found = optimizer.full_precision_weights()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    assert torch.equal(named[0][1], pack_number(weights["a"]))
    follow(optimizer, [p for _, p in named], gradients([p for _, p in named], 1))
    with pytest.raises(ValueError, match=r"not in both: \['c'\]"):
        optimizer.load_full_precision_weights({"a": weights["a"], "b": weights["b"]})
    with pytest.raises(ValueError, match=r"weights\['b'\] must have the shape \(5,\), not \(6,\)"):
        optimizer.load_full_precision_weights({**weights, "b": rand(6)})


def pack_number(weights: Tensor) -> Tensor:
    from thalweg.storage.codecs import weight_codec

    return pack(weight_codec(torch.bfloat16, 32), weights)[0]


@STORAGES
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "AdamW"])
def test_torch_goes_on_with_the_full_precision_state(name, state):
    kwargs = {"lr": 0.01, "momentum": 0.9} if name != "AdamW" else {"lr": 0.01}
    params, mine = run((name, kwargs), 3, state=state)
    theirs = oracle((name, kwargs), params)
    theirs.load_state_dict(saved(mine.full_precision_state_dict()))
    plain = ours((name, kwargs), params)
    plain.load_state_dict(saved(mine.state_dict()))
    for p in params:
        assert not any(key.endswith("_scale") for key in plain.state[p])
        for key, value in theirs.state[p].items():
            assert value.dtype == torch.float32
            assert torch.equal(plain.state[p][key], value)
    follow(theirs, params, gradients(params, 1))


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "AdamW"])
def test_torchs_state_is_packed_on_the_way_in(name):
    kwargs = {"lr": 0.01, "momentum": 0.9} if name != "AdamW" else {"lr": 0.01}
    params = start()
    theirs = oracle((name, kwargs), params)
    follow(theirs, params, gradients(params, 3))
    mine = ours((name, {**kwargs, "state": "int8"}), params)
    mine.load_state_dict(saved(theirs.state_dict()))
    full = mine.full_precision_state_dict()["state"]
    for i, p in enumerate(params):
        for key, value in theirs.state[p].items():
            if value is None or key == "step":
                continue
            assert stored_of(mine, p, key).dtype in (
                (torch.int8, torch.uint8) if p.numel() >= SMALL else (torch.float32,)
            )
            least = 2**7 if (name, key) == ("AdamW", "exp_avg") else 2**10  # evenly spaced, or floats
            torch.testing.assert_close(
                full[i][key], value, rtol=1 / 31, atol=value.abs().max().item() / least
            )
    follow(mine, params, gradients(params, 1))


def test_settings_of_slots_and_groups():
    params = [leaf(rand(SMALL), torch.float32) for _ in range(3)]
    groups = [
        {"params": params[:1]},
        {"params": params[1:2], "state": {"exp_avg": "bfloat16"}},
        {"params": params[2:], "state": "float32"},
    ]
    optimizer = tw.Adam(groups, state={"exp_avg": "int8", "exp_avg_sq": "bfloat16"})
    follow(optimizer, params, gradients(params, 2))
    found = [[stored_of(optimizer, p, slot).dtype for slot in ("exp_avg", "exp_avg_sq")] for p in params]
    assert found == [
        [torch.int8, torch.bfloat16],
        [torch.bfloat16, torch.float32],
        [torch.float32, torch.float32],
    ]
    optimizer.param_groups[2]["state"] = "int8"  # between steps, as any setting
    follow(optimizer, params, gradients(params, 1))
    assert optimizer.state[params[2]]["exp_avg_ratios"].dtype == torch.int8
    optimizer.param_groups[2]["state"] = "float32"
    follow(optimizer, params, gradients(params, 1))
    assert optimizer.state[params[2]]["exp_avg"].dtype == torch.float32
    optimizer.param_groups[1]["state"]["exp_avg_sq"] = "int8"  # in place
    follow(optimizer, params, gradients(params, 1))
    assert optimizer.state[params[1]]["exp_avg_sq_windows"].dtype == torch.uint8
    extra = leaf(rand(SMALL), torch.float32)
    optimizer.add_param_group({"params": [extra], "state": "int8"})
    follow(optimizer, [*params, extra], gradients([*params, extra], 1))
    assert optimizer.state[extra]["exp_avg_ratios"].dtype == torch.int8


def test_storage_stays_as_constructed_and_the_seed_comes_from_the_checkpoint():
    params, first = run(("Adam", {}), 2, state="int8", seed=9)
    second = tw.Adam(params, state="bfloat16", weight_bits=24)
    second.load_state_dict(saved(first.state_dict()))
    group = second.param_groups[0]
    assert (group["state"], group["weight_bits"]) == ("bfloat16", 24)
    assert (group["seed"], group["rounding_step"]) == (9, 2)
    assert second.state[params[0]]["exp_avg"].dtype == torch.bfloat16


def test_old_pickles_and_checkpoints_without_the_settings_load():
    params, optimizer = run(("Adam", {}), 1, state="int8")
    checkpoint = optimizer.state_dict()
    for key in ("state", "weight_bits", "seed", "rounding_step"):
        del checkpoint["param_groups"][0][key]
    optimizer.load_state_dict(checkpoint)
    follow(optimizer, params, gradients(params, 1))


@pytest.mark.parametrize(
    ("storage", "error", "match"),
    [
        ({"state": "int4"}, ValueError, "state must be 'float32' or 'bfloat16' or 'int8'.*not 'int4'"),
        ({"state": 8}, TypeError, "state must be .*not 8"),
        ({"state": {"exp_av": "int8"}}, ValueError, "'exp_av'; adam has exp_avg, exp_avg_sq"),
        ({"state": {"exp_avg": "int4"}}, ValueError, r"state\['exp_avg'\] must be .*not 'int4'"),
        ({"weight_bits": 20}, ValueError, "weight_bits must be None, 16, 24 or 32, not 20"),
        ({"seed": -1}, ValueError, r"seed must be an int from 0 to 2\*\*63 - 1, not -1"),
        ({"seed": 0.5}, TypeError, "seed must be .*not 0.5"),
        ({"stat": "int8"}, TypeError, r"Adam\(\) got an unexpected keyword argument 'stat'"),
        ({"state": "int8", "differentiable": True}, ValueError, "differentiable=True needs state='float32'"),
    ],
)
def test_wrong_settings_are_refused(storage, error, match):
    with pytest.raises(error, match=match):
        tw.Adam([leaf(rand(3))], **storage)
    optimizer = tw.Adam([leaf(rand(3))])
    group = {"params": [leaf(rand(4))], **storage}
    if "stat" not in storage:
        with pytest.raises(error, match=match):
            optimizer.add_param_group(group)
        assert len(optimizer.param_groups) == 1


def test_codes_without_scales_are_refused_and_nothing_changes():
    params, optimizer = run(("Adam", {}), 1, state="int8")
    checkpoint = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(checkpoint)
    del checkpoint["state"][0]["exp_avg_scale"]
    with pytest.raises(
        ValueError,
        match=r"'exp_avg_ratios' holds codes, so 'exp_avg_scale' must be a torch.* tensor of shape \(64,\)",
    ):
        optimizer.load_state_dict(checkpoint)
    assert all(torch.equal(optimizer.state[params[0]][k], v) for k, v in before["state"][0].items())
