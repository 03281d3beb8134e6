import json
from datetime import UTC, datetime
from html import unescape

import plotly.graph_objects as go
import pytest
from samples import study

from thalweg.lab.judging.verdict import judge
from thalweg.lab.showing import results
from thalweg.lab.showing.result import Result

SGD = [90.0, 90.5, 91.0, 90.2, 90.7, 90.4, 90.1, 90.9]
PROVENANCE = results.Provenance(datetime(2026, 1, 2, tzinfo=UTC), 60, 2, {"torch": "2.11"})


@pytest.fixture
def result():
    made = study({"sgd": SGD, "adamw": [*[value - 1 for value in SGD[:-1]], None]})
    return Result(made, judge(made), PROVENANCE)


def test_ranking_is_best_first_in_plain_values(result):
    first, second = result.ranking
    assert (first["optimizer"], second["optimizer"]) == ("SGD", "AdamW")
    assert first["test"] == pytest.approx(90.475)
    assert first["test_low"] < first["test"] < first["test_high"]
    assert first["code"] == result.verdict.code[0]
    assert second["test"] < second["test_finished"] < first["test"]
    assert second["failures"] == 1
    assert json.loads(json.dumps(result.ranking)) == result.ranking


def test_trials_are_rows_with_hyperparameters_as_columns(result):
    assert [row["id"] for row in result.trials] == list(range(len(result.study.records)))
    row, record = result.trials[0], result.study.records[0]
    assert row["lr"] == record.trial.lr
    assert row["validation"] == record.validation.metric
    assert result.trials[-1]["failure"] == "the training loss is nan at step 3"


def test_figures_are_plotly_figures_by_name(result):
    assert {"curves_steps", "curves_seconds", "seeds", "rates", "best_of_k", "memory"} <= set(result.figures)
    assert all(isinstance(plot, go.Figure) for plot in result.figures.values())
    assert result.figures is result.figures


def test_it_is_saved_whole(result, tmp_path):
    folder = tmp_path / "a" / "b"
    result.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.json"]
    assert (folder / "report.html").read_text(encoding="utf-8") == result.html()
    document = results.load(folder / "results.json")
    assert document["verdict"]["headline"] == result.verdict.headline


def test_a_notebook_gets_a_frame_of_its_own(result):
    html = result._repr_html_()
    assert html.startswith("<iframe ")
    assert html.count("<") == 2, "what is inside the frame is escaped"
    page = unescape(html.split('srcdoc="')[1])
    assert f"<h1>{result.verdict.headline}</h1>" in page
    assert 'id="curves"' in page
    assert len(html) < 2_200_000


def test_repr_is_the_verdict(result):
    text = repr(result)
    assert text.startswith(f"{result.verdict.headline}.")
    assert result.verdict.code[0] in text


def test_everything_failed():
    made = study({"sgd": [None] * 6, "adamw": [None] * 6}, tuning={"sgd": [None] * 2, "adamw": [None] * 2})
    result = Result(made, judge(made), PROVENANCE)
    assert [row["test"] for row in result.ranking] == [None, None]
    assert list(result.figures) == ["rates"]
    assert "every optimizer failed" in repr(result)
