import math

import pytest
from samples import Line, record, study

from thalweg.lab.judging import findings
from thalweg.lab.judging.quantities import amount, hyperparameters, size
from thalweg.lab.judging.verdict import judge
from thalweg.lab.showing import figures
from thalweg.lab.showing.figures.look import COLOURS, DARK, look, thinned

SGD = [90.0, 90.5, 91.0, 90.2, 90.7, 90.4, 90.1, 90.9]
BETTER = [value + 1 for value in SGD]


def drawn(made):
    return {figure.name: figure for figure in figures.draw(made, judge(made))}


def named(plot, title):
    return [trace for trace in plot.data if title in str(trace.hovertemplate)]


def test_titles_say_the_finding():
    made = study(
        {"sgd": SGD, "adamw": BETTER},
        tuning={"sgd": [10.0, 90.0, 20.0], "adamw": [89.9, 90.0, 20.0]},
    )
    titles = {name: figure.title for name, figure in drawn(made).items()}
    assert titles["curves"] == "AdamW is ahead on validation after a tenth of the steps and at the end"
    assert titles["lead"] == "AdamW is surely ahead of SGD by more than the margin"
    assert titles["seeds"] == "Seed by seed, AdamW is ahead of SGD on 8 of 8"
    assert titles["rates"] == (
        "Decades of learning rate within 0.5 points of its best: AdamW 2.0, SGD 1.3"
    ), "two trials of three and one say little"
    assert (
        titles["best_of_k"] == "From one trial to 3, the best improves: AdamW 23.37 points, SGD 50.00 points"
    )
    assert titles["target"] == "All reach 89.97 % after 40\N{NO-BREAK SPACE}steps"
    assert titles["memory"] == "Every optimizer keeps 0.7× the size of the parameters"  # noqa: RUF001


def test_titles_follow_a_metric_that_should_be_low():
    titles = {
        name: figure.title
        for name, figure in drawn(study({"sgd": SGD, "adamw": BETTER}, workload=Line(), margin=0.01)).items()
    }
    assert titles["curves"] == "SGD is ahead on validation after a tenth of the steps and at the end"
    assert titles["seeds"] == "Seed by seed, SGD is ahead of AdamW on 8 of 8"


def test_a_title_names_a_winner_only_where_an_interval_does():
    wide, narrow = [90.0] * 16, [10.0] * 15 + [90.0]
    made = study({"sgd": SGD, "adamw": SGD}, tuning={"sgd": narrow[::-1][1:] + [90.0], "adamw": wide})
    assert drawn(made)["rates"].title.startswith("AdamW forgives most: 3.")
    noise = [0.3, -0.2, 0.1, -0.3, 0.25, -0.1, 0.2, -0.15]
    close = study({"sgd": SGD, "adamw": [a + b for a, b in zip(SGD, noise, strict=True)]})
    assert drawn(close)["curves"].title.startswith("No optimizer is surely ahead on validation")


def test_bands_are_intervals_of_the_mean():
    curves = drawn(study({"sgd": SGD, "adamw": BETTER}))["curves"]
    assert "95 % interval" in curves.caption
    assert "80 %" not in curves.caption


def test_equivalence_is_not_called_a_lead():
    titles = {name: f.title for name, f in drawn(study({"sgd": SGD, "adamw": SGD})).items()}
    assert titles["curves"].startswith("No optimizer is surely ahead")
    assert titles["lead"] == "AdamW is within the margin of SGD"
    assert titles["speed"].startswith("A step of every optimizer takes")


def test_an_optimizer_has_one_colour_throughout():
    made = study({"sgd": SGD, "adamw": BETTER})
    for space in made.spaces:
        colour = look(made, space).colour
        for figure in figures.draw(made, judge(made)):
            for plot in figure.views.values():
                for trace in named(plot, f"{space.title},"):
                    assert {trace.marker.color, trace.line.color if "line" in trace else None} <= {
                        colour,
                        None,
                    }


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_from_the_page():
    assert len(set(COLOURS)) == len(set(DARK)) == len(COLOURS) == len(DARK)
    assert min(contrast(colour, "#FFFFFF") for colour in COLOURS) > 2.1
    assert min(contrast(colour, "#14171A") for colour in DARK) > 4.5


def test_ten_optimizers_all_look_different():
    names = ["sgd", "rmsprop", "adam", "adamw", "adagrad", "adadelta", "adamax", "nadam", "radam", "lion"]
    made = study(dict.fromkeys(names, SGD[:2]))
    assert len({look(made, space) for space in made.spaces}) == 10
    assert len({look(made, space).marker for space in made.spaces}) == 10


def test_trials_are_marked_by_what_became_of_them():
    made = study(
        {"sgd": SGD, "adamw": SGD}, tuning={"sgd": [89.8, 90.0, 10.0, None], "adamw": [90.0, 1, 1, 1]}
    )
    (sgd,) = named(drawn(made)["rates"].views[""], "SGD,")
    symbols = dict(zip((row[1] for row in sgd.customdata), sgd.marker.symbol, strict=True))
    assert symbols["89.80 %"] == "circle"
    assert symbols["10.00 %"] == "triangle-down-open"
    assert symbols["the training loss is nan at step 3"] == "x-thin-open"
    assert {"diamond-open", "triangle-down-open"} & set(sgd.marker.symbol)
    shades = [shape for shape in drawn(made)["rates"].views[""].layout.shapes if "136" in shape.fillcolor]
    assert len(shades) >= 1  # AdamW's best rate was the lowest of its range


def test_curves_are_against_steps_and_against_seconds():
    views = drawn(study({"sgd": SGD, "adamw": BETTER}))["curves"].views
    assert list(views) == ["steps", "seconds"]
    steps, seconds = (named(plot, "SGD,")[0] for plot in views.values())
    assert steps.x[-1] == 40
    assert seconds.x[-1] == 1.0
    assert steps.y == seconds.y


def test_runs_that_never_reach_the_target_are_said():
    class Far(Line):
        higher_is_better = True
        target = 90.6

    figure = drawn(study({"sgd": SGD, "adamw": BETTER}, workload=Far()))["target"]
    assert "SGD 5 of 8" in figure.caption
    assert "5 of 8 never" in figure.views["steps"].layout.yaxis.ticktext[1]


def test_plots_alone_bear_their_title():
    for figure in figures.draw(*(lambda made: (made, judge(made)))(study({"sgd": SGD, "adamw": BETTER}))):
        for name, plot in figure.plots().items():
            assert name.startswith(figure.name)
            assert plot.layout.title.text


def test_long_curves_are_thinned_to_their_ends():
    for count in (0, 1, 2, 150, 151, 1000, 12_345):
        places = thinned(count)
        assert len(places) <= 152
        assert not count or (places[0], places[-1]) == (0, count - 1)


def test_data_are_rounded():
    made = study({"sgd": [100 / 3] * 8, "adamw": [200 / 3] * 8})
    (sgd, *_) = named(drawn(made)["seeds"].views[""], "SGD,")
    assert sgd.x[0] == 33.3333


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.05812, "0.0581"), (0.0000123, "0.000012"), (66, "66"), (1240.4, "1,240")]
)
def test_amount(value, text):
    assert amount(value) == text


def test_sizes_and_hyperparameters():
    assert size(0) == "0\N{NO-BREAK SPACE}bytes"
    assert size(48_720) == "48.7\N{NO-BREAK SPACE}kB"
    assert hyperparameters({"lr": 0.0123456, "betas": (0.9, 0.99912), "amsgrad": True}) == (
        "lr=0.01235, betas=(0.9, 0.9991), amsgrad=True"
    )


def test_nothing_is_drawn_of_nothing():
    whole = study({"sgd": SGD, "adamw": BETTER})
    assert drawn(whole.holding([])) == {}
    only_tuning = whole.holding([r for r in whole.records if r.trial.stage == "tune"])
    assert list(drawn(only_tuning)) == ["rates", "best_of_k"]
    assert math.isfinite(record(whole.records[0].trial, 1.0).validation.metric)
    assert findings.ahead(whole.holding([]), judge(whole.holding([]))) == findings.NONE_FINISHED
