"""SGD is slow where gradients differ in scale."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.claim import Claim, Line, Remedy, told, trio_of
from thalweg.lab.lesson.experiment import STEPS_TO_LOSS, Experiment
from thalweg.lab.lesson.experiments import DEEP_64
from thalweg.lab.lesson.found import Found, Scores, faster, log_steps, minus
from thalweg.lab.lesson.scale import FACTOR

PAIR = (arms.SGD_MOMENTUM, arms.ADAM)

SCALED = Experiment("deep-64-scaled", workloads.deep_scaled, PAIR, reading=STEPS_TO_LOSS)
NORM = Experiment("deep-64-norm", workloads.deep_norm, PAIR, reading=STEPS_TO_LOSS)
NORM_SCALED = Experiment("deep-64-norm-scaled", workloads.deep_norm_scaled, PAIR, reading=STEPS_TO_LOSS)

ROUTED = arms.changed(
    arms.arm("adam-ends-sgd-between", "Mixed", 1e-5),
    "adam-ends-sgd-between",
    param_groups=workloads.head_groups,
)
TRUST = arms.arm("sgd-trust-ratio", "SGD", 1e-2, momentum=0.9, lars=True, trust_coefficient=0.01)
CLIPPED = arms.SGD_MOMENTUM_CLIPPED
REMEDIED = Experiment(
    "deep-64-scaled-remedies", workloads.deep_scaled, (ROUTED, TRUST, CLIPPED), reading=STEPS_TO_LOSS
)


def edge(found: Found, scaled: Experiment, plain: Experiment) -> Scores:
    """How much larger Adam's lead over SGD with momentum is with scales than without, in logarithms."""
    pair = "sgd-momentum", "adam"
    return minus(faster(found[scaled.name], *pair), faster(found[plain.name], *pair))


def values(found: Found) -> Scores:
    """The edge without batch norm."""
    return edge(found, SCALED, DEEP_64)


def secondary(found: Found) -> list[Line]:
    """Each by itself, and the control with batch norm."""
    pair = "sgd-momentum", "adam"
    return [
        told("SGD with momentum over Adam, scales 1, 10, 100", faster(found[SCALED.name], *pair), FACTOR),
        told("SGD with momentum over Adam, scales 1", faster(found[DEEP_64.name], *pair), FACTOR),
        told("the endpoint with batch norm", edge(found, NORM_SCALED, NORM), FACTOR),
    ]


CLAIM = Claim(
    name="S-2",
    subject="SGD",
    says="SGD is slow where gradients differ in scale.",
    endpoint="Steps to a training loss of 0.1 of an 8-layer tanh network on digits, SGD's with momentum "
    "over Adam's, with layers in coordinates of scale 1, 10 and 100 over the same with scale 1; "
    "each at the best constant rate of 12.",
    scale=FACTOR,
    experiments=(SCALED, DEEP_64, NORM, NORM_SCALED),
    values=values,
    reads="is what Adam's lead over SGD with momentum grows by when layers differ in scale",
    conditions="The function and its start are the same with scales and without, only the coordinates "
    "differ.",
    secondary=secondary,
    remedies=tuple(
        Remedy(
            name,
            what,
            "Adam",
            (REMEDIED,),
            trio_of(log_steps, SCALED, REMEDIED, ("sgd-momentum", arm, "adam")),
        )
        for name, what, arm in (
            ("routing", "Mixed: Adam for the ends and biases, SGD with momentum between", ROUTED.name),
            (
                "trust ratio",
                "SGD(momentum=0.9, lars=True), a pass that reads weights and gradients",
                TRUST.name,
            ),
            ("clipping", "SGD(momentum=0.9) with gradients clipped to norm 1", CLIPPED.name),
        )
    ),
)
