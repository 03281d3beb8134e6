"""Exactly how it was measured."""

from collections import Counter
from collections.abc import Mapping

from thalweg.lab.judging.statistics import fewest_seeds
from thalweg.lab.judging.verdict import Verdict, norm_layers
from thalweg.lab.judging.wording import Numbers, counted, listed
from thalweg.lab.running.schedules import described
from thalweg.lab.showing.results import Provenance
from thalweg.lab.study.extension import DECADE, extension
from thalweg.lab.study.protocol import CANDIDATES, CONFIRMATION_SEEDS, EXTENSIONS, seeds
from thalweg.lab.study.study import Study
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.looking import model_of

STAGES = ("tune", "extend", "confirm", "final", "repeat")

SPENDING = (
    "The study ends at the first that tells the best mean from every other, as ahead or as equivalent; "
    "the 5 % of error are shared among the looks and the pairs (Bonferroni)"
)

SOURCES = (
    "Choi et al. 2019 (arXiv 1910.05446), Sivaprasad et al. 2020 (1910.11758), "
    "Schmidt et al. 2021 (2007.01547), Bouthillier et al. 2021 (2103.03098), "
    "AlgoPerf (2306.07179), the Deep Learning Tuning Playbook"
)


def training(study: Study) -> str:
    """How every run trains, in a sentence: without it a tuned learning rate means little."""
    workload = study.workload
    clip = "" if workload.clip_norm is None else f", gradients clipped to norm {workload.clip_norm:g}"
    each = option(workload, "accumulate")
    batches = (
        f"{each} batches of {workload.batch_size} each" if each > 1 else f"batches of {workload.batch_size}"
    )
    precision = option(workload, "autocast")
    cast = "" if precision is None else f", autocast to {precision}"
    return f"{workload.steps:,} steps with {batches}; {described(option(workload, 'schedule'))}{clip}{cast}"


def task(study: Study) -> dict[str, str]:
    """What was trained."""
    workload = study.workload
    layers = norm_layers(model_of(workload))
    unit = f" in {workload.unit}" if workload.unit else ""
    order = "higher" if workload.higher_is_better else "lower"
    return {
        "Task": f"{workload.name}: {workload.title}" if workload.title else workload.name,
        **workload.facts(),
        "Norm layers": listed(layers) if layers else "none",
        "Metric": f"{workload.metric}{unit}, {order} is better, evaluated every "
        f"{workload.evaluate_every:,} steps",
        "Every run": f"{training(study)}; {_alike(study)}",
    }


def _alike(study: Study) -> str:
    different = [space.title for space in study.spaces if space.changes]
    return f"but for what is said of {listed(different)}" if different else "the same for all optimizers"


def protocol(study: Study) -> dict[str, str]:
    """Which runs were made."""
    settings = study.settings
    first, confirmation, fresh = seeds(settings)
    return {
        "1. Tune": f"{settings.trials} quasi-random configurations for each optimizer from one "
        "scrambled Sobol sequence (Optuna), log-uniform in the ranges below, all with "
        f"seed {first}",
        "2. Extend": "while the best learning rate of an optimizer is the outermost that was tried, "
        f"its range grows by a factor of {DECADE:g}, at most {EXTENSIONS} times; every optimizer "
        f"then gets {extension(settings)} more trials, so that budgets stay equal",
        "3. Confirm": f"the best {CANDIDATES} configurations of each optimizer train on "
        f"{CONFIRMATION_SEEDS} seeds ({', '.join(map(str, confirmation))}); the better mean on "
        "validation is chosen",
        "4. Measure": f"the chosen configurations train on up to {settings.seeds} fresh seeds, the same for "
        "all: a seed fixes initial weights and order of data, so runs are compared pair by pair. Test "
        "is evaluated once, after the last step, and nothing is chosen on it",
        "Fresh seeds": ", ".join(map(str, fresh)),
        "Root seed": f"{settings.seed}; all seeds and configurations follow from it",
        "Sources": SOURCES,
    }


def analysis(study: Study, verdict: Verdict) -> dict[str, str]:
    """What was made of the numbers."""
    fewest, n = fewest_seeds(len(study.spaces)), len(study.spaces)
    numbers = Numbers(study, verdict.margin)
    looks = f"after {listed([str(look) for look in study.settings.looks or (study.settings.seeds,)])} seeds"
    return {
        "Looks": f"{looks}. {SPENDING}",
        "Intervals": "those of differences hold for all pairs and all looks together with 95 %: all "
        "centres that an exact test of sign flips on the paired differences does not reject (Hartigan "
        "1969), widened to hold Student's t after a correction for skewness (Hall 1992). That of a single "
        "optimizer's mean is 95 % by Student's t, widened likewise. They cover the luck of the seed, not "
        "the choice of the data split",
        "p values": "of the sign-flip test that there is no difference, two-sided, on all seeds; adjusted "
        "over all pairs by Holm (1979). They decide nothing: the intervals do",
        "Failures": "a run that diverged or ran out of time counts as the worst outcome, in means, "
        "intervals and tests: below the worst run that came to its end, by the standard deviation between "
        "seeds or the margin, whichever is more; where one has failed there is no equivalence. A run that "
        "was lost by accident (killed, or out of memory) counts as not made",
        "Margin": f"{numbers.margin}; a smaller difference is not worth having{_of_margin(study)}",
        "Verdict": "one optimizer is ahead of another if the whole interval of its lead lies beyond the "
        "margin, equivalent if it lies within, and else not told apart. It wins if it is ahead of every "
        f"other. With {n} optimizers, fewer than {fewest} seeds can tell nothing",
        "Luck of tuning": "to be ahead, the interval must lie beyond the margin by 0.6 times what "
        "separates the best trial of some optimizer from its third, less what the seeds alone would; by no "
        "more than a usual margin",
        "Best of k": "expectation over all subsets of k trials (Dodge et al. 2019, arXiv 1909.03004, "
        "without replacement); a failed trial counts as the worst that finished",
        "Basin": "decades of learning rate within the margin of the optimizer's own best: the share "
        "of trials that are, times the decades they are spread over",
        "Time": "medians over the final runs; seconds are those of forward, backward and optimizer "
        "step, a step is one optimizer.step()",
        "State": "bytes of the tensors in the optimizer's state after the last step",
    }


def _of_margin(study: Study) -> str:
    """What a margin that was not given in the metric's unit is made of."""
    asked = study.settings.margin
    if not asked.spread:
        return ""
    return (
        f". It is {100 * asked.value:g} % of the best mean or, where that is less, of the improvement "
        "since before training, and at least "
        f"{asked.spread:g} standard deviations between seeds"
    )


def run(study: Study, provenance: Provenance) -> dict[str, str]:
    """Where, when and with what."""
    kinds: Counter[str] = Counter(record.trial.stage for record in study.records)
    runs = listed([f"{kinds[stage]} {stage}" for stage in STAGES if kinds[stage]])
    each = option(study.workload, "processes")
    processes = f"{provenance.workers} {'process' if provenance.workers == 1 else 'processes'}"
    if each > 1:
        processes = f"{counted(provenance.workers, 'run')} at a time in {each} processes"
    facts = {
        "Command": provenance.command,
        "Budget": provenance.bought,
        "Runs": f"{len(study.records)}: {runs}" if runs else "none",
        "Of these": f"{provenance.found} were there before this command began" if provenance.found else "",
        "Began": f"{provenance.started:%Y-%m-%d %H:%M %z}",
        "Took": f"{provenance.seconds:,.0f} s with {processes} of one thread each",
        "Machines": _machines(study),
        **{key[:1].upper() + key[1:]: text for key, text in provenance.environment.items()},
    }
    return _stated(facts)


def _machines(study: Study) -> str:
    machines = Counter(r.timing.machine for r in study.records if r.timing is not None)
    return listed([f"{name} ({count} runs)" for name, count in machines.items()])


def _stated(facts: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in facts.items() if text}
