"""The runs that more than one claim stands on, each made once."""

from thalweg.lab.lesson import arms, workloads
from thalweg.lab.lesson.experiment import STEPS_TO_LOSS, Experiment
from thalweg.lab.lesson.plans import crossed

DEEP_512 = Experiment(
    "deep-512",
    workloads.deep_512,
    (arms.SGD, arms.SGD_MOMENTUM, arms.RMSPROP, arms.RMSPROP_MOMENTUM),
    reading=STEPS_TO_LOSS,
)
"""Steps to the training loss in large batches."""

DEEP_64 = Experiment(
    "deep-64", workloads.deep_64, (arms.SGD, arms.SGD_MOMENTUM, arms.ADAM), reading=STEPS_TO_LOSS
)
"""The same in batches of 64."""

FASHION_NORM = Experiment(
    "fashion-norm",
    workloads.fashion_norm,
    (arms.SGD_MOMENTUM, arms.RMSPROP, arms.ADAM, arms.ADAMW),
)
"""Images, with batch norm, each tuned."""

FASHION = Experiment("fashion", workloads.fashion, (arms.SGD_MOMENTUM, arms.SGD_MOMENTUM_CLIPPED, arms.ADAM))
"""Images without batch norm and without noise, each tuned."""

SPEECH = Experiment("speech", workloads.speech, (arms.SGD_MOMENTUM, arms.RMSPROP, arms.ADAM))
"""A recurrent network, each tuned; the workload clips gradients for all."""

SWEEPS = {
    name: Experiment(f"sweep-{name}", make, (arms.SGD_MOMENTUM, *adaptive), plan=crossed)
    for name, make, adaptive in (
        ("digits", workloads.digits, (arms.ADAMW,)),
        ("fashion", workloads.fashion_short, (arms.ADAM, arms.ADAMW)),
        ("speech", workloads.speech_short, (arms.ADAM, arms.ADAMW)),
        ("text", workloads.text, (arms.ADAM,)),
    )
}
"""Every one of 13 rates on every seed, nothing chosen."""
