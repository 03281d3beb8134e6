import json
import os
from datetime import UTC, datetime

import pytest
from samples import study

from thalweg.lab.judging.verdict import judge
from thalweg.lab.showing import results
from thalweg.lowering import files

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
    assert ranking["sgd"]["settings"] is ranking["sgd"]["code"] is None
    assert ranking["sgd"]["test"] is None
    finals = [r for r in document["records"] if r["stage"] == "final" and r["name"] == "adamw"]
    assert [r["test"]["metric"] for r in finals] == [None, None, 1.0, 2.0, 3.0, 4.0]


def test_results_hold_every_run_and_what_it_ran_on(tmp_path):
    path = tmp_path / "results.json"
    files.write_atomically(path, as_json({"sgd": [1.0, 1.1] * 3, "adamw": [2.0, 2.1] * 3}).encode())
    document = results.load(path)
    assert len(document["records"]) == 2 * (3 + 2 * 3 + 6)
    assert [record["id"] for record in document["records"]] == list(range(len(document["records"])))
    assert document["complete"] is True
    assert document["verdict"]["kind"] == "winner"
    assert document["verdict"]["leaders"] == ["adamw"]
    assert document["started"] == "2026-01-02T03:04:05+00:00"
    assert {"thalweg", "torch", "python", "processor"} <= set(document["environment"])
    margin = {"value": 0.5, "relative": False, "spread": 0.0}
    spent = {"trials": 3, "seeds": 6, "margin": margin, "seed": 0, "looks": [], "early_stop": False}
    assert document["settings"] == spent
    assert [axis["name"] for axis in document["spaces"][0]["searched"]] == ["lr / (1 - momentum)"]


def test_every_record_comes_back_from_its_id(tmp_path):
    made = study(
        {"sgd": [1.0, None], "adamw": [0.1 + 0.2, 1 / 3]},
        tuning={"sgd": [1.0, 2.0, None], "adamw": [1, 2, 1]},
    )
    path = tmp_path / "results.json"
    path.write_text(results.to_json(made, judge(made), PROVENANCE), encoding="utf-8")
    document = results.load(tmp_path)
    for number, record in enumerate(made.records):
        assert results.record(document, number) == record
        assert results.record(document, number).timing == record.timing
    with pytest.raises(ValueError, match=f"--id must be from 0 to {number}, not {number + 1}"):
        results.record(document, number + 1)
    with pytest.raises(ValueError, match="not -1"):
        results.record(document, -1)


def test_a_study_without_records_is_written_too():
    made = study({"sgd": [1.0], "adamw": [1.0]}).holding([])
    document = json.loads(results.to_json(made, judge(made), PROVENANCE), parse_constant=refuse)
    assert (document["complete"], document["records"]) == (False, [])
    with pytest.raises(ValueError, match="hold no records"):
        results.record(document, 0)


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_what_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match="is no JSON"):
        results.load(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no JSON"):
        results.load(tmp_path)


def test_results_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*nowhere.*: No such file"):
        results.load(tmp_path / "nowhere")


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
        with pytest.raises(OSError, match=r"No space left on device: '.*results\.json'"):
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
