"""The GPU's kernels: their code, compiled for GPUs that need not be there, and their engine, interpreted."""

from __future__ import annotations

from importlib.util import find_spec

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interpreter import INTERPRETED
from support import ONE_EACH, gradients, label, leaf, ours, rand

import thalweg as tw
from thalweg.lowering.chunks import Chunks
from thalweg.lowering.gpu import elements, shapes
from thalweg.lowering.gpu import tables as cuda
from thalweg.lowering.passes import scalar_names
from thalweg.lowering.spec import Spec
from thalweg.rule import hyper
from thalweg.stepping import engines
from thalweg.stepping.scaling import Scaling
from thalweg.storage.codecs import (
    FLOAT16,
    FLOAT32,
    FLOAT64,
    codec_of,
    draws,
    mean_codec,
    slot_codec,
    weight_codec,
)

interpreted = pytest.mark.skipif(not INTERPRETED, reason="needs THALWEG_TEST_TRITON=1")
compiled = pytest.mark.skipif(INTERPRETED or find_spec("triton") is None, reason="needs Triton's compiler")


def spec_of(configuration, state=FLOAT32, p=FLOAT32, g=None, unscale=False):
    """Return the spec and the choices of a configuration; `state` is a codec, or the name of one of slots."""
    optimizer = ours(configuration, [leaf(torch.zeros(1))])
    (group,) = optimizer.param_groups
    recipe = optimizer.recipe_of(group)
    on = recipe.flags(recipe.numbers(group))
    slots = tuple(
        slot_codec(state, slot.signed, slot.over) if isinstance(state, str) else state
        for slot in recipe.slots_on(on)
    )
    names = scalar_names(recipe, recipe.choices(group))
    g = g or codec_of(p.dtype)
    return Spec(recipe, tuple(on.items()), names, p, g, slots, False, unscale), recipe.choices(group)


STEP = {"addresses": "*i64", "chunks": "*i32", "keys": "*i32", "found_inf": "*fp32", "tensors": "i32"}
ROWS = {
    **dict.fromkeys(("addresses", "groups", "draws", "ordinals"), "*i64"),
    **{"first_at": "*i32", "hypers": "*fp64", "keys": "*i32", "scale": "*fp32", "found_inf": "*fp32"},
    **{"measures": "*fp64", "streams": "i32", "tensors": "i32", "keeps": "i32"},
}
MEASURE = {"addresses": "*i64", "chunks": "*i32", "sums": "*fp64", "tensors": "i32"}
TOTALS = {
    **dict.fromkeys(("sums", "others", "measures"), "*fp64"),
    **dict.fromkeys(("begins", "other_begins"), "*i32"),
    **dict.fromkeys(("first", "stride"), "i32"),
}


def code(kernel, types, target, spec):
    """Return what Triton makes of a kernel for a target, by the name of the form."""
    import triton
    from triton.compiler import ASTSource

    real = "*fp64" if spec.compute == torch.float64 else "*fp32"
    signature = {name: types.get(name, real) for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs={}, attrs={})
    options = shapes.shape_of(spec).options(target.backend)
    return triton.compile(source, target=target, options=options).asm


def hopper():
    from triton.backends.compiler import GPUTarget

    return GPUTarget("cuda", 90, 32)


def instinct():
    from triton.backends.compiler import GPUTarget

    return GPUTarget("hip", "gfx942", 64)


ADAMW = ("AdamW", {})
CASES = [
    *((configuration, {}) for configuration in ONE_EACH),
    (ADAMW, {"state": "int8"}),
    (ADAMW, {"state": "block8"}),
    (ADAMW, {"state": "bfloat16", "g": FLOAT16}),
    (ADAMW, {"p": FLOAT64, "state": FLOAT64}),
    (ADAMW, {"p": weight_codec(torch.bfloat16, None), "unscale": True}),
    (ADAMW, {"p": weight_codec(torch.bfloat16, 24), "state": "int8", "unscale": True}),
    (ADAMW, {"p": weight_codec(torch.float16, 16)}),
    (ADAMW, {"p": weight_codec(torch.float16, 32)}),
]


def widest(spec):
    """Return the widest access that a thread's share of a tile allows, 16 bytes at most."""
    if spec.compute == torch.float64:
        return "v2.b64"
    shape = shapes.shape_of(spec)
    elements = shape.tile // (32 * shape.warps)
    most = elements * max(codec.dtype.itemsize for codec in spec.stored.values())
    return "v4.b32" if most >= 16 else "v2.b32"


@compiled
@pytest.mark.parametrize("target", [hopper, instinct])
@pytest.mark.parametrize("first", [FLOAT32, "int8", "block8"])
def test_kernels_that_go_row_by_row_compile(first, target):
    spec, _ = spec_of(("AdamW", {"max_norm": 1.0, "lamb": True}))
    codec = slot_codec(first, True, "exp_avg_sq") if isinstance(first, str) else first
    spec = spec._replace(slots=(codec, mean_codec(FLOAT32, "row")), unscale=True)
    types = {"chunks": "*i64"}
    for aligned in (True, False):
        code(cuda.step_kernel(spec, aligned).function, STEP | types, target(), spec)
    for stage in spec.recipe.stages:
        one = spec._replace(stage=stage)
        code(cuda.measure_kernel(one, aligned=False).function, MEASURE | types, target(), one)


@compiled
@pytest.mark.parametrize(("configuration", "storage"), CASES, ids=label)
def test_every_kernel_compiles_for_nvidia(configuration, storage):
    spec, choices = spec_of(configuration, **storage)
    ptx = code(cuda.step_kernel(spec, aligned=True).function, STEP, hopper(), spec)["ptx"]
    wide = widest(spec)
    assert f"ld.global.{wide}" in ptx
    assert f"st.global.{wide}" in ptx
    assert "approx" not in ptx, "not exact"
    assert "ftz" not in ptx, "takes denormal numbers for zero"
    assert ".local" not in ptx, "registers ran out"
    code(cuda.step_kernel(spec, aligned=False).function, STEP, hopper(), spec)
    kind = cuda.kind_of(spec, torch.float32)
    rows = code(cuda.rows_kernel(spec.recipe, choices, kind).function, ROWS, hopper(), spec)["ptx"]
    assert "st.global" in rows


@compiled
@pytest.mark.parametrize(("configuration", "storage"), [CASES[5], *CASES[-3:]], ids=label)
def test_kernels_compile_for_amd(configuration, storage):
    spec, choices = spec_of(configuration, **storage)
    assert code(cuda.step_kernel(spec, aligned=True).function, STEP, instinct(), spec)["amdgcn"]
    kind = cuda.kind_of(spec, torch.float32)
    assert code(cuda.rows_kernel(spec.recipe, choices, kind).function, ROWS, instinct(), spec)["amdgcn"]


ADDED = {"cautious": True, "max_step_rms": 1.0, "lamb": True, "average": 0.9, "lookahead": 5}
MEASURED = [
    (("AdamW", {"max_norm": 1.0}), {}, "gradient"),
    (("AdamW", {"max_norm": 1.0, "skip_nonfinite": 2, "statistics": True}), {}, "gradient"),
    (("AdamW", {"max_norm": 1.0}), {"p": weight_codec(torch.bfloat16, 24), "state": "int8"}, "gradient"),
    (("SGD", {"lr": 0.1, "momentum": 0.9, "lars": True}), {"unscale": True}, "clipped"),
    (("AdamW", ADDED), {}, "step"),
    (("AdamW", ADDED), {"state": "int8"}, "step"),
    (("AdamW", ADDED), {"p": FLOAT64, "state": FLOAT64}, "step"),
    (("AdamW", {"statistics": True, **ADDED}), {"state": "bfloat16"}, "weights"),
]


def measured(configuration, storage, stage):
    spec, choices = spec_of(configuration, **storage)
    return spec._replace(stage=stage), choices


@compiled
@pytest.mark.parametrize(("configuration", "storage", "stage"), MEASURED, ids=label)
def test_every_measure_compiles_for_nvidia(configuration, storage, stage):
    spec, choices = measured(configuration, storage, stage)
    ptx = code(cuda.measure_kernel(spec, aligned=True).function, MEASURE, hopper(), spec)["ptx"]
    dtype = torch.float64 if spec.compute == torch.float64 else torch.float32
    if spec.g.dtype == dtype:
        assert f"ld.global.{widest(spec)}" in ptx
    assert "approx" not in ptx, "not exact"
    assert "ftz" not in ptx, "takes denormal numbers for zero"
    assert ".local" not in ptx, "registers ran out"
    stores = [line for line in ptx.splitlines() if "st.global" in line]
    assert len(stores) == len(spec.measures), "it writes sums alone"
    code(cuda.measure_kernel(spec, aligned=False).function, MEASURE, hopper(), spec)
    kind = cuda.kind_of(spec, torch.float32)
    assert code(cuda.rows_kernel(spec.recipe, choices, kind).function, ROWS, hopper(), spec)["ptx"]


@compiled
@pytest.mark.parametrize(("configuration", "storage", "stage"), MEASURED, ids=label)
def test_every_step_with_additions_compiles_for_nvidia(configuration, storage, stage):
    spec, _ = spec_of(configuration, **storage)
    ptx = code(cuda.step_kernel(spec, aligned=True).function, STEP, hopper(), spec)["ptx"]
    assert "approx" not in ptx, "not exact"
    assert ".local" not in ptx, "registers ran out"


@compiled
@pytest.mark.parametrize("columns", [1, 5])
def test_totals_compile_for_nvidia_and_amd(columns):
    spec, _ = spec_of(ADAMW)
    for target, form in ((hopper(), "ptx"), (instinct(), "amdgcn")):
        found = code(cuda.totals_kernel(columns).function, TOTALS, target, spec)[form]
        assert ".local" not in found, "registers ran out"


@compiled
@pytest.mark.parametrize(("configuration", "storage", "stage"), MEASURED[::3], ids=label)
def test_measures_compile_for_amd(configuration, storage, stage):
    spec, _ = measured(configuration, storage, stage)
    assert code(cuda.measure_kernel(spec, aligned=True).function, MEASURE, instinct(), spec)["amdgcn"]


def test_keys_are_those_of_splitmix():
    # By hand, in Python's own integers.
    def mixed(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    found = draws.keys(2**63 - 1, 12, np.array([0, 1, 2**40]))
    expected = [mixed(mixed(mixed(2**63 - 1) + 12) + n) % 2**32 for n in (0, 1, 2**40)]
    assert found.view(np.uint32).tolist() == expected


def test_a_table_that_was_sent_is_never_written_over():
    table = cuda.Table(torch.device("cpu"))
    array = np.arange(3)
    first = table.send(array)
    assert table.send(array) is first
    array[0] = 7
    second = table.send(array)
    assert first.tolist() == [0, 1, 2]
    assert second.tolist() == [7, 1, 2]


def test_chunks_of_unaligned_tensors_are_set_apart():
    chunks = Chunks.dense([100, 2000, 10], 1024)
    addresses = np.array([[64, 128, 68], [64, 128, 64]])
    work = cuda.divide(chunks, cuda.aligned(addresses), torch.device("cpu"))
    assert work.aligned[:, 0].tolist() == [0, 1, 1]
    assert work.others[:, 0].tolist() == [2]


offsets = st.one_of(st.integers(0, 2**20), st.integers(2**31 - 2, 2**33), st.integers(2**41 - 9, 2**41 - 1))


@interpreted
@given(first=offsets, second=offsets, length=st.integers(1, 128))
@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
def test_kernels_find_elements_at_any_offset(first, second, length):
    # SGD with a rate of 1, on memory whose beginning would lie that much before.
    spec, _ = spec_of(("SGD", {"lr": 1.0}))
    p, g = torch.zeros(128), torch.arange(1.0, 129.0)
    addresses = np.array([[p.data_ptr() - 4 * first], [g.data_ptr() - 4 * second]], np.int64)
    chunks = torch.from_numpy(elements.packed(np.array([[0, first, second, length]])))
    rows = torch.tensor([[float(name in ("lr", "gain", "shrink")) for name in spec.columns]])
    nothing = torch.zeros(1)
    keys = torch.zeros(1, dtype=torch.int32)
    cuda.run(
        cuda.step_kernel(spec, aligned=False), 1, torch.from_numpy(addresses), chunks, rows, keys, nothing, 1
    )
    assert p[:length].tolist() == (-g[:length]).tolist()
    assert not p[length:].any()


def test_long_rows_are_several_chunks():
    chunks = Chunks.rows([np.array([3, 0]), np.array([1])], [150, 10], most=64)
    assert chunks.table.tolist() == [
        [0, 450, 0, 64],
        [0, 514, 64, 64],
        [0, 578, 128, 22],
        [0, 0, 150, 64],
        [0, 64, 214, 64],
        [0, 128, 278, 22],
        [1, 10, 0, 10],
    ]


@pytest.fixture
def on_a_device(monkeypatch):
    """GradScaler's numbers are treated as if a GPU had them."""
    monkeypatch.setattr(Scaling, "is_on_host", False)


@interpreted
@pytest.mark.usefixtures("on_a_device")
@pytest.mark.parametrize("configuration", ONE_EACH, ids=label)
def test_an_overflow_that_only_the_device_knows_changes_nothing(configuration):
    params = [leaf(rand(5000), torch.float32), leaf(rand(3), torch.float32)]
    optimizer = ours(configuration, params)
    for i, grads in enumerate(gradients(params, 4)):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad * 8
        before = [p.detach().clone() for p in params]
        counted = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in params]
        optimizer.grad_scale = torch.tensor(8.0)
        optimizer.found_inf = torch.tensor(float(i in (0, 2)))
        optimizer.step()
        for param, old, state, grad in zip(params, before, counted, grads, strict=True):
            if i in (0, 2):
                assert torch.equal(param, old)
                assert all(torch.equal(optimizer.state[param][k], v) for k, v in state.items())
            else:
                torch.testing.assert_close(param.grad, grad)
    mine, (first, second) = [leaf(rand(5000), torch.float32)], (1, 3)
    plain = ours(configuration, mine)
    for i, grads in enumerate(gradients(params, 4)):
        if i in (first, second):
            mine[0].grad = grads[0].clone()
            plain.step()
    torch.testing.assert_close(params[0], mine[0])


@interpreted
def test_a_learning_rate_on_the_device_is_read_there(monkeypatch):
    # As a GPU's tensor would, the rate reaches the kernel without passing through Python.
    monkeypatch.setattr(hyper, "_is_at_hand", lambda tensor: False)
    (mine,), (theirs,) = ([leaf(rand(100), torch.float32)] for _ in range(2))
    rate = torch.tensor(0.1)
    ours_, plain = tw.SGD([mine], lr=rate, momentum=0.9), tw.SGD([theirs], lr=0.1, momentum=0.9)
    for value in (0.1, 0.2, 0.05):
        rate.fill_(value)
        plain.param_groups[0]["lr"] = float(np.float32(value))
        for optimizer, param in ((ours_, mine), (plain, theirs)):
            param.grad = rand(100, dtype=torch.float32)
            optimizer.step()
        assert torch.equal(mine, theirs)


@interpreted
@pytest.mark.parametrize("state", ["bfloat16", "int8"])
def test_the_device_draws_what_the_cpu_draws(state, monkeypatch):
    # Both averages of the first step come from the gradient by exact products: powers of two.
    found = []
    for served in (True, False):
        if not served:
            monkeypatch.setattr(cuda, "SERVED", set())
        param = leaf(rand(5000), torch.float32)
        optimizer = tw.AdamW([param], betas=(0.5, 0.75), state=state, seed=5)
        for seed in range(3):
            param.grad = rand(5000, seed=seed, dtype=torch.float32)
            optimizer.step()
            optimizer.state[param]["step"].fill_(0)
        found.append(optimizer.state[param])
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        different = (found[0][name] != found[1][name]).float().mean()
        assert different < 0.002, name


def no_triton(name):
    return None


def no_compiler(device):
    raise RuntimeError("Failed to find C compiler.\nAnd much more.")


@pytest.mark.parametrize(
    ("name", "replacement", "reason"),
    [
        ("find_spec", no_triton, "Triton is not installed"),
        (
            "_try",
            no_compiler,
            r"cannot run a kernel on cuda:0 \(RuntimeError: Failed to find C compiler.\): the reference",
        ),
    ],
)
def test_where_triton_does_not_run_the_reference_serves_and_says_so_once(
    name, replacement, reason, monkeypatch
):
    monkeypatch.setattr(cuda, name, replacement)
    cuda.obstacle.cache_clear()
    engines._tell_once.cache_clear()
    try:
        with pytest.warns(UserWarning, match=reason) as said:
            assert [engines.engine_for(torch.device("cuda", 0)) for _ in range(2)] == [None, None]
        assert len(said) == 1
    finally:
        cuda.obstacle.cache_clear()


@interpreted
def test_triton_is_tried_once(monkeypatch):
    tries = []
    monkeypatch.setattr(cuda, "_try", tries.append)
    cuda.obstacle.cache_clear()
    assert [cuda.serves(torch.device("cpu")) for _ in range(3)] == [True] * 3
    assert tries == [torch.device("cpu")]


def test_what_replays_send_from_the_host_is_not_lent():
    cuda.lend([torch.zeros(3)], None)  # record_stream knows no memory of the host


@interpreted
def test_what_another_stream_reads_is_lent_to_it(monkeypatch):
    streams, lent = iter("aaabbba"), []
    monkeypatch.setattr(cuda, "stream", lambda device: next(streams))
    monkeypatch.setattr(cuda, "lend", lambda tensors, to: lent.append((to, {t.data_ptr() for t in tensors})))
    param = leaf(rand(100), torch.float32)
    param.grad = rand(100, dtype=torch.float32)
    optimizer = tw.AdamW([param])
    for _ in range(6):
        optimizer.step()
    assert [to for to, _ in lent] == ["b", "a"]
    read = []
    monkeypatch.setattr(cuda, "stream", lambda device: "a")
    monkeypatch.setattr(cuda, "run", lambda kernel, count, *x: read.extend(x) if count else None)
    optimizer.step()
    assert {t.data_ptr() for t in read if isinstance(t, torch.Tensor)} <= lent[1][1]
