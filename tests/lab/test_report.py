import re
import shutil
import subprocess
from datetime import UTC, datetime

import pytest
from samples import Line, Scores, study

from thalweg.lab import figures, results
from thalweg.lab.report import render
from thalweg.lab.verdict import judge

SGD = [90.0, 90.5, 91.0, 90.2, 90.7, 90.4, 90.1, 90.9]
BETTER = [value + 1 for value in SGD]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def report(tests=None, **more) -> str:
    made = study(tests or {"sgd": SGD, "adamw": BETTER}, **more)
    provenance = results.Provenance(datetime(2026, 1, 2, tzinfo=UTC), 60, 2, {"torch": "2"})
    return render(made, judge(made), provenance)


def without_plotly(html: str) -> str:
    """The page without the one long script that is the library."""
    return re.sub(r"<script>.{1000000,}?</script>", "", html, flags=re.DOTALL)


def test_it_says_the_verdict_and_the_line_to_paste():
    html = without_plotly(report())
    assert "<h1>AdamW wins</h1>" in html
    assert "1.00 points ahead of SGD (95 % interval 1.00 to 1.00)" in html
    assert "thalweg.AdamW(model.parameters(), lr=0.002)" in html


def test_it_loads_nothing():
    html = without_plotly(report())
    assert len(html) < 500_000
    assert not re.search(r"""(src|href)\s*=|@import|url\(""", html)


def test_it_holds_the_library_once_and_three_pictures():
    html = report()
    assert len(re.findall(r"<script>.{1000000,}?</script>", html, flags=re.DOTALL)) == 1
    assert re.findall(r'id="(picture-\d)"', html) == ["picture-0", "picture-1", "picture-2"]


def test_what_comes_from_a_workload_is_escaped():
    class Hostile(Scores):
        name = "<script>alert(1)</script>"
        metric = "<i>accuracy</i>"
        unit = "</script><b>"

    html = without_plotly(report(workload=Hostile()))
    assert "<script>alert" not in html
    assert "<i>" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;on&lt;/b&gt; a line &amp; noise" in html


@pytest.mark.parametrize(
    ("tests", "tuning"),
    [
        ({"sgd": [None] * 6, "adamw": [None] * 6}, {"sgd": [None] * 2, "adamw": [None] * 2}),
        ({"sgd": [None] * 6, "adamw": [1.0] * 6}, {"sgd": [None] * 2, "adamw": [1.0, 1.0]}),
        ({"sgd": [1.0], "adamw": [1.0]}, None),
    ],
)
def test_it_is_written_whatever_happened(tests, tuning):
    assert "</html>" in report(tests, tuning=tuning)


def test_titles_say_the_finding():
    made = study(
        {"sgd": SGD, "adamw": [*BETTER[:-1], 0.0]},
        tuning={"sgd": [10.0, 90.0, 20.0], "adamw": [89.9, 90.0, 20.0]},
    )
    curves, rates, seeds = figures.draw(made, judge(made))
    assert curves.title.startswith("SGD and AdamW are first to reach 49.50 %: after 40 of 40")
    assert rates.title == ("AdamW forgives the most: 2 of 3 learning rates come within 1 point of its best")
    assert seeds.title == "Of 8 seeds, SGD is ahead of AdamW on 1"


def test_titles_follow_a_metric_that_should_be_low():
    made = study({"sgd": SGD, "adamw": BETTER}, workload=Line(), margin=0.01)
    curves, _, seeds = figures.draw(made, judge(made))
    assert curves.title.startswith("SGD and AdamW are first to reach 50.010: after 0 of 40")
    assert seeds.title == "Of 8 seeds, SGD is ahead of AdamW on 8"


def test_an_optimizer_has_one_colour_throughout():
    made = study({"sgd": SGD, "adamw": BETTER})
    for space in made.spaces:
        for figure in figures.draw(made, judge(made)):
            named = [t for t in figure.plot.data if space.optimizer in str(t.hovertemplate)]
            colours = {t.line.color or t.marker.color for t in named}
            assert colours == {figures.colour(made, space)}


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_draws_the_pictures(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(report(), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    flags += " --disable-background-networking --disable-component-update --disable-sync"
    page = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"]
        + ["--virtual-time-budget=5000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    drawn = re.findall(r'id="picture-(\d)"[^>]*>.*?class="main-svg"', page, flags=re.DOTALL)
    assert drawn == ["0", "1", "2"]
    assert page.count('class="scatterlayer') == 3
