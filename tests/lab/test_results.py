import json
import os
from datetime import UTC, datetime

import pytest
from samples import study

from thalweg import files
from thalweg.lab import results
from thalweg.lab.verdict import judge

PROVENANCE = results.Provenance(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), 61.23, 2, results.environment())


def as_json(tests, **more) -> str:
    made = study(tests, **more)
    return results.to_json(made, judge(made), PROVENANCE)


def refuse(constant: str):
    raise AssertionError(f"{constant} is no JSON")


def test_results_are_strict_json_even_where_everything_diverged():
    tests = {"sgd": [None] * 6, "adamw": [float("nan"), float("inf"), 1.0, 2.0, 3.0, 4.0]}
    tuning = {"sgd": [None] * 3, "adamw": [1.0, 2.0, 1.0]}
    document = json.loads(as_json(tests, tuning=tuning), parse_constant=refuse)
    ranking = {row["name"]: row for row in document["ranking"]}
    assert ranking["sgd"]["lr"] is None
    assert ranking["sgd"]["test"] is None
    finals = [r for r in document["records"] if r["stage"] == "final" and r["optimizer"] == "adamw"]
    assert [r["test"]["metric"] for r in finals] == [None, None, 1.0, 2.0, 3.0, 4.0]


def test_results_hold_every_run_and_what_it_ran_on(tmp_path):
    path = tmp_path / "results.json"
    files.write_atomically(path, as_json({"sgd": [1.0] * 6, "adamw": [2.0] * 6}).encode())
    document = results.load(path)
    assert len(document["records"]) == 2 * 3 + 2 * 6
    assert document["verdict"]["kind"] == "winner"
    assert document["verdict"]["leaders"] == ["adamw"]
    assert document["started"] == "2026-01-02T03:04:05+00:00"
    assert {"thalweg", "torch", "python", "processor"} <= set(document["environment"])
    assert document["settings"] == {"trials": 3, "seeds": 6, "margin": 0.5, "seed": 0}


@pytest.mark.parametrize("text", ['{"schema": 0}', "[]"])
def test_results_of_another_schema_are_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="does not hold results of schema"):
        results.load(path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(OSError, match="No space"):
            files.write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]
    files.write_atomically(path, b"new")
    assert path.read_text() == "new"


def test_a_folder_is_prepared_with_its_parents_and_left_empty(tmp_path):
    files.prepare_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_a_folder_below_a_file_cannot_be_prepared(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.prepare_folder(tmp_path / "file" / "below")
