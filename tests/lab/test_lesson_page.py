"""The page of the lesson says what its records tell, and nothing else."""

import math
import random
import re
from dataclasses import replace

import pytest
from lessons import write
from typer.testing import CliRunner

from thalweg.cli.app import made
from thalweg.lab.lesson import experiments, keeping, known
from thalweg.lab.lesson.claim import Claim, Counted, Line, told
from thalweg.lab.lesson.claims import catalogue
from thalweg.lab.lesson.judging import Verdict
from thalweg.lab.lesson.known import look
from thalweg.lab.lesson.page import render
from thalweg.lab.lesson.page.advice import RULES, advice, follows
from thalweg.lab.lesson.page.claims import figures
from thalweg.lab.lesson.page.endpoint import endpoint
from thalweg.lab.lesson.page.marks import anchor
from thalweg.lab.lesson.scale import FACTOR, POINTS
from thalweg.lab.lesson.wording import closing, finding

LEVELS = {"sgd-momentum": 90.0, "adam": 88.0, "adamw": 88.5, "rmsprop": 86.0, "rmsprop-vision": 88.8}
LIBRARY = re.compile(r'<script type="text/plain" id="library".*?</script>', re.DOTALL)

E1, E3, R3 = (catalogue()[name] for name in ("E1", "E3", "R-3"))


def by_arm(levels):
    """Metrics around the level of each arm, with luck that depends on the arm and the seed alone."""

    def metric(trial):
        luck = random.Random(f"{trial.name} {trial.seed}").gauss(0, 0.3)
        return levels[trial.name] + (luck if trial.stage == "final" else 0.0)

    return metric


@pytest.fixture
def claims(monkeypatch):
    """Replaces the lesson's claims by these."""

    def replaced(*claims: Claim) -> None:
        monkeypatch.setattr(known, "catalogue", lambda: {claim.name: claim for claim in claims})

    replaced(E1, E3, R3)
    return replaced


@pytest.fixture
def folder(tmp_path, claims):
    """Records in which E1 and R-3 are whole and E3 has none."""
    for claim in (E1, R3):
        for experiment in claim.needed.values():
            write(tmp_path, experiment, by_arm(LEVELS))
    return tmp_path


def page(folder) -> str:
    """The page without the library that draws its pictures."""
    return LIBRARY.sub("", render(look(folder)))


def plain(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html.replace("&nbsp;", " ").replace("&lt;", "<")).split())


def rows(html: str, table: str) -> list[list[str]]:
    body = re.search(rf'<table id="{table}".*?<tbody>(.*?)</tbody>', html, re.DOTALL).group(1)
    return [
        [plain(cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    ]


def test_every_number_of_the_table_is_what_look_says(folder):
    found = rows(page(folder), "claims")
    for one, (name, says, verdict, number) in zip(look(folder), found, strict=True):
        assert (name, says) == (one.claim.name, one.claim.says)
        assert one.verdict.kind in verdict
        if one.verdict.kind == "not run":
            assert number == "no number yet"
            continue
        scale, v = one.claim.scale, one.verdict
        for value in (v.mean, v.low, v.high, scale.margin):
            assert re.search(rf"(^| ){re.escape(scale.number(value))}\b", number)
        assert f"{v.seeds} seeds" in number


def test_a_changed_record_changes_the_numbers(folder):
    before = rows(page(folder), "claims")
    assert "2." in before[2][3]
    write(folder, experiments.FASHION_NORM, by_arm(LEVELS | {"rmsprop": 80.0}))
    after = rows(page(folder), "claims")
    assert after[0] == before[0], "RMSprop has no part in E1"
    assert after[2][3] != before[2][3]
    mean = look(folder)[2].verdict.mean
    assert mean == pytest.approx(10, abs=0.5)
    assert after[2][3].startswith(f"{mean:.2f} points")
    assert plain(page(folder)).count(f"{mean:.2f} points") >= 4, "table, advice, finding, picture"


def test_the_headline_counts_the_verdicts(folder):
    html = page(folder)
    kinds = [one.verdict.kind for one in look(folder)]
    assert kinds == ["supported", "not run", "supported"]
    assert "<h1>Of 3 things said of SGD, Adam and RMSprop, 2 hold</h1>" in html
    assert "2 supported and 1 not run yet." in html


def test_every_link_leads_somewhere_and_nothing_is_loaded(folder):
    html = page(folder)
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert targets <= set(re.findall(r'id="([^"]+)"', html))
    assert {anchor(one.claim.name) for one in look(folder)} <= targets
    assert not re.search(r"""src\s*=|href="[^#]|@import|url\(""", html)
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_anchors_differ():
    assert [anchor(name) for name in ("S+1", "S-1", "G1")] == ["s-plus-1", "s-minus-1", "g1"]


def test_it_is_small(folder):
    assert len(render(look(folder)).encode()) < 4_000_000
    assert len(page(folder)) < 200_000


def test_remedies_are_what_known_says(folder):
    one = look(folder)[2]
    (remedy,) = R3.remedies
    closed = one.closed(remedy)
    ((complaint, name, without, remedied, rival, share),) = rows(page(folder), "remedies")
    assert complaint.startswith("R-3")
    assert name.startswith("the vision recipe")
    assert [without, remedied] == [f"{closed.without:.2f}", f"{closed.remedied:.2f}"]
    assert rival.startswith(f"{closed.rival:.2f}")
    assert share.startswith(
        f"{100 * closed.share:.0f} % {100 * closed.low:.0f} % to {100 * closed.high:.0f} %"
    )
    assert plain(page(folder)).count(closing(closed)) == 2, "beside the claim, and among what to use"


def test_costs_lose_their_sign():
    from thalweg.lab.lesson.judging import closed
    from thalweg.lab.lesson.page.remedies import levels

    found = closed([-400.0, -402.0, -401.0], [-300.0, -301.0, -302.0], [-200.0, -203.0, -202.0])
    assert levels(found, POINTS) == levels(found, None) == ("401.00", "301.00", "201.67")
    assert levels(None, FACTOR)[0] == "\N{EN DASH}"
    found = closed(*([-math.log(steps + i) for i in range(8)] for steps in (1500, 640, 16.2)))
    assert levels(found, FACTOR)[0] == f"{math.prod(1500.0 + i for i in range(8)) ** (1 / 8):,.0f}" == "1,503"


def test_advice_follows_from_verdicts_alone(folder):
    text = plain(advice(look(folder)))
    assert "Take SGD with momentum: with each at its best rate it was ahead" in text
    assert finding(look(folder)[0]) in text
    assert "Do not take RMSprop" in text
    assert "speech" not in text
    assert text.endswith("Nothing follows from those that have not been run ( E3 ).")


RULE = next(rule for rule in RULES if rule.claim == "E1")


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict("supported", 2, 1, 3), RULE.supported),
        (Verdict("refuted", 0, -0.1, 0.1), RULE.refuted),
        (Verdict("refuted", -2, -3, -1), RULE.reversed),
        (Verdict("refuted", -0.5, -0.8, 0.2), RULE.refuted),
        (Verdict("inconclusive", 1, 0, 2), ""),
        (Verdict("not run"), ""),
    ],
)
def test_what_follows_from_a_verdict(folder, verdict, text):
    assert follows(RULE, replace(look(folder)[0], verdict=verdict)) == text


def test_rules_are_of_one_claim_each():
    assert len({rule.claim for rule in RULES}) == len(RULES)


EXACT = Claim(
    name="S+1",
    subject="SGD",
    says="SGD needs <little> memory.",
    endpoint="Bytes of state a parameter.",
    exact=lambda: Counted(True, "SGD keeps 0 bytes & Adam 8.", ("", "bytes"), (("SGD", "0"), ("Adam", "8"))),
)


def test_an_exact_claim_shows_what_was_counted(folder, claims):
    claims(EXACT)
    html = page(folder)
    assert rows(html, "claims")[0][2:] == ["✓ supported", "counted SGD keeps 0 bytes &amp; Adam 8."]
    assert "<little>" not in html
    assert rows(html.replace('<table id=""', '<table id="counted"'), "counted") == [
        ["SGD", "0"],
        ["Adam", "8"],
    ]
    assert html.count("<figure") == 0


def test_secondary_figures_and_changes_are_told(folder, claims):
    claims(replace(E1, secondary=lambda found: [Line("beside", "1.5 points")], changed="The margin was 1."))
    html = plain(page(folder))
    assert "beside: 1.5 points" in html
    assert html.count("The margin was 1.") == 2, "beside the claim, and at the end"
    claims(E1)
    assert "No endpoint, arm or margin was changed" in page(folder)


def test_the_picture_shows_every_seed_mean_and_margin(folder):
    one = look(folder)[0]
    (figure,) = figures(one)
    plot = figure.views[""]
    seeds, mean = plot.data
    assert sorted(seeds.x) == pytest.approx(sorted(one.values.values()), rel=1e-5)
    assert [seed for seed, _ in seeds.customdata] == list(one.values)
    assert mean.x[0] == pytest.approx(one.verdict.mean, rel=1e-5)
    assert mean.x[0] + mean.error_x.array[0] == pytest.approx(one.verdict.high, rel=1e-5)
    assert mean.x[0] - mean.error_x.arrayminus[0] == pytest.approx(one.verdict.low, rel=1e-5)
    zone, beyond, _ = plot.layout.shapes
    assert zone.x0 == plot.layout.xaxis.range[0] < 0, "no seed was behind: the zone is cut"
    assert (zone.x1, beyond.x0) == (0.5, 0.5)
    assert figure.title.startswith(f"{one.verdict.mean:.2f} points of accuracy ahead")


def test_ratios_have_round_factors_for_marks(folder):
    values = {seed: math.log(2 + seed / 12) for seed in range(12)}
    claim = replace(E1, scale=FACTOR)
    verdict = Verdict("supported", math.log(2.4), math.log(2.2), math.log(2.6), seeds=12)
    figure = endpoint(replace(look(folder)[0], claim=claim, values=values, verdict=verdict))
    ticks = figure.views[""].layout.xaxis
    assert set(ticks.ticktext) <= {"0.5", "0.7", "1", "1.5", "2", "3", "5"}
    assert ticks.tickvals[ticks.ticktext.index("2")] == pytest.approx(math.log(2), rel=1e-5)


def test_where_less_is_in_favour_the_axis_is_turned(folder):
    scale = replace(FACTOR, margin=-math.log(2), turned=True)
    values = {seed: -math.log(1.2 + seed / 100) for seed in range(12)}
    verdict = Verdict("supported", -math.log(1.26), -math.log(1.3), -math.log(1.2), seeds=12)
    one = replace(look(folder)[0], claim=replace(E1, scale=scale), values=values, verdict=verdict)
    figure = endpoint(one)
    plot = figure.views[""]
    low, high = plot.layout.xaxis.range
    assert low > math.log(2) > math.log(1.31) > high
    seeds, mean = plot.data
    assert seeds.x == pytest.approx([-value for value in values.values()], rel=1e-4)
    assert mean.x[0] + mean.error_x.array[0] == pytest.approx(math.log(1.3), rel=1e-4)
    assert figure.title.startswith("1.26 times")
    assert "margin of 2.00" in figure.caption


def test_a_turned_interval_is_said_from_low_to_high():
    scale = replace(FACTOR, margin=-math.log(2), turned=True)
    text = told("early", {seed: -math.log(1.5 + seed / 50) for seed in range(12)}, scale).text
    low, high = map(float, re.search(r"\((.*) to (.*)\)", text).groups())
    assert 1.5 <= low < high <= 1.72


def swept(trial):
    """A roof over the rates, which the highest rate falls off."""
    return None if trial.lr > 0.5 else 90 - 3 * abs(math.log10(trial.lr) + 2) + trial.seed % 3


def test_a_claim_on_rates_shows_the_metric_over_them(folder, claims):
    sweeps = tuple(experiments.SWEEPS[name] for name in ("digits", "speech"))
    claims(replace(E1, name="S-1", experiments=sweeps, values=lambda found: dict.fromkeys(range(12), 1.0)))
    for experiment in sweeps:
        write(folder, experiment, swept)
    (one,) = look(folder)
    _, figure = figures(one)
    line = next(trace for trace in next(iter(figure.views.values())).data if trace.name == "AdamW")
    at = line.x.index(0.001)
    runs = [r for r in one.found["sweep-digits"].records if r.trial.name == "adamw" and r.trial.lr == 0.001]
    assert line.y[at] == pytest.approx(sum(r.test.metric for r in runs) / 12, rel=1e-5)
    momentum = next(t for t in next(iter(figure.views.values())).data if t.name == "sgd-momentum")
    assert momentum.y[-1] is None, "a run diverged there"


def test_provenance_counts_the_runs(folder):
    html = page(folder)
    found = rows(html, "runs")
    kept = keeping.read(folder, experiments.FASHION_NORM)
    assert found[0][0] == "fashion-norm"
    assert found[0][2] == "E1 R-3"
    assert found[0][3] == f"{len(kept.records)}"
    assert found[0][5] == f"{len(kept.records) * 1.2 / 3600:.2g}"
    assert int(found[-1][3]) == sum(int(line[3]) for line in found[:-1])
    assert "<dt>Run</dt><dd>2026-01-01</dd>" in html


def test_nothing_is_known_without_records(tmp_path, claims):
    html = page(tmp_path)
    assert "none hold" in html
    assert [row[2] for row in rows(html, "claims")] == ["\N{EN DASH} not run"] * 3
    assert "No endpoint" in html
    assert 'id="runs"' not in html


def test_the_command_writes_it(folder):
    done = CliRunner().invoke(made(), ["lesson", "report", "--out", str(folder)])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"wrote {folder / name}" for name in ("index.html", "README.md", "verdicts.svg")
    ]
    assert LIBRARY.sub("", (folder / "index.html").read_text(encoding="utf-8")) == page(folder)
    done = CliRunner().invoke(made(), ["lesson", "report", "--quick", "--out", str(folder)])
    assert done.stdout.splitlines() == [f"wrote {folder / 'quick.html'}"]
    assert "A rehearsal" in (folder / "quick.html").read_text(encoding="utf-8")
