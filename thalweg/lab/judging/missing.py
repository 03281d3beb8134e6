"""What was not measured beside the final runs, and why not, in words."""

import re
from collections.abc import Sequence

from thalweg.lab.judging.levels import whys_of
from thalweg.lab.judging.wording import MOST_NAMED, counted, few, listed
from thalweg.lab.study.study import Study
from thalweg.lab.study.why import Part

PARTS: dict[Part, str] = {
    "curvature": "Sharpness and trace",
    "bound": "A bound of stability",
    "noise": "The noise scale",
    "updates": "The size of steps",
}


def missing(study: Study) -> list[str]:
    """What was not measured, and why not, a line each; reasons that differ in figures alone are one."""
    lines = []
    for part, title in PARTS.items():
        kinds: dict[str, list[tuple[str, int, int, str]]] = {}
        for space in study.spaces:
            whys = whys_of(study, space).values()
            told = [why.missing[part] for why in whys if part in why.missing]
            if told:
                reason = told[-1].removesuffix(f" for {space.optimizer.rpartition('.')[2]}")
                found = (space.title, len(told), len(whys), reason)
                kinds.setdefault(_NUMBER.sub("#", reason), []).append(found)
        lines += [f"{title}: not of {_whose(found)}, as {_reason(found)}." for found in kinds.values()]
    return lines


_NUMBER = re.compile(r"\d[\d,]*(\.\d+)?(e[+-]?\d+)?")


def _whose(found: Sequence[tuple[str, int, int, str]]) -> str:
    """Of which optimizers, and on how many of their seeds."""
    if len(found) <= MOST_NAMED:
        of_each = ((name, "" if n == of else f" on {n} of {counted(of, 'seed')}") for name, n, of, _ in found)
        return listed([name + share for name, share in of_each])
    least, most = min(n for _, n, _, _ in found), max(n for _, n, _, _ in found)
    names, seeds = few([name for name, *_ in found]), max(of for _, _, of, _ in found)
    ends = f"{least} to {most}" if least < most else f"{most}"
    return names if least == seeds else f"{names} on {ends} of {counted(seeds, 'seed')}"


def _reason(found: Sequence[tuple[str, int, int, str]]) -> str:
    """The reason that they have in common; a figure that differs from one to the other as a range."""
    figures = [[match.group() for match in _NUMBER.finditer(reason)] for *_, reason in found]
    columns = iter([sorted(set(column), key=_figure) for column in zip(*figures, strict=True)])
    return _NUMBER.sub(lambda _: " to ".join(_ends_of(next(columns))), found[0][-1])


def _figure(text: str) -> float:
    return float(text.replace(",", ""))


def _ends_of(column: Sequence[str]) -> Sequence[str]:
    return column if len(column) == 1 else (column[0], column[-1])
