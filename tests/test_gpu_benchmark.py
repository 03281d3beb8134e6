"""The GPU's benchmark without a GPU: what it verifies, how it judges, that it keeps to its time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import thalweg
from thalweg.bench import cases, goals, gpu, measure, meters, shapes, table, verifying
from thalweg.bench.rivals import ADAMW, ALGORITHMS, BFLOAT16, FLOAT32, INT8, RMSPROP, SGD, STORAGES

SMALL = {"one 1e8 tensor": [(5000,)], "ResNet-50": [(70, 70), (3,), (64,)]}
SCRIPT = Path(thalweg.__file__).parents[1] / "benchmarks" / "gpu.py"


class FakeMeter:
    """Runs the work, and has the seconds of each step up its sleeve: ours first, then the others."""

    device = torch.device("cpu")

    def __init__(self, host=(1e-4, 2e-4), device=(1e-3, 3e-3), peak=0):
        self._host, self._device, self._peak = host, device, peak

    def times(self, work):
        work()
        is_ours = isinstance(getattr(work, "__self__", None), thalweg.Optimizer)
        return meters.Times(self._host[not is_ours], self._device[not is_ours])

    def peak(self, work):
        work()
        return self._peak


def clock(*times):
    left = list(times)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def numel(found):
    return sum(torch.Size(shape).numel() for shape in found)


def test_the_models_have_their_parameters():
    assert (len(shapes.gpt2()), numel(shapes.gpt2())) == (148, 124_439_808)
    assert (len(shapes.llama_1b()), numel(shapes.llama_1b())) == (146, 1_235_814_400)


def test_turns_begin_with_each_in_turn():
    calls = []
    works = [lambda name=name: calls.append(name) for name in "abc"]
    found = measure.turns(works, lambda work: work() or len(calls), seconds=0, least=3)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert found == [(1, 2, 3), (6, 4, 5), (8, 9, 7)]  # in the order of the works all the same


def test_ratios_are_taken_turn_by_turn():
    found = measure.compare([2.0, 30.0, 4.0], [1.0, 10.0, 1.0])
    assert (found.baseline, found.ours, found.ratio, found.turns) == (4.0, 1.0, 3.0, 3)
    assert (found.low, found.high) == (2.0, 4.0)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: s.name)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
@pytest.mark.parametrize("groups", [1, 2])
def test_right_results_pass(algorithm, storage, groups):
    case = cases.Case(algorithm, storage, "some", [(5000,), (3, 5), (64, 65)], groups)
    verifying.verify(case, torch.device("cpu"))


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: s.name)
def test_wrong_results_are_found(storage, monkeypatch):
    monkeypatch.setattr(verifying, "ours", lambda algorithm, storage: make_wrong(storage))
    with pytest.raises(ArithmeticError, match="wrong results"):
        verifying.verify(cases.Case(ADAMW, storage, "some", [(5000,)]), torch.device("cpu"))


def make_wrong(storage):
    return lambda params: thalweg.AdamW(params, lr=5e-4, **storage.options)


def test_a_case_is_measured_beside_every_rival_and_what_is_missing_is_named():
    case = cases.Case(ADAMW, INT8, "one 1e8 tensor", SMALL["one 1e8 tensor"])
    rows = {row.rival: row for row in gpu.measure([case], FakeMeter(), 0.01, clock(0.0))}
    assert rows.keys() >= {"torch fused", "torch foreach", "bitsandbytes 8 bits", "torchao 8 bits"}
    missing = [row for row in rows.values() if row.failure]
    assert all(row.loop is None and row.failure in table.line(row) for row in missing)
    fused = rows["torch fused"]
    assert fused.loop.ratio == pytest.approx(3.0)
    assert fused.host.ratio == pytest.approx(2.0)
    assert fused.loop.turns >= gpu.LEAST_TURNS
    assert ("ratio >= 1.7", True) in fused.goals


def test_a_loop_takes_the_longer_of_both_times():
    case = cases.Case(SGD, FLOAT32, "ResNet-50", SMALL["ResNet-50"])
    meter = FakeMeter(host=(4e-3, 2e-3), device=(1e-3, 3e-3))
    row = next(gpu.measure([case], meter, 0.01, clock(0.0)))
    assert row.loop.ratio == pytest.approx(0.75)
    assert ("ratio >= 1.1", False) in row.goals
    assert "MISSED" in table.line(row)


def test_peaks_are_shares_of_what_is_held():
    case = cases.Case(ADAMW, FLOAT32, "some", [(1000,)])
    row = next(gpu.measure([case], FakeMeter(peak=160), 0.01, clock(0.0)))
    assert row.peak == 160 / 16_000
    assert (f"peak <= {goals.MOST_PEAK:.0%}", True) in row.goals


def test_bytes_of_a_step():
    case = cases.Case(ADAMW, INT8, "some", [(6400,)])
    (param,) = params = cases.make_params(case, torch.device("cpu"))
    optimizer = thalweg.AdamW(params, state="int8")
    optimizer.step()
    state = 2 * (6400 + 2 * 100)
    assert cases.held_bytes([param], optimizer) == 8 * 6400 + state
    assert cases.moved_bytes([param], optimizer) == 12 * 6400 + 2 * state


def test_a_share_of_the_copy_is_measured_for_large_sets(monkeypatch):
    monkeypatch.setattr(gpu, "LARGE", 1000)
    case = cases.Case(ADAMW, FLOAT32, "one 1e8 tensor", [(1000,)])
    row = next(gpu.measure([case], FakeMeter(), 0.01, clock(0.0)))
    # 28 bytes an element in 1 ms beside 8 bytes in 3 ms.
    assert row.share == pytest.approx(28 / 8 * 3)
    assert ("copy >= 0.92", True) in row.goals


def test_what_does_not_fit_into_the_time_is_said():
    chosen = cases.cases(SMALL)[-3:]
    rows = list(gpu.measure(chosen, FakeMeter(), 1.0, clock(0.0, 0.999, 2.0)))
    assert [row.failure for row in rows[-2:]] == ["not measured: no time left"] * 2
    assert rows[0].loop is not None


def test_a_case_that_fails_costs_itself_only(monkeypatch):
    def fail(case, device):
        if case.algorithm is ADAMW:
            raise ArithmeticError("wrong results: 1 from torch's")

    monkeypatch.setattr(gpu, "verify", fail)
    chosen = [cases.Case(a, FLOAT32, "some", [(8,)]) for a in (ADAMW, RMSPROP)]
    rows = list(gpu.measure(chosen, FakeMeter(), 0.1, clock(0.0)))
    assert rows[0].failure == "ArithmeticError: wrong results: 1 from torch's"
    assert rows[1].loop is not None


def test_host_time_must_not_grow_with_groups():
    chosen = [case for case in cases.cases(SMALL) if case.set.startswith("161 x 64")]
    assert [case.groups for case in chosen] == [1, 10, 161]

    class Growing(FakeMeter):
        def times(self, work):
            work()
            count = len(work.__self__.param_groups)
            return meters.Times(count * 2e-5, 1e-5)

    rows = [row for row in gpu.measure(chosen, Growing(), 0.1, clock(0.0)) if row.rival == "torch fused"]
    assert [dict(row.goals)["host <= 1.25 x one group's"] for row in rows] == [True, False, False]
    assert [dict(row.goals)["host <= 100 us"] for row in rows] == [True, False, False]


def test_every_goal_has_a_case():
    found = {
        (case.algorithm.name, case.storage.name, case.set): goals.least_ratio(case, "torch fused")
        for case in cases.cases()
        if case.algorithm.is_fused
    }
    assert found["AdamW", "float32", "one 1e8 tensor"] == 1.0
    assert found["AdamW", "int8 state", "one 1e8 tensor"] == 1.7
    for algorithm in ("AdamW", "SGD momentum"):
        assert found[algorithm, "float32", "ResNet-50"] == found[algorithm, "float32", "GPT-2 small"] == 1.1
        assert found[algorithm, "float32", "400 x 1,000"] == found[algorithm, "float32", "4,000 x 64"] == 3.0
    everywhere = [c for c in cases.cases() if c.algorithm is RMSPROP and c.storage is FLOAT32]
    assert {goals.least_ratio(case, "torch foreach") for case in everywhere} == {3.0}
    assert goals.least_ratio(cases.Case(ADAMW, BFLOAT16, "ResNet-50", []), "torch fused") is None


def test_figures_are_json():
    case = cases.Case(SGD, FLOAT32, "some", [(8,)])
    for row in gpu.measure([case], FakeMeter(), 0.01, clock(0.0)):
        assert json.loads(json.dumps(asdict(row)))["set"] == "some"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_says_so():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "benchmarks/gpu.py: no GPU that torch can use\n"
    assert not done.stdout
