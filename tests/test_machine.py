"""Machine code: the cache on disk, determinism, and the ways that serve where something is missing."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support import ONE_EACH, follow, gradients, label, leaf, ours, rand, twins

import thalweg as tw
from thalweg.codecs import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, slot_codec
from thalweg.lowering import cpu, libtorch, machine, threads
from thalweg.lowering.spec import Spec
from thalweg.rows import scalar_names
from thalweg.tensors import ABSENT, IRREGULAR, Tensors

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
        timeout=120,
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


def spec(cls=tw.AdamW, p=FLOAT32, g=FLOAT32, **kwargs):
    optimizer = cls([leaf(rand(1))], **kwargs)
    group = optimizer.param_groups[0]
    on = cls.rule.flags(cls.rule.numbers(group))
    state = FLOAT64 if p is FLOAT64 else FLOAT32
    return Spec(
        rule=cls.rule,
        on=tuple(on.items()),
        scalars=scalar_names(cls.rule, group),
        p=p,
        g=g,
        slots=(state,) * len(cls.rule.slots_on(on)),
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
    codecs = tuple(slot_codec(name, slot.signed) for slot in tw.AdamW.rule.slots[:2])
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


# --- reading tensors ---


def zoo():
    """Return parameters with every kind of gradient."""
    made = []

    def add(param, grad, grad_dtype=None):
        param = param.detach().requires_grad_()
        if grad_dtype is not None:
            param.grad_dtype = grad_dtype
        param.grad = grad
        made.append(param)

    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64):
        add(torch.zeros(3, 4, dtype=dtype), torch.ones(3, 4, dtype=dtype))
    add(torch.zeros(3), None)
    add(torch.zeros(3, 4), torch.ones(4, 3).t())
    add(torch.zeros(3, 4), torch.ones(1, 1).expand(3, 4))
    add(torch.zeros(3, 4), torch.eye(3, 4).to_sparse())
    add(torch.zeros(3, 4), torch.ones(3, 8)[:, ::2])
    add(torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
    add(torch.zeros(5)[2:], torch.ones(9)[6:])
    add(torch.zeros(0), torch.zeros(0))
    add(torch.zeros(()), torch.ones(()))
    add(torch.zeros(1, 4), torch.ones(1, 4).as_strided((1, 4), (77, 1)))
    add(torch.zeros(3), torch.ones(3, dtype=torch.bfloat16), torch.bfloat16)
    add(torch.zeros(3, dtype=torch.bfloat16), torch.ones(3), torch.float32)
    made.append(torch.nn.Parameter(torch.ones(2)))
    made.append(torch.ones(2))  # not even requires_grad
    return made


def relabelled(kinds):
    """Name dtypes by first appearance: the two ways number them differently."""
    seen = {ABSENT: ABSENT, IRREGULAR: IRREGULAR}
    return [seen.setdefault(kind, len(seen)) for kind in kinds.tolist()]


@pytest.mark.skipif(libtorch.library() is None, reason="libtorch lacks the functions")
def test_the_compiled_way_of_reading_is_pythons():
    params = zoo()
    compiled, slow = Tensors(params), Tensors(params)
    compiled.read()
    slow._read_slowly()
    assert relabelled(compiled.kinds) == relabelled(slow.kinds)
    assert (compiled.addresses == slow.addresses).all()
    assert (compiled.grad_addresses == slow.grad_addresses).all()
    assert {ABSENT, IRREGULAR} < set(compiled.kinds.tolist())
    # And again, after gradients have come and gone.
    for p in params[::2]:
        p.grad = None
    compiled.read()
    slow._read_slowly()
    assert relabelled(compiled.kinds) == relabelled(slow.kinds)
    assert (compiled.grad_addresses == slow.grad_addresses).all()


@pytest.mark.parametrize("missing", [False, True])
def test_bumping_raises_versions(missing, monkeypatch):
    if missing:
        monkeypatch.setattr(libtorch, "library", lambda: None)
    params = [torch.ones(2, requires_grad=True) for _ in range(3)]
    read = Tensors(params)
    read.read()
    before = [p._version for p in params]
    read.bump(np.array([0, 2]))
    assert [p._version - v for p, v in zip(params, before, strict=True)] == [1, 0, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere libraries have other names")
def test_libtorch_has_the_functions():
    # If a new torch renames them, steps of many tensors become slow: this test says so.
    assert libtorch.library() is not None


@pytest.mark.parametrize("configuration", ONE_EACH, ids=label)
@pytest.mark.parametrize("missing", ["library", "openmp"])
def test_steps_are_the_same_where_something_is_missing(configuration, missing, monkeypatch):
    mine, theirs = twins([rand(70_000), rand(5, 3), rand(4, 6).t(), rand(2)])
    steps = gradients(mine, 3)
    steps[1][1] = None
    expected = ours(configuration, theirs)
    follow(expected, theirs, steps)
    if missing == "library":
        monkeypatch.setattr(libtorch, "library", lambda: None)
    else:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
        threads.parallel.cache_clear()
    try:
        follow(ours(configuration, mine), mine, steps)
    finally:
        threads.parallel.cache_clear()
    assert all(map(torch.equal, mine, theirs))
    x = mine[0] * mine[0]
    follow(expected, theirs, steps[:1])
    follow(ours(configuration, mine), mine, steps[:1])
    with pytest.raises(RuntimeError, match="inplace"):
        x.sum().backward()
