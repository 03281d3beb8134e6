"""Where the numbers come from: runs, machines, days, and what was changed with results in sight."""

from collections.abc import Mapping, Sequence

from thalweg.lab.lesson.keeping import Kept
from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.making import seconds
from thalweg.lab.lesson.page.marks import link
from thalweg.lab.showing.report.document import prose
from thalweg.lab.showing.report.table import Cell, Line, table


def files(known: Sequence[Known]) -> dict[str, Kept]:
    """The files of all claims, each once."""
    return {name: kept for one in known for name, kept in one.kept.items()}


def runs(known: Sequence[Known]) -> str:
    """A row for each experiment; nothing where nothing was run."""
    found = files(known)
    users = {name: [one.claim.name for one in known if name in one.kept] for name in found}
    head = [
        *(Cell(text, kind="text") for text in ("Experiment", "Task", "For")),
        *map(Cell, ("Runs", "Failed", "Hours")),
    ]
    lines = [_line(name, kept, users[name]) for name, kept in found.items()]
    return table("runs", "All experiments", head, [*lines, _total(found)]) if lines else ""


def _line(name: str, kept: Kept, users: Sequence[str]) -> Line:
    return Line(
        [
            Cell(prose(name), kind="text"),
            Cell(prose(kept.workload["title"] or kept.workload["name"]), kind="text wrap"),
            Cell(" ".join(map(link, users)), kind="text"),
            *_counts([kept]),
        ]
    )


def _total(found: Mapping[str, Kept]) -> Line:
    return Line([Cell("all", kind="text"), Cell(""), Cell(""), *_counts(list(found.values()))], "leader")


def _counts(kept: Sequence[Kept]) -> list[Cell]:
    records = [record for one in kept for record in one.records if not record.lost]
    failed = sum(record.failure is not None for record in records)
    return [Cell(f"{len(records):,}"), Cell(f"{failed:,}"), Cell(hours(seconds(records)))]


def hours(value: float) -> str:
    """Seconds as hours, with two digits that count."""
    return f"{value / 3600:.1f}" if value >= 3600 else f"{value / 3600:.2g}"


def sittings(known: Sequence[Known]) -> str:
    """Days, versions and machines; nothing where nothing was run."""
    all_ = [sitting for kept in files(known).values() for sitting in kept.sittings]
    if not all_:
        return ""
    days = sorted(sitting["when"] for sitting in all_)
    first, last = days[0][:10], days[-1][:10]
    facts = {"Run": first if first == last else f"{first} to {last}"}
    for name in dict.fromkeys(key for sitting in all_ for key in sitting if key not in ("when", "runs")):
        # Where several were used, all are named.
        facts[name.capitalize()] = "; ".join(dict.fromkeys(s[name] for s in all_ if name in s))
    return f"<dl>{''.join(f'<dt>{prose(t)}</dt><dd>{prose(d)}</dd>' for t, d in facts.items())}</dl>"


def changes(known: Sequence[Known]) -> str:
    """What was altered after a result had been seen."""
    changed = [one.claim for one in known if one.claim.changed]
    if not changed:
        return "<p>No endpoint, arm or margin was changed after a result had been seen.</p>"
    return f"<ul>{''.join(f'<li>{link(claim.name)} {prose(claim.changed)}</li>' for claim in changed)}</ul>"
