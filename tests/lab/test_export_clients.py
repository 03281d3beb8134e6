"""Records in TensorBoard, MLflow and Weights & Biases, read back by their own clients.

Each test is skipped where its client is not installed: pip install tensorboard mlflow-skinny wandb
"""

import json
import math
import struct
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from samples import study

from thalweg.lab.comparing import command
from thalweg.lab.judging.verdict import judge
from thalweg.lab.showing import export, results


@pytest.fixture
def folder(tmp_path):
    made = study({"sgd": [90.0], "adamw": [None]})
    provenance = results.Provenance(datetime(2026, 1, 2, tzinfo=UTC), 60, 2, {"torch": "2.11"})
    (tmp_path / "results.json").write_text(results.to_json(made, judge(made), provenance))
    return tmp_path


@pytest.fixture
def records(folder):
    """Those of the results, by what their runs are called."""
    document = json.loads((folder / "results.json").read_text())
    assert any(record["failure"] for record in document["records"])
    return {export._title(record): record for record in document["records"]}


def curve(record, name) -> list[tuple[int, float]]:
    points = [(step, {"loss": loss, "metric": metric}[name]) for step, loss, metric in record["curve"]]
    return [(step, value) for step, value in points if value is not None]


def outcome(record) -> dict[str, float]:
    found = {}
    for split in ("validation", "test"):
        if record[split]:
            found |= {split: record[split]["metric"], f"{split}_loss": record[split]["loss"]}
    return found


def test_tensorboard_reads_every_point_and_result(folder, records):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert command.export(folder, "tensorboard", folder / "events") == [str(folder / "events")]
    assert {path.name for path in (folder / "events").iterdir()} == set(records)
    for title, record in records.items():
        events = accumulator.EventAccumulator(str(folder / "events" / title))
        events.Reload()
        found = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
        expected = {"loss": curve(record, "loss"), "accuracy": curve(record, "metric")}
        last = record["curve"][-1][0]
        expected |= {f"results/{name}": [(last, value)] for name, value in outcome(record).items()}
        assert found.keys() == {name for name, points in expected.items() if points}
        for name, points in found.items():
            assert [step for step, _ in points] == [step for step, _ in expected[name]]
            # Its events hold float32.
            assert all(
                math.isclose(a, b, rel_tol=1e-6)
                for (_, a), (_, b) in zip(points, expected[name], strict=True)
            )
        texts = {"settings/text_summary", *(["failure/text_summary"] if record["failure"] else [])}
        assert set(events.Tags()["tensors"]) == texts


def test_mlflow_reads_every_run_with_its_end(folder, records, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    address = f"sqlite:///{folder}/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert command.export(folder, "mlflow", None) == [address]
    client = mlflow.MlflowClient(address)
    [experiment] = [e for e in client.search_experiments() if e.name.startswith("thalweg ")]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == records.keys()
    for title, record in records.items():
        run = runs[title]
        settings = {**record["settings"], "optimizer": record["optimizer"], "seed": record["seed"]}
        assert run.data.params == {name: str(value) for name, value in settings.items()}
        for name in ("loss", "metric"):
            history = client.get_metric_history(run.info.run_id, name)
            assert sorted((point.step, point.value) for point in history) == curve(record, name)
        assert outcome(record).items() <= run.data.metrics.items()
        assert run.info.status == ("FAILED" if record["failure"] else "FINISHED")
        assert run.data.tags["failure"] == (record["failure"]["text"] if record["failure"] else "")


def test_wandb_holds_every_point_and_result(folder, records, monkeypatch):
    pytest.importorskip("wandb")
    kinds = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert command.export(folder, "wandb", folder / "offline") == [str(folder / "offline" / "wandb")]
    runs = {}
    for path in (folder / "offline" / "wandb").glob("offline-run-*/*.wandb"):
        entries = [kinds.Record.FromString(data) for data in stored(path.read_bytes())]
        [name] = {entry.run.display_name for entry in entries if entry.HasField("run")}
        runs[name] = entries
    assert runs.keys() == records.keys()
    for title, record in records.items():
        history = [values(e.history.item) for e in runs[title] if e.HasField("history")]
        for name in ("loss", "metric"):
            assert [(p["_step"], p[name]) for p in history if name in p] == curve(record, name)
        config = values(item for e in runs[title] if e.HasField("run") for item in e.run.config.update)
        settings = {**record["settings"], "optimizer": record["optimizer"], "seed": record["seed"]}
        assert settings.items() <= config.items()
        summary = values(item for e in runs[title] if e.HasField("summary") for item in e.summary.update)
        expected = {**outcome(record), "failure": record["failure"]["text"] if record["failure"] else ""}
        assert expected.items() <= summary.items()
        [ended] = [e.exit.exit_code for e in runs[title] if e.HasField("exit")]
        assert ended == (1 if record["failure"] else 0)


def stored(data: bytes) -> Iterator[bytes]:
    """The entries of one of its files: LevelDB's log format after a head of seven bytes."""
    at, entry = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # no entry begins at the end of a block
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        entry += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield entry
            entry = b""


def values(items) -> dict[str, object]:
    """What an entry holds, by name; the last counts."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
