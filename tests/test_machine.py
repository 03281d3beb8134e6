"""Machine code: the cache on disk, determinism, and the ways that serve where something is missing."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from children import PATIENCE_SECONDS
from support import ONE_EACH, assert_close, follow, gradients, label, leaf, ours, rand, twins
from torch._subclasses.fake_tensor import FakeTensorMode

import thalweg as tw
from thalweg.lowering import machine
from thalweg.lowering.cpu import kernels as cpu
from thalweg.lowering.cpu import threads
from thalweg.lowering.look import fields, finding, walk
from thalweg.lowering.passes import scalar_names
from thalweg.lowering.spec import Spec
from thalweg.rule import Recipe
from thalweg.storage.codecs import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, slot_codec

SCRIPT = """
import torch, thalweg as tw
from thalweg.lowering import machine
assembled, original = [], machine.assemble
def assemble(text):
    assembled.append(text)
    return original(text)
machine.assemble = assemble
param = torch.arange(5.0, requires_grad=True)
param.grad = torch.ones(5)
tw.AdamW([param], lr=0.5, weight_decay=0.0).step()
assert torch.allclose(param, torch.arange(5.0) - 0.5), param
print(len(assembled))
"""


def run(script, **environment):
    """Run a script in another process and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_cache_serves_the_next_process_and_heals(tmp_path):
    folder = str(tmp_path / "new" / "cache")
    first = int(run(SCRIPT, THALWEG_CACHE_DIR=folder))
    files = sorted((tmp_path / "new" / "cache").rglob("*.o"))
    assert first == len(files) > 0
    whole = [file.read_bytes() for file in files]
    assert int(run(SCRIPT, THALWEG_CACHE_DIR=folder)) == 0
    # Cut off, changed in the middle, empty: each is compiled again and written anew.
    damage = [lambda b: b[:-100], lambda b: b[:90] + b"!" + b[91:], lambda b: b""]
    for i, (file, content) in enumerate(zip(files, whole, strict=True)):
        file.write_bytes(damage[i % 3](content))
    assert int(run(SCRIPT, THALWEG_CACHE_DIR=folder)) == len(files)
    assert [file.read_bytes() for file in files] == whole  # also: assembly is deterministic
    assert sorted(p.name for p in files[0].parent.iterdir()) == [f.name for f in files]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert int(run(SCRIPT, THALWEG_CACHE_DIR=str(blocked / "cache"))) > 0
    assert blocked.read_text() == "not a folder"


FAR = """
import ctypes, torch, thalweg as tw
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
integer, size_t, pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
libc.mmap.argtypes = [pointer, size_t, integer, integer, integer, ctypes.c_long]
libc.munmap.argtypes = [pointer, size_t]
FAILED, PRIVATE, ANONYMOUS, NORESERVE = 2**64 - 1, 0x2, 0x20, 0x4000
def reserve(size):
    return libc.mmap(None, size, 0, PRIVATE | ANONYMOUS | NORESERVE, -1, 0)
def fill_holes_above(limit):
    for size in (1 << k for k in range(36, 11, -1)):
        while (at := reserve(size)) != FAILED:
            if at < limit:
                libc.munmap(at, size)
                break
param = torch.arange(8192.0, requires_grad=True)
param.grad = torch.ones(8192)
tw.SGD([torch.nn.Parameter(torch.ones(3))]).step()
size = 8 << 30
start = reserve(size)
fill_holes_above(start)
for i in range(16):  # a page here and there, and all else is gigabytes away
    libc.munmap(start + size - 4096 * (2 * i + 2), 4096)
tw.AdamW([param], lr=0.5, weight_decay=0.0, state="int8").step()
assert torch.allclose(param, torch.arange(8192.0) - 0.5, atol=1e-3)
print("stepped")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="arranges memory as Linux gives it")
def test_code_and_constants_may_find_memory_far_apart_only(tmp_path):
    assert run(FAR, THALWEG_CACHE_DIR=str(tmp_path)) == "stepped"


def test_without_a_home_and_a_name_kernels_are_not_kept(monkeypatch):
    import platformdirs

    def no_home(*args, **kwargs):
        raise RuntimeError("could not determine the home directory for '~/.cache'")

    monkeypatch.delenv("THALWEG_CACHE_DIR", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", no_home)
    assert machine.cache_folder() is None
    (address,) = machine.compile_to_address(answering(43), ("answer",))
    assert ctypes.CFUNCTYPE(ctypes.c_int32)(address)() == 43


def answering(number):
    return f"define i32 @answer() {{ ret i32 {number} }}"


def test_many_threads_may_compile_at_once():
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: machine.compile_to_address(answering(44), ("answer",)), range(16)))
    assert len(set(found)) == 1


def test_what_is_made_once_is_made_once_by_threads():
    # Of two walks or tables of libtorch's fields one would be freed, while a thread goes by its address.
    begun, made = threading.Semaphore(0), []

    @machine.Once
    def make():
        begun.release()
        begun.acquire(timeout=0.05)  # gives another thread the time to come in
        made.append(object())
        return made[-1]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: make(), range(4)))
    assert len(made) == 1
    assert all(one is made[0] for one in found)


@pytest.mark.parametrize("function", [walk.walk, fields.known])
def test_what_is_pointed_to_is_made_once(function):
    assert isinstance(function, machine.Once)


def test_what_was_interrupted_is_compiled_again(monkeypatch):
    class Interrupted(list):
        def append(self, library):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(machine, "_LIBRARIES", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            machine.compile_to_address(answering(45), ("answer",))
    (address,) = machine.compile_to_address(answering(45), ("answer",))
    assert ctypes.CFUNCTYPE(ctypes.c_int32)(address)() == 45


def test_importing_thalweg_imports_little():
    heavy = {"llvmlite", "threadpoolctl", "numba", "scipy", "sklearn", "optuna", "typer", "plotly"}
    script = f"""
import torch, sys
before = set(sys.modules)
import thalweg
new = {{name.partition('.')[0] for name in set(sys.modules) - before}}
print(sorted(new & {heavy!r}))
print([name for name in sys.modules if name.startswith(('thalweg.lab', 'thalweg.cli', 'thalweg.lowering'))])
"""
    assert run(script) == "[]\n[]"


def test_who_compiles_nothing_does_not_import_torchs_compiler():
    script = """
import copy, sys, torch, thalweg
params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
optimizer = thalweg.AdamW(params[:1])
optimizer.add_param_group({"params": params[1:]})
for i in range(2):
    optimizer.zero_grad()
    sum(param.sum() for param in params).backward()
    optimizer.step()
optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
from thalweg.lab.running import serving
print("torch._dynamo" in sys.modules, "torch.distributed.tensor" in sys.modules)
"""
    assert run(script) == "False False"


def spec(cls=tw.AdamW, p=FLOAT32, g=FLOAT32, **kwargs):
    optimizer = cls([leaf(rand(1))], **kwargs)
    group = optimizer.param_groups[0]
    recipe = Recipe.of(cls.rule)
    on = recipe.flags(recipe.numbers(group))
    state = FLOAT64 if p is FLOAT64 else FLOAT32
    return Spec(
        recipe=recipe,
        on=tuple(on.items()),
        scalars=scalar_names(recipe, recipe.choices(group)),
        p=p,
        g=g,
        slots=(state,) * len(recipe.slots_on(on)),
        maximize=False,
        unscale=False,
    )


def test_assembly_depends_on_the_spec_only():
    assert cpu.assembly(spec()) == cpu.assembly(spec())
    assert cpu.assembly(spec()) == cpu.assembly(spec(lr=0.3, betas=(0.5, 0.5)))  # no recompiling
    assert cpu.assembly(spec()) != cpu.assembly(spec(amsgrad=True))
    assert cpu.assembly(spec()) != cpu.assembly(spec(p=BFLOAT16))


@pytest.mark.parametrize("p", [FLOAT32, FLOAT64, BFLOAT16, FLOAT16], ids=lambda c: c.name)
@pytest.mark.parametrize("g", [FLOAT32, BFLOAT16], ids=lambda c: c.name)
def test_kernels_are_vectorized(p, g):
    if not cpu.supports(p):
        pytest.skip("this processor has no conversion")
    text = cpu.assembly(spec(p=p, g=g))
    module = machine._llvm().parse_assembly(text)
    module.verify()
    code = machine._target()
    machine_text = code.emit_assembly(machine._llvm().parse_bitcode(optimized(text)))
    if "x86_64" in machine._llvm().get_default_triple():
        wide = ("ps", "pd")
        assert any(f"vsqrt{suffix}" in machine_text or f"\tsqrt{suffix}" in machine_text for suffix in wide)


@pytest.mark.parametrize("name", ["int8", "bfloat16"])
def test_kernels_of_packed_state_are_vectorized(name):
    codecs = tuple(slot_codec(name, slot.signed, slot.over) for slot in tw.AdamW.rule.slots[:2])
    if not all(map(cpu.supports, codecs)):
        pytest.skip("this processor has no conversion")
    text = cpu.assembly(spec()._replace(slots=codecs))
    code = machine._target().emit_assembly(machine._llvm().parse_bitcode(optimized(text)))
    if "+avx2" in machine.host()[1]:
        assert "vsqrtps" in code
        # The second pass, or the rounding: integers are added and shifted in vectors too.
        assert sum("vpaddd" in line and ("ymm" in line or "zmm" in line) for line in code.splitlines()) >= 4


def optimized(text):
    """Return the bitcode that `machine.assemble` makes before it writes the object."""
    llvm = machine._llvm()
    module = llvm.parse_assembly(text)
    module.triple = machine._target().triple
    module.data_layout = str(machine._target().target_data)
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = True
    builder = llvm.create_pass_builder(machine._target(), tuning)
    builder.getModulePassManager().run(module, builder)
    return module.as_bitcode()


def test_the_same_text_may_be_compiled_twice():
    answer = 2**40 + os.getpid()
    text = f"define i64 @answer() {{\n  ret i64 {answer}\n}}\n"
    for _ in range(2):
        (address,) = machine.compile_to_address(text, ("answer",))
        assert ctypes.CFUNCTYPE(ctypes.c_int64)(address)() == answer


def test_a_flag_that_changes_no_code_may_be_switched():
    # Without momentum `nesterov` changes nothing: another spec, the same assembly.
    param = leaf(rand(4))
    optimizer = tw.SGD([param], lr=0.1)
    for optimizer.param_groups[0]["nesterov"] in (False, True, False):
        follow(optimizer, [param], gradients([param], 1))


def test_broken_assembly_is_an_error_and_not_a_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("THALWEG_CACHE_DIR", str(tmp_path))
    with pytest.raises(RuntimeError):
        machine.compile_to_address("define void @f() { nonsense }", ("f",))
    assert not list(tmp_path.rglob("*.o"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere libraries have other names")
def test_libtorch_is_as_we_know_it():
    # If a new torch keeps its tensors otherwise, every step takes the reference's way: this test says so.
    assert fields.known() is not None


@pytest.mark.parametrize("mode", ["fake", "meta device", "inference", "float64", "vmap"])
def test_libtorch_is_known_in_whatever_mode_it_is_asked(mode):
    contexts = {
        "fake": FakeTensorMode(),
        "meta device": torch.device("meta"),
        "inference": torch.inference_mode(),
        "float64": nullcontext(),
        "vmap": nullcontext(),
    }
    fields.known.cache_clear()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64 if mode == "float64" else before)
        with contexts[mode]:
            if mode == "vmap":
                torch.vmap(lambda x: (fields.known(), x)[1])(torch.ones(2))
            assert fields.known() is not None
    finally:
        torch.set_default_dtype(before)


def test_fields_that_are_not_found_are_none(monkeypatch):
    def elsewhere(*arguments):
        raise LookupError("sizes and strides")

    monkeypatch.setattr(finding, "sizes_field", elsewhere)
    fields.known.cache_clear()
    try:
        assert fields.known() is None
    finally:
        fields.known.cache_clear()


@pytest.mark.parametrize("configuration", ONE_EACH, ids=label)
@pytest.mark.parametrize("missing", ["fields", "openmp"])
def test_steps_are_the_same_where_something_is_missing(configuration, missing, monkeypatch):
    mine, theirs = twins([rand(70_000), rand(5, 3), rand(4, 6).t(), rand(2)])
    steps = gradients(mine, 3)
    steps[1][1] = None
    expected = ours(configuration, theirs)
    follow(expected, theirs, steps)
    if missing == "fields":
        monkeypatch.setattr(fields, "known", lambda: None)
    else:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
        threads.parallel.cache_clear()
    try:
        follow(ours(configuration, mine), mine, steps)
    finally:
        threads.parallel.cache_clear()
    # The reference does not fuse products and sums.
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q, 1e-12 if missing == "fields" else 0.0)
    x = mine[0] * mine[0]
    follow(expected, theirs, steps[:1])
    follow(ours(configuration, mine), mine, steps[:1])
    with pytest.raises(RuntimeError, match="inplace"):
        x.sum().backward()
