"""What to use, then: what follows from the verdicts, by rules that were written before there were any.

That of G2 is the exception: it was forgotten, and written when there was a verdict. A claim that is
inconclusive or was not run says nothing here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thalweg.lab.judging.wording import listed
from thalweg.lab.lesson import wording
from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page.marks import link
from thalweg.lab.lesson.page.remedies import named
from thalweg.lab.showing.report.document import prose


@dataclass(frozen=True)
class Rule:
    """What follows from a claim.

    Attributes:
        topic: where it is of use.
        claim: its name.
        supported: what follows if it is supported.
        refuted: what follows if its effect is smaller than the margin, or the other way round.
        reversed: what follows if its opposite holds by more than the margin; `refuted` where empty.
    """

    topic: str
    claim: str
    supported: str
    refuted: str
    reversed: str = ""


RULES = (
    Rule(
        "Images",
        "E1",
        "Take SGD with momentum: with each at its best rate it was ahead of Adam and AdamW.",
        "SGD with momentum has no lead over the better of Adam and AdamW that is worth its margin.",
        "Take Adam or AdamW: the better of them was ahead of SGD with momentum.",
    ),
    Rule(
        "Images",
        "A-1",
        "At equal training loss, what SGD with momentum finds does better on test than what Adam finds.",
        "At equal training loss, Adam does no worse on test than SGD with momentum by more than the margin.",
        "At equal training loss, what Adam finds does better on test than what SGD with momentum finds.",
    ),
    Rule(
        "Images",
        "R-3",
        "Do not take RMSprop: even at its best rate it was behind.",
        "RMSprop is not behind the better of SGD with momentum and Adam by more than the margin.",
    ),
    Rule(
        "Images",
        "S+2",
        "Where the test error counts, prefer small batches: at equal training loss it was lower.",
        "Small batches are no end in themselves: at equal training loss, a full batch did as well on test.",
        "Large batches did better on test at equal training loss.",
    ),
    Rule(
        "Text",
        "E2",
        "Take Adam for transformers: with each at its best rate it was ahead of SGD with momentum.",
        "Adam has no lead over SGD with momentum that is worth its margin.",
    ),
    Rule(
        "Sequences",
        "E3",
        "Take RMSprop for recurrent networks on speech.",
        "RMSprop has no lead on speech that is worth its margin.",
        "Take the better of SGD with momentum and Adam on speech: it was ahead of RMSprop.",
    ),
    Rule(
        "Sequences",
        "R+2",
        "On sequences and in reinforcement learning, prefer RMSprop to clipped SGD with momentum.",
        "Sequences and reinforcement learning are no reason for RMSprop over clipped SGD with momentum.",
        "On sequences and in reinforcement learning, prefer clipped SGD with momentum to RMSprop.",
    ),
    Rule(
        "Rare ids",
        "A+3",
        "Take Adam where frequencies follow Zipf's law: its lead over SGD is larger there.",
        "Rare ids do not widen Adam's lead over SGD with momentum by more than the margin.",
    ),
    Rule(
        "Rare ids",
        "S-3",
        "SGD with momentum learns the rarest ids worse than Adam.",
        "SGD with momentum learns the rarest ids no worse than Adam by more than the margin.",
    ),
    Rule(
        "Noise and drift",
        "A+2",
        "Where single batches are far off, prefer Adam to SGD with momentum, even with clipping.",
        "Where single batches are far off, SGD with momentum does as well as Adam if it clips.",
        "Where single batches are far off, prefer SGD with momentum and clipping to Adam.",
    ),
    Rule(
        "Noise and drift",
        "R+3",
        "In a stream that changes, prefer RMSprop to Adam at equal half-lives.",
        "A stream that changes is no reason for RMSprop over Adam at equal half-lives.",
        "In a stream that changes, prefer Adam to RMSprop at equal half-lives.",
    ),
    Rule(
        "Layers of different scale",
        "S-2",
        "Prefer Adam to SGD with momentum where scales differ: its lead grows there.",
        "Scales that differ do not widen Adam's lead over SGD with momentum by more than the margin.",
    ),
    Rule(
        "Tuning",
        "A+1",
        "With two trials only, take Adam rather than SGD with momentum.",
        "Few trials are no reason for Adam: the best of two is no better than with SGD with momentum.",
        "With two trials only, take SGD with momentum rather than Adam.",
    ),
    Rule(
        "Tuning",
        "S-1",
        "Plan more trials for the rate of SGD with momentum than for AdamW's: fewer rates are good.",
        "The rate of SGD with momentum forgives as much as AdamW's.",
    ),
    Rule(
        "Tuning",
        "A-3",
        "Tune Adam's betas and eps too.",
        "Leave Adam's betas and eps alone: the best tried is less than the margin above the worst.",
    ),
    Rule(
        "Tuning",
        "R-1",
        "Tune the decay rate of RMSprop too.",
        "Leave RMSprop's decay rate alone: the best tried is less than the margin above the worst.",
    ),
    Rule(
        "Tuning",
        "G1",
        "Choose the optimizer first: more than half of what separates runs is its doing.",
        "Rate and schedule matter too: less than half of what separates runs is the optimizer's.",
    ),
    Rule(
        "Minima",
        "G2",
        "Small batches leave shallow minima where full ones stay; whether for better ones was not asked.",
        "Small batches leave shallow minima no more often than full ones by more than the margin.",
    ),
    Rule(
        "Momentum",
        "S+3",
        "Give SGD momentum in large batches: it needs far fewer steps.",
        "Momentum saves SGD fewer steps than the margin asks for, once each has its own rate.",
    ),
    Rule(
        "Momentum",
        "R-2",
        "Give RMSprop momentum: it needs far fewer steps.",
        "Momentum saves RMSprop fewer steps than the margin asks for, once each has its own rate.",
    ),
    Rule(
        "First steps",
        "R+1",
        "RMSprop's first steps are under control: at most twice its later ones.",
        "Do not count on small first steps with RMSprop: they are more than twice its later ones.",
    ),
    Rule("Memory", "S+1", "Where memory is short, SGD keeps the least.", "Memory is no reason for SGD."),
    Rule(
        "Memory", "A-2", "Count on two numbers a parameter with Adam.", "Adam's state is smaller than said."
    ),
)
"""In the order of the page."""


def advice(known: Sequence[Known]) -> str:
    """All that follows, by topic, and what nothing follows from."""
    by_name = {one.claim.name: one for one in known}
    topics: dict[str, list[str]] = {}
    for rule in RULES:
        one = by_name.get(rule.claim)
        text = follows(rule, one) if one is not None else ""
        if one is not None and text:
            topics.setdefault(rule.topic, []).append(_because(text, one))
    if helping := list(_remedies(known)):
        topics["Remedies"] = helping
    items = "".join(
        f"<dt>{topic}</dt><dd>{''.join(f'<p>{text}</p>' for text in texts)}</dd>"
        for topic, texts in topics.items()
    )
    return (f'<dl class="advice">{items}</dl>' if items else "") + _silent(known)


def follows(rule: Rule, one: Known) -> str:
    """What follows from a verdict; nothing from one that is open."""
    verdict, scale = one.verdict, one.claim.scale
    if verdict.kind == "supported":
        return rule.supported
    if verdict.kind != "refuted":
        return ""
    if scale is not None and verdict.high < -abs(scale.margin) and rule.reversed:
        return rule.reversed
    return rule.refuted


def _because(text: str, one: Known) -> str:
    found = wording.finding(one)
    return f'{prose(text)} <span class="because">{link(one.claim.name)}: {prose(found)}</span>'


def _remedies(known: Sequence[Known]) -> Iterator[str]:
    """Those that close some of a gap, with certainty, complaint by complaint."""
    found: dict[str, list[str]] = {}
    for one, remedy in named(known):
        closed = one.closed(remedy)
        if closed is not None and closed.share is not None and closed.low > 0:
            found.setdefault(one.claim.name, []).append(f"{remedy.name} {wording.closing(closed)}")
    for claim, texts in found.items():
        yield f"Against {link(claim)}: {prose(listed(texts))}."


def _silent(known: Sequence[Known]) -> str:
    """Names what nothing follows from."""
    kinds = {"inconclusive": "those that are inconclusive", "not run": "those that have not been run"}
    parts = []
    for kind, words in kinds.items():
        links = [link(one.claim.name) for one in known if one.verdict.kind == kind]
        if links:
            parts.append(f"{words} ({', '.join(links)})")
    return f'<p class="aside">Nothing follows from {" or ".join(parts)}.</p>' if parts else ""
