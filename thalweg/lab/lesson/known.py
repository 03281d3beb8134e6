"""What is known of the claims: from the files of records to verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thalweg.lab.lesson import judging, keeping
from thalweg.lab.lesson.claim import Claim, Counted, Remedy
from thalweg.lab.lesson.claims import catalogue
from thalweg.lab.lesson.experiment import Experiment
from thalweg.lab.lesson.found import Found
from thalweg.lab.lesson.judging import NOT_RUN, Closed, Verdict
from thalweg.lab.lesson.keeping import Kept
from thalweg.lab.lesson.making import missing


@dataclass(frozen=True)
class Known:
    """What is known of one claim.

    Attributes:
        claim: the claim.
        verdict: on its primary endpoint.
        counted: what was counted, of an exact claim.
        found: its experiments with the records there are; those that nothing is kept of are missing.
        kept: their files.
        values: the primary endpoint by seed.
        open: its experiments of which runs are missing.
    """

    claim: Claim
    verdict: Verdict
    counted: Counted | None
    found: Found
    kept: dict[str, Kept]
    values: dict[int, float]
    open: tuple[Experiment, ...]

    def closed(self, remedy: Remedy) -> Closed | None:
        """What a remedy closes of the gap; None while its runs are missing."""
        needed = (*self.claim.experiments, *remedy.experiments)
        if any(experiment in self.open for experiment in needed):
            return None
        trio = remedy.trio(self.found)
        if trio is None:
            return None
        seeds = [seed for seed in trio.without if seed in trio.remedied and seed in trio.rival]
        return judging.closed(
            *([part[seed] for seed in seeds] for part in (trio.without, trio.remedied, trio.rival))
        )


def look(folder: Path, claims: Sequence[Claim] | None = None, *, quick: bool = False) -> list[Known]:
    """What is known of these claims, or of all; p is adjusted for all claims that are measured.

    Raises:
        ValueError: a file of records is damaged.
    """
    every = list(catalogue().values())
    wanted = every if claims is None else claims
    files: dict[str, Kept | None] = {}
    # What is counted has no p, so it is counted only where it is asked for.
    found = [
        _gathered(folder, claim, files, quick) for claim in every if claim.exact is None or claim in wanted
    ]
    measured = [(one.claim, one.claim.scale) for one in found if one.claim.scale is not None]
    values = {one.claim.name: list(one.values.values()) for one in found}
    verdicts = judging.together(
        {claim.name: values[claim.name] for claim, _ in measured},
        {claim.name: scale.margin for claim, scale in measured},
    )
    return [
        replace(one, verdict=verdicts.get(one.claim.name, one.verdict))
        for one in found
        if one.claim in wanted
    ]


def _gathered(folder: Path, claim: Claim, files: dict[str, Kept | None], quick: bool) -> Known:
    """What is known before p is adjusted."""
    experiments = {n: e.shortened() if quick else e for n, e in claim.needed.items()}
    for name, experiment in experiments.items():
        if name not in files:
            files[name] = keeping.read(folder, experiment)
    kept = {name: found for name in experiments if (found := files[name]) is not None}
    open_ = tuple(claim.needed[name] for name, e in experiments.items() if missing(e, kept.get(name)) != [])
    studies = Found({name: keeping.study_of(experiments[name], kept[name]) for name in kept})
    if claim.exact is not None:
        counted = claim.exact()
        verdict = Verdict("supported" if counted.holds else "refuted")
        return Known(claim, verdict, counted, studies, kept, {}, open_)
    whole = not any(experiment in open_ for experiment in claim.experiments)
    values = dict(claim.values(studies)) if whole else {}
    return Known(claim, NOT_RUN, None, studies, kept, values, open_)
