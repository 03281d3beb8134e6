"""Studies and results of version 0.1 go on; `data/version_0_1/make.py` had that version write them."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from thalweg.lab.comparing import choosing, command, comparison
from thalweg.lab.comparing.spending import Options
from thalweg.lab.running.pool import Pool
from thalweg.lab.showing import results

FOLDER = Path(__file__).parent.parent / "data" / "version_0_1"
VERSIONS = ("early", "last")


@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        yield pool


@pytest.fixture
def task(tmp_path):
    """The task where a user has it."""
    return Path(shutil.copy(FOLDER / "line.py", tmp_path))


def then(name):
    """The results of that version."""
    return json.loads((FOLDER / f"results-{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", VERSIONS)
def test_a_study_goes_on_and_keeps_its_runs(name, pool, tmp_path, task, monkeypatch):
    document = then(name)
    # Another version of these is another study; see test_identity.py.
    monkeypatch.setattr(torch, "__version__", document["environment"]["torch"])
    monkeypatch.setattr(np, "__version__", "2.4.6")
    (tmp_path / "study.db").write_bytes(gzip.decompress((FOLDER / f"study-{name}.db.gz").read_bytes()))
    found, said = choosing.find(str(task)), []
    options = Options(trials=2, seeds=2, storage=str(tmp_path / "study.db"), why=False)
    spaces = choosing.choose(["sgd", "adamw"], found.workload)
    result = comparison.compare(found, spaces, options, pool, say=said.append, watch=lambda *_: None)
    assert f"going on from {len(document['records'])} runs that were made before" in said
    records = {record.trial.key: record for record in result.study.records}
    assert {record.trial.stage for record in records.values()} >= {"tune", "confirm", "final"}
    for number in range(len(document["records"])):
        before = results.record(document, number)
        assert records[before.trial.key] == before


def test_a_run_is_repeated_and_exported(tmp_path, task, capsys):
    document = then("early")
    document["task"] = str(task)
    (tmp_path / "results.json").write_text(json.dumps(document), encoding="utf-8")
    command.repeat(tmp_path, 0)
    before = results.record(document, 0)
    assert f"stage {before.trial.stage}" in capsys.readouterr().out
    written = [Path(said) for said in command.export(tmp_path, "csv", None)]
    assert [len(path.read_text().splitlines()) > 3 for path in written] == [True, True]
