import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from samples import Line, Scores, complete, study

from thalweg.lab import spaces
from thalweg.lab.judging.verdict import judge
from thalweg.lab.showing import results
from thalweg.lab.showing.report import render, summary
from thalweg.lab.showing.report.library import plotly
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.study import Margin, Settings, Study

SGD = [90.0, 90.5, 91.0, 90.2, 90.7, 90.4, 90.1, 90.9]
BETTER = [value + 1 for value in SGD]
PROVENANCE = results.Provenance(
    datetime(2026, 1, 2, tzinfo=UTC),
    60,
    2,
    {"torch": "2.11", "processor": "a & b"},
    command="thalweg compare scores",
    task="scores",
    bought="10 minutes bought 3 trials",
    found=4,
)
PICTURES = ["curves", "lead", "seeds", "rates", "best_of_k", "target", "speed", "memory"]
LIBRARY = re.compile(r'<script type="text/plain" id="library".*?</script>', re.DOTALL)


def page(made: Study) -> str:
    """The report without the library that draws its pictures."""
    return LIBRARY.sub("", render(made, judge(made), PROVENANCE))


def report(tests=None, **more) -> str:
    return page(study(tests or {"sgd": SGD, "adamw": BETTER}, **more))


def pictures(html: str) -> list[str]:
    return re.findall(r'<figure id="(\w+)"', html)


def rows(html: str, table: str) -> list[list[str]]:
    """The texts of a table's body."""
    body = re.search(rf'<table id="{table}".*?<tbody>(.*?)</tbody>', html, re.DOTALL).group(1)
    return [
        [re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr.*?</tr>", body)
    ]


def test_it_says_the_verdict_and_the_line_to_paste():
    html = report()
    assert "<h1>AdamW wins</h1>" in html
    assert "1.00 points ahead of SGD (95&nbsp;% interval 1.00 to 1.00)" in html
    assert "batches of 8, no norm layers, 40 steps a run" in html
    assert re.search(r'<pre class="paste"><code>thalweg\.AdamW\(model\.parameters\(\), lr=', html)
    assert "the learning rate climbs linearly" in html


def test_all_that_tie_are_shown_with_their_line():
    html = report({"sgd": SGD, "adamw": SGD, "adam": [value + 0.1 for value in SGD]})
    assert html.count('<pre class="paste">') == 3


def test_it_loads_nothing():
    html = report()
    assert len(html) < 200_000
    assert not re.search(r"""(src|href)\s*=|@import|url\(""", html)


def test_it_is_small_and_holds_the_library_once():
    made = study({"sgd": SGD, "adamw": BETTER})
    html = render(made, judge(made), PROVENANCE)
    assert len(html.encode()) < 2_000_000
    assert len(LIBRARY.findall(html)) == 1
    assert "<" not in plotly().text


def test_it_holds_all_pictures_in_two_views_where_time_matters():
    html = report()
    assert pictures(html) == PICTURES
    assert html.count('data-view="seconds"') == html.count('data-view="steps"') == 2


def test_ranking_has_interval_failures_target_cost_and_basin():
    html = report({"sgd": SGD, "adamw": [value - 9 for value in BETTER[:-1]] + [None]})
    sgd, adamw = rows(html, "ranking")
    assert sgd[0] == "SGD"
    assert re.match(r"90\.47\s+90\.\d\d to 90\.\d\d", re.sub(r"\s+", " ", sgd[1]))
    assert "without the failed" in adamw[1]
    assert re.sub(r"\s+", " ", adamw[3]) == "0 of 3 1 of 8"
    assert sgd[6] == "8\N{NO-BREAK SPACE}bytes"
    assert "of 4.0" in sgd[7]


def test_pairs_are_in_words_with_both_p_values():
    html = report({"sgd": SGD, "adamw": BETTER, "adam": BETTER})
    found = {row[0]: row for row in rows(html, "pairs")}
    assert len(found) == 3
    assert any("equivalent within the margin" in row[5] for row in found.values())
    assert sum("surely beyond the margin" in row[5] for row in found.values()) == 2


def test_trials_are_numbered_like_the_records():
    made = study({"sgd": SGD, "adamw": BETTER[:-1] + [None]})
    found = rows(page(made), "trials")
    assert [int(row[0]) for row in found] == list(range(len(made.records)))
    assert [row[1] for row in found] == [record.trial.stage for record in made.records]
    assert found[-1][9] == "diverged: the training loss is nan at step 3"


def test_the_method_says_all_that_is_needed_to_repeat_it():
    html = report()
    for fact in (
        "thalweg compare scores",
        "10 minutes bought 3 trials",
        "4 were there before",
        "points &lt;b&gt;on&lt;/b&gt; a line &amp; noise",
        "searched from 10 trials",
        "sign flips",
        "arXiv 1910.05446",
        "a &amp; b",
    ):
        assert fact in html, fact


def test_how_to_repeat_a_run_is_said_where_that_is_possible():
    made = study({"sgd": SGD, "adamw": BETTER})
    assert "thalweg trial" in page(made)
    assert "thalweg trial" not in render(made, judge(made), replace(PROVENANCE, task=""))


def test_what_comes_from_a_workload_is_escaped():
    class Hostile(Scores):
        name = "<script>alert(1)</script>"
        metric = "<i>accuracy</i>"
        unit = "</script><b>"
        difference_unit = "<u>"

    hostile = Space("mine", 'mine."><img src=x>', (Axis("lr", 1e-3, 1.0),), source="<em>guess</em>")
    html = report({"sgd": SGD, "mine": BETTER}, workload=Hostile(), own=[hostile])
    for tag in ("<script>alert", "<i>", "<b>", "<u>", "<em>", "<img"):
        assert tag not in html, tag
    assert len(re.findall("</script>", html)) == len(re.findall("<script", html))


@pytest.mark.parametrize(
    ("tests", "tuning", "missing"),
    [
        ({"sgd": [None] * 6, "adamw": [None] * 6}, {"sgd": [None] * 2, "adamw": [None] * 2}, "curves"),
        ({"sgd": [None] * 6, "adamw": [1.0] * 6}, {"sgd": [None] * 2, "adamw": [1.0, 1.0]}, "lead"),
        ({"sgd": [None] * 6, "adamw": [None] * 6}, None, "curves"),
        ({"sgd": [1.0], "adamw": [1.0]}, {"sgd": [1.0], "adamw": [2.0]}, None),
        ({"sgd": [0.0] * 6, "adamw": [0.0] * 6}, {"sgd": [0.0] * 4, "adamw": [0.0] * 4}, None),
        ({"sgd": [1e9, -1e9], "adamw": [1e-9, 0.0]}, None, None),
    ],
)
@pytest.mark.parametrize("workload", [Scores(), Line()])
@pytest.mark.parametrize("margin", [0.0, 0.5, Margin(0.02, relative=True)])
def test_it_is_written_whatever_happened(tests, tuning, missing, workload, margin):
    html = report(tests, tuning=tuning, workload=workload, margin=margin)
    assert "</html>" in html
    assert missing not in pictures(html)
    assert "nan" not in re.sub(r"loss is nan|<script.*?</script>", "", html, flags=re.DOTALL).lower()


def test_it_is_written_wherever_a_study_is_cut_short():
    whole = study({"sgd": SGD[:3], "adamw": BETTER[:3]})
    for count in range(len(whole.records)):
        html = page(whole.holding(whole.records[:count]))
        assert "not finished" in html.lower()
        assert len(rows(html, "trials") if count else []) == count


def test_ten_optimizers_with_long_names_fit():
    own = [Space("mine", "package.of.many.modules.VeryLongOptimizer", (Axis("lr", 1e-4, 1.0),))]
    names = [*list(spaces.SPACES)[:8], "torch.optim.Adam", "mine"]
    ten = Study(Line(), Settings(4, 3, Margin(0.02, relative=True)), [spaces.find(n, own) for n in names])
    place = {name: number for number, name in enumerate(names)}
    made = complete(ten, lambda trial: 4 + trial.lr, lambda trial: 4 + 0.1 * place[trial.name])
    html = page(made)
    assert pictures(html) == PICTURES
    assert len(rows(html, "ranking")) == 10
    assert len(rows(html, "pairs")) == 45
    titles = re.findall(r"<h3>(.*?)</h3>", html)
    assert max(map(len, titles)) < 140


def test_a_summary_has_no_trials_and_no_method():
    made = study({"sgd": SGD, "adamw": BETTER})
    html = LIBRARY.sub("", summary(made, judge(made)))
    assert pictures(html) == PICTURES
    assert 'id="ranking"' in html
    assert 'id="trials"' not in html
    assert "How it was measured" not in html
