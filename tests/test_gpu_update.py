"""The GPU scripts of the whole update and of tiles, without a GPU; also through Triton's interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from interpreter import INTERPRETED, smaller
from test_gpu_benchmark import FakeMeter, clock

import thalweg
from thalweg.bench import cases, gpu_update, sides
from thalweg.bench.rivals import ADAMW, FLOAT32, INT8, SGD
from thalweg.lowering.gpu import shapes, tables
from thalweg.lowering.gpu import tiles as kernels

FOLDER = Path(thalweg.__file__).parents[1] / "benchmarks"
SMALL = {name: [(smaller(5000, 500),), (3, 5)] for name in gpu_update.CHOSEN}


def script(name):
    spec = spec_from_file_location(name, FOLDER / f"{name}.py")
    found = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_cases_are_both_algorithms_storages_and_all_sets():
    found = {(case.algorithm.name, case.storage.name, case.set) for case in gpu_update.cases()}
    assert len(found) == 2 * 2 * 4
    assert (SGD.name, sides.PACKED.name, "GPT-2 small") in found


def test_the_whole_update_is_measured_and_written(tmp_path, capsys):
    out = tmp_path / "figures.json"
    chosen = gpu_update.cases(SMALL)[:: smaller(3, 4)]
    rows = gpu_update.measure(chosen, FakeMeter(), 0.01, clock(0.0))
    script("gpu_update").report(rows, "none", out)
    figures = json.loads(out.read_text())
    assert [row["failure"] for row in figures["rows"]] == [""] * len(chosen)
    assert all(row["device"]["ratio"] == pytest.approx(3.0) for row in figures["rows"])
    assert capsys.readouterr().out.count("\n") == 1 + len(chosen)


def test_the_share_counts_the_bytes_of_the_whole_update(monkeypatch):
    monkeypatch.setattr(gpu_update, "LARGE", 64)
    case = cases.Case(ADAMW, sides.FLOAT32, "one 1e8 tensor", [(640,)])
    row = next(gpu_update.measure([case], FakeMeter(), 0.01, clock(0.0)))
    # 40 bytes an element in 1 ms, beside 8 bytes of 1,000 elements in 3 ms.
    assert row.share == pytest.approx(40 * 640 / 8000 * 3)


def test_an_update_that_is_wrong_is_not_measured(monkeypatch):
    monkeypatch.setattr(sides, "MAX_NORM", 0.5)
    case = cases.Case(SGD, sides.FLOAT32, "some", [(64,)])
    row = next(gpu_update.measure([case], FakeMeter(), 0.01, clock(0.0)))
    assert row.failure.startswith("ArithmeticError: wrong weights")


@pytest.mark.skipif(not INTERPRETED, reason="needs THALWEG_TEST_TRITON=1")
@pytest.mark.parametrize("storage", [INT8, FLOAT32], ids=lambda s: s.name)
def test_every_variant_has_kernels_of_its_own_and_the_same_weights(storage, monkeypatch):
    tiles = script("gpu_tiles")
    texts = []
    before, before_all = kernels.step, shapes.shape_of

    def step(spec, aligned):
        texts.append(before(spec, aligned))
        return texts[-1]

    monkeypatch.setattr(kernels, "step", step)
    chosen = [
        tiles.Shape(1, 512, 2),
        tiles.Shape(3, 512, 4),
        tiles.Shape(1, 1024, 2),
        tiles.Shape(2, 1024, 4, 80, ahead=True),
    ]
    rows = tiles.sweep(storage, FakeMeter(), 0.0, 3000, chosen)
    assert [(row.repeats, row.tile, row.warps, row.most, row.ahead, row.failure) for row in rows] == [
        (*s, "") for s in chosen
    ]
    sizes = [int(text.partition("TILE = tl.constexpr(")[2].partition(")")[0]) for text in texts]
    # The default's, and each variant's, for aligned memory and for other; none when they are timed.
    assert sizes == [tiles.DEFAULT[storage.name].tile] * 2 + [512] * 4 + [1024] * 4
    assert all("  -" in tiles.line(row) for row in rows)
    assert shapes.shape_of is before_all


def test_variants_that_are_not_tritons_or_wrong_are_said():
    tiles = script("gpu_tiles")
    one = tiles.Variant(tiles.Shape(1, 512, 2), None, torch.zeros(3), [])
    with pytest.raises(RuntimeError, match="stepped by kernels of another variant"):
        tiles.check(one, torch.zeros(3))
    with pytest.raises(ArithmeticError, match="1 weights differ"):
        tiles.check(one._replace(kernels=[None]), torch.tensor([0.0, 0.0, 1.0]))


def test_a_variant_that_fails_costs_itself_only(monkeypatch):
    tiles = script("gpu_tiles")

    def check(one, first):
        if one.shape.warps == 2:
            raise ArithmeticError("wrong results")

    monkeypatch.setattr(tiles, "check", check)
    chosen = [tiles.Shape(1, 512, 4), tiles.Shape(1, 512, 2)]
    right, wrong = tiles.sweep(INT8, FakeMeter(), 0.0, 640, chosen)
    assert (right.warps, right.failure, right.device.ratio) == (4, "", 1.0)
    assert wrong.failure == "ArithmeticError: wrong results"
    assert wrong.failure in tiles.line(wrong)


def test_registers_are_the_launched_kernels():
    class Compiled:
        n_regs, n_spills = 40, 2

    launched, other = tables.Kernel(None), tables.Kernel(None)
    launched._compiled[0] = Compiled()
    assert script("gpu_tiles").registers([other, launched]) == (40, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu_update", "gpu_tiles"])
def test_without_a_gpu_the_scripts_say_so(name):
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"benchmarks/{name}.py: no GPU that torch can use\n"
    assert not done.stdout
