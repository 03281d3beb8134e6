"""The page of `thalweg sensitivity`: the picture, a line for each point, and how it was measured."""

from html import escape

from thalweg.lab.showing.report import method
from thalweg.lab.showing.report.document import definitions, document, pictures, prose, section
from thalweg.lab.showing.report.table import Cell, Line, table
from thalweg.lab.sweeping.sensitivity.answer import Answer
from thalweg.lab.sweeping.sensitivity.picture import draw


def render(answer: Answer) -> str:
    """The page as text; everything that comes from a workload is escaped."""
    head, *lines = ([Cell(escape(text)) for text in line] for line in answer.cells())
    doubts = "".join(f"<li>{prose(doubt.text)}</li>" for doubt in answer.provenance.warnings)
    return document(
        answer.provenance.command,
        answer.headline,
        answer.sentence,
        answer.conditions,
        [
            section("pictures", "In a picture", pictures([draw(answer)])),
            section("points", "In numbers", table("points", "All points", head, map(Line, lines))),
            section("method", "How it was measured", *_method(answer)),
        ],
        style="#points tbody th { white-space: nowrap; }",
        notes=f'<ul class="notes warnings">{doubts}</ul>' if doubts else "",
    )


def _method(answer: Answer) -> list[str]:
    settings = answer.study.settings
    return [
        "<h3>The task</h3>",
        definitions(method.task(answer.study)),
        "<h3>The runs</h3>",
        definitions(
            {
                "1. Tune": f"{settings.trials} quasi-random learning rates at each point, the same for all, "
                "on one seed; where the best of some point lies on the border, the range grows by a decade "
                "and every point gets as many more trials",
                "2. Repeat": f"the best rate of each point on {settings.seeds} fresh seeds, the same for "
                "all; at the defaults, all rates that were tried",
                "Range": "the best mean less the worst. Best and worst are named in tuning: the interval "
                "begins with the lower end of that of their paired difference on fresh seeds. It ends with "
                "the largest upper end of all pairs. Each misses the true range with 2.5 % at most",
                "Intervals": "Student's t, of four seeds and more widened for skewness; paired by seed where "
                "two points are compared",
                "Failures": "a run that failed counts as the worst outcome",
                "Margin": answer.numbers.margin,
            }
        ),
        "<h3>The run</h3>",
        definitions(method.run(answer.study, answer.provenance)),
    ]
