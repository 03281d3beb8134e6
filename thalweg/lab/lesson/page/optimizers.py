"""The three optimizers: the maths as the code has it, and what the lesson says for and against each."""

import inspect
from collections.abc import Sequence
from html import escape

from thalweg.algorithms import adam, rmsprop, sgd
from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page.claims import article
from thalweg.lab.lesson.page.terms import Formula, formula
from thalweg.lab.lesson.page.typeset import symbols, typeset
from thalweg.lab.showing.report.document import section
from thalweg.rule import Rule

OPTIMIZERS: dict[str, tuple[Rule, dict[str, float]]] = {
    "SGD": (sgd.RULE, {"dampening": 0.0}),
    "Adam": (adam.RULE, {}),
    "RMSprop": (rmsprop.RULE, {"momentum": 0.0}),
}
"""Each rule, and what is left out of its formula."""

NOTE = (
    "The formula is not written by hand: it is the function beside it, run on symbols in place of numbers, "
    "as it steps from the second step on."
)


def optimizer(name: str, known: Sequence[Known]) -> str:
    """The section of one optimizer."""
    rule, options = OPTIMIZERS[name]
    ours = [one for one in known if one.claim.subject == name]
    good = [article(one) for one in ours if "+" in one.claim.name]
    bad = [article(one) for one in ours if "+" not in one.claim.name]
    return section(
        name.lower(),
        name,
        maths(rule, formula(rule, **options)),
        '<p class="side">What the lesson says for it</p>' if good else "",
        *good,
        '<p class="side">What the lesson says against it</p>' if bad else "",
        *bad,
    )


def maths(rule: Rule, made: Formula) -> str:
    """The rule typeset, with the key to its letters, and as it stands in the code."""
    key = ", ".join(f"{letter} <code>{escape(name)}</code>" for name, letter in _key(made).items())
    code = escape(source(rule))
    return (
        f'<div class="maths"><div>{typeset(made)}<p class="aside">{key}. {escape(NOTE)}</p></div>'
        f"<pre><code>{code}</code></pre></div>"
    )


def _key(made: Formula) -> dict[str, str]:
    """Letters by the names that users know."""
    found = {name.replace(".0", "[0]").replace(".1", "[1]"): letter for name, letter in symbols(made).items()}
    return {"gradient": "<math><mi>g</mi></math>", **found}


def source(rule: Rule) -> str:
    """The function as it stands in the code, without what its first line says to tools."""
    first, *others = inspect.getsource(rule.update).rstrip().split("\n")
    return "\n".join([first.split("  #")[0], *others])
