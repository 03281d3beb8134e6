import csv
import io
import json
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from types import ModuleType, SimpleNamespace

import pytest
from samples import study

from thalweg.lab.comparing import command
from thalweg.lab.judging.verdict import judge
from thalweg.lab.showing import export, results
from thalweg.lab.showing.result import Result


@pytest.fixture
def folder(tmp_path):
    made = study({"sgd": [90.0, 91.0], "adamw": [92.0, None]})
    provenance = results.Provenance(datetime(2026, 1, 2, tzinfo=UTC), 60, 2, {"torch": "2.11"})
    document = results.to_json(made, judge(made), provenance)
    (tmp_path / "results.json").write_text(document)
    return tmp_path


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_records_as_tables(folder):
    written = [str(folder / name) for name in ("runs.csv", "curves.csv")]
    assert command.export(folder, "csv", None) == written
    records = json.loads((folder / "results.json").read_text())["records"]
    runs = read(folder / "runs.csv")
    assert [row["id"] for row in runs] == [str(record["id"]) for record in records]
    assert [float(row["lr"]) for row in runs] == [record["settings"]["lr"] for record in records]
    last = runs[-1]
    assert (last["stage"], last["name"], last["test"]) == ("final", "adamw", "")
    assert last["failure"] == "the training loss is nan at step 3"
    points = read(folder / "curves.csv")
    assert len(points) == sum(len(record["curve"]) for record in records)
    assert list(points[0]) == ["id", "name", "stage", "step", "seconds", "loss", "metric"]


def test_clients_are_given_every_run_and_point(folder, monkeypatch):
    calls = []

    def noted(name):
        return lambda *args, **more: calls.append((name, args, more))

    @contextmanager
    def context(*args, **more):
        calls.append(("begin", args, more))
        yield SimpleNamespace(add_scalar=noted("point"), add_text=noted("text"))

    def begun(**more):
        calls.append(("begin", (), more))
        return SimpleNamespace(
            log=noted("point"), finish=noted("ended"), summary=SimpleNamespace(update=noted("result"))
        )

    fakes = {
        "torch.utils.tensorboard": {"SummaryWriter": context},
        "mlflow": {"start_run": context, "set_experiment": noted("set"), "log_params": noted("set"),
                   "set_tags": noted("set"), "log_metrics": noted("point"), "end_run": noted("ended"),
                   "get_tracking_uri": lambda: "https://me:secret@there"},
        "wandb": {"init": begun, "Settings": noted("set")},
    }  # fmt: skip
    count = len(json.loads((folder / "results.json").read_text())["records"])
    for name, attributes in fakes.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        calls.clear()
        told = command.export(folder, name.rpartition(".")[2], None)
        assert "secret" not in str(told)
        assert sum(call[0] == "begin" for call in calls) == count
        assert sum(call[0] == "point" for call in calls) > count


class Run:
    """What wandb.init returns, as its documentation has it: steps that only grow, a summary, an end."""

    def __init__(self, **begun):
        self.begun, self.logged, self.summary, self.exit_code = begun, [], {}, None

    def log(self, data, step):
        assert self.exit_code is None
        assert not self.logged or step > self.logged[-1][0]
        self.logged.append((step, data))

    def finish(self, exit_code):
        self.exit_code = exit_code


def test_wandb_is_given_the_values_of_every_run(folder, monkeypatch):
    runs = []
    wandb = SimpleNamespace(init=lambda **begun: runs.append(Run(**begun)) or runs[-1], Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    command.export(folder, "wandb", folder / "there")
    records = json.loads((folder / "results.json").read_text())["records"]
    for run, record in zip(runs, records, strict=True):
        begun, failure = run.begun, record["failure"]
        assert (begun["project"], begun["dir"]) == ("thalweg-scores", str(folder / "there"))
        assert begun["name"] == f"{record['id']:04}-{record['name']}-{record['stage']}"
        assert (begun["group"], begun["job_type"]) == (record["name"], record["stage"])
        config = {"optimizer": record["optimizer"], "seed": record["seed"]}
        assert begun["config"] == {**record["settings"], **config}
        curve = [
            (step, {"metric": metric} if loss is None else {"loss": loss, "metric": metric})
            for step, loss, metric in record["curve"]
        ]
        assert run.logged == curve
        expected = {"failure": failure["text"] if failure else ""}
        for split in ("validation", "test"):
            if record[split]:
                expected |= {split: record[split]["metric"], f"{split}_loss": record[split]["loss"]}
        assert run.summary == expected
        assert run.exit_code == (1 if failure else 0)
    assert {run.exit_code for run in runs} == {0, 1}


def test_what_is_missing_is_told(folder, monkeypatch):
    monkeypatch.setattr(export, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ValueError, match="--to mlflow needs the package mlflow: pip install mlflow"):
        command.export(folder, "mlflow", None)
    with pytest.raises(ValueError, match="--to must be one of csv, tensorboard, mlflow, wandb, not 'excel'"):
        command.export(folder, "excel", None)
    with pytest.raises(ValueError, match="--out cannot be given with --to mlflow"):
        command.export(folder, "mlflow", folder)


def test_what_a_client_refuses_is_told_in_one_line(folder, monkeypatch):
    def refuses(**more):
        raise RuntimeError("No API key configured.\nUse `wandb login`")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuses, Settings=dict))
    with pytest.raises(OSError, match=r"--to wandb: RuntimeError: No API key configured\.[^\n]*$"):
        command.export(folder, "wandb", None)


def test_vector_figures_need_kaleido(tmp_path, monkeypatch):
    made = study({"sgd": [90.0, 91.0], "adamw": [92.0, 93.0]})
    result = Result(made, judge(made), results.Provenance(datetime(2026, 1, 2, tzinfo=UTC), 60, 2, {}))
    monkeypatch.setattr("thalweg.lab.showing.result.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"svg files need the package kaleido.*the camera"):
        result.save_figures(tmp_path)
