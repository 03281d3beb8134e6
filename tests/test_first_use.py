"""Other systems, as far as they can be made up here: what is missing is done without, or said in one line."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys

import pytest
from test_machine import run, spec

import thalweg as tw
from thalweg.cli import main
from thalweg.lab.running import processes
from thalweg.lab.running.pool import available_cores
from thalweg.lowering import machine
from thalweg.lowering.cpu import kernels as cpu
from thalweg.storage.codecs import slot_codec

STEPS = """
import sys, warnings
from thalweg.lowering import machine
{break_it}
import torch
import thalweg as tw

warnings.simplefilter("always")
told = []
warnings.showwarning = lambda message, *rest: told.append(str(message))
CASES = [("AdamW", dict(weight_decay=0.1)), ("SGD", dict(momentum=0.9)), ("RMSprop", dict(centered=True))]
for name, options in CASES:
    pair = [torch.nn.Parameter(torch.linspace(-1, 1, 5000)) for _ in range(2)]
    both = [getattr(o, name)([p], lr=0.01, **options) for o, p in zip((tw, torch.optim), pair)]
    for step in range(3):
        for p, optimizer in zip(pair, both):
            p.grad = torch.cos((step + 1) * torch.arange(5000.0))
            optimizer.step()
    torch.testing.assert_close(*pair, rtol=0, atol=2e-6)
param = torch.nn.Parameter(torch.ones(5000))
optimizer = tw.AdamW([param], lr=0.01, weight_decay=0.0, state="int8", max_norm=1.0, average=0.9)
table = torch.nn.Embedding(4, 3, sparse=True)
sparse = tw.SGD(table.parameters(), lr=0.1)
before = table.weight.detach().clone()
for _ in range(2):
    param.grad = torch.ones(5000)
    optimizer.step()
    sparse.zero_grad()
    table(torch.tensor([1])).sum().backward()
    sparse.step()
torch.testing.assert_close(param.detach(), torch.full((5000,), 0.98), rtol=0, atol=1e-3)
moved = torch.tensor([[0.0], [0.2], [0.0], [0.0]]).expand(4, 3)
torch.testing.assert_close(before - table.weight.detach(), moved)
print(len(told), *told)
"""


def test_where_nothing_can_be_compiled_the_reference_steps_and_one_line_says_so(tmp_path):
    said = run(STEPS.format(break_it="sys.modules['llvmlite'] = None"), THALWEG_CACHE_DIR=str(tmp_path))
    assert re.fullmatch(r"1 kernels cannot be compiled here \([^\n]*llvmlite[^\n]*\): the reference .*", said)


def test_a_processor_without_avx2_has_kernels(tmp_path):
    old = "machine.host = lambda: ('x86-64', '')" if "x86_64" in machine._llvm().get_default_triple() else ""
    assert run(STEPS.format(break_it=old), THALWEG_CACHE_DIR=str(tmp_path)) == "0"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda text: b"no object", "cannot be compiled here"),
        (lambda text, real=machine.assemble: real(text.replace("42", "41")), "do not run"),
    ],
    ids=["no code", "other code"],
)
def test_a_first_kernel_is_tried(made, said, monkeypatch, tmp_path):
    monkeypatch.setenv("THALWEG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(machine, "_ADDRESSES", {})
    assert machine.obstacle.__wrapped__() == ""
    monkeypatch.setenv("THALWEG_CACHE_DIR", str(tmp_path / "another"))
    monkeypatch.setattr(machine, "_ADDRESSES", {})
    monkeypatch.setattr(machine, "assemble", made)
    assert said in machine.obstacle.__wrapped__()


@pytest.mark.parametrize(
    ("triple", "processor"),
    [
        ("aarch64-unknown-linux-gnu", "generic"),
        ("arm64-apple-macosx", "apple-m1"),
        ("x86_64-pc-windows-msvc", "x86-64"),
    ],
)
def test_kernels_compile_for_other_systems(triple, processor):
    llvm = machine._llvm()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(triple).create_target_machine(cpu=processor, opt=3, reloc="pic")
    codecs = tuple(slot_codec("int8", slot.signed, slot.over) for slot in tw.AdamW.rule.slots[:2])
    module = llvm.parse_assembly(cpu.assembly(spec()._replace(slots=codecs)))
    module.triple, module.data_layout = triple, str(target.target_data)
    module.verify()
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    assert re.search(r"^_?step:", target.emit_assembly(module), flags=re.M)
    assert re.search(r"fmla(\.4s)?\s+v|sqrtss", target.emit_assembly(module))


def test_cores_are_counted_where_none_can_be_set_apart(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert available_cores() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.fixture
def windows(monkeypatch):
    """What of Windows the lab looks at: no signal ends a process for sure."""
    with monkeypatch.context() as patch:
        patch.delattr(signal, "SIGKILL")
        patch.setattr(sys, "platform", "win32")
        patch.delitem(sys.modules, "thalweg.lab.running.processes")
        yield
    sys.modules["thalweg.lab.running.processes"] = processes


@pytest.mark.usefixtures("windows")
def test_on_windows_the_lab_says_in_one_line_where_it_runs(capsys):
    with pytest.raises(ImportError, match="on Linux, macOS and WSL, not on win32"):
        importlib.import_module("thalweg.lab.running.processes")
    with pytest.raises(SystemExit) as exit_:
        main(["compare", "digits"])
    assert exit_.value.code == 2
    assert re.fullmatch(r"thalweg: the lab [^\n]* not on win32\n", capsys.readouterr().err)
