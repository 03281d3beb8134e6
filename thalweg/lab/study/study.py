"""A comparison as data: what was asked for, and the records there are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.record import Record, Stage
from thalweg.lab.workload import Workload


@dataclass(frozen=True)
class Margin:
    """The smallest difference worth having.

    Attributes:
        value: in the metric's unit or, where `relative`, as a share of the best mean.
        relative: which of the two.
        spread: if not zero, the share is one of the improvement over a model before training where that is
            less than the best mean, and the margin at least so many standard deviations between seeds.
    """

    value: float
    relative: bool = False
    spread: float = 0.0

    def at(self, level: float) -> float:
        """The difference that it stands for where the best mean is `level`."""
        return self.value * abs(level) if self.relative else self.value


def margin_of(workload: Workload) -> Margin:
    """The margin that a workload states, else 0.5 % points, else 2 % of the best mean or the improvement.

    Metrics near zero (R2, rewards, log-likelihoods) need more than a share: a quarter of the standard
    deviation between seeds, which the better of two exceeds on 57 % of the seeds only.
    """
    if workload.margin is not None:
        return Margin(workload.margin)
    return Margin(0.5) if workload.unit == "%" else Margin(0.02, relative=True, spread=0.25)


@dataclass(frozen=True)
class Settings:
    """How much is spent, and on what scale the answer is judged.

    Attributes:
        trials: configurations tried for each optimizer.
        seeds: fresh seeds on which each optimizer is measured at most.
        margin: the smallest difference of the metric worth having.
        seed: from it come all seeds and the configurations.
        looks: numbers of seeds after which the study ends if it can tell, the last is `seeds`; none for that
            alone.
        early_stop: whether hopeless trials are ended early.
    """

    trials: int = 16
    seeds: int = 10
    margin: Margin = Margin(0.5)
    seed: int = 0
    looks: tuple[int, ...] = ()
    early_stop: bool = False


@dataclass(frozen=True)
class Study:
    """All that has been measured so far.

    Attributes:
        workload: what is trained.
        settings: how much is spent.
        spaces: the optimizers, all different, in the order they were asked for.
        records: the records there are, in any order.
    """

    workload: Workload
    settings: Settings
    spaces: Sequence[Space]
    records: Sequence[Record] = ()

    def holding(self, records: Sequence[Record]) -> "Study":
        """The same study with these records."""
        return replace(self, records=records)

    def of(self, space: Space, *stages: Stage) -> list[Record]:
        """One optimizer's records of these stages, in the order of the records."""
        return [r for r in self.records if r.trial.name == space.name and r.trial.stage in stages]

    def tuning_of(self, space: Space) -> list[Record]:
        """The runs in which an optimizer was searched, from the lowest learning rate to the highest.

        Those that an accident took are missing here as in `final_of`: they say nothing of the optimizer.
        """
        axis = space.axes[0].name
        runs = [record for record in self.of(space, "tune", "extend") if not record.lost]
        return sorted(runs, key=lambda r: (r.trial.point[axis], r.trial.key))

    def final_of(self, space: Space) -> list[Record]:
        """The runs in which an optimizer was measured, by seed."""
        runs = [record for record in self.of(space, "final") if not record.lost]
        return sorted(runs, key=lambda record: record.trial.seed)

    @property
    def lost(self) -> list[Record]:
        """The runs that accidents took, as often as they were tried; the same command tries them again."""
        return [record for record in self.records if record.lost]

    def searched(self, space: Space) -> list[Axis]:
        """The hyperparameters that are searched for an optimizer."""
        return space.searched(self.settings.trials)

    def better(self, metric: float) -> float:
        """The metric with its sign turned so that larger is better."""
        return metric if self.workload.higher_is_better else -metric
