"""SGD needs little memory."""

from typing import Any

from thalweg.lab.lesson.claim import Claim, Counted
from thalweg.lab.lesson.counting import activations, state_bytes

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {},
    "SGD with momentum": {"momentum": 0.9},
    "RMSprop": {},
    "Adam": {},
    "AdamW": {},
}

BATCHES = (1, 32, 512)


def count() -> Counted:
    """Bytes of state a parameter, ours and torch's, and activations by batch size."""
    rows = []
    for name, arguments in OPTIMIZERS.items():
        kind = name.split()[0]
        ours, torchs = (
            state_bytes("thalweg", kind, **arguments),
            state_bytes("torch.optim", kind, **arguments),
        )
        rows.append((name, f"{ours:.2f}", f"{torchs:.2f}"))
    least = min(rows, key=lambda row: float(row[1]))
    alone = sum(row[1] == least[1] for row in rows) == 1
    kept = {batch: activations(batch) for batch in BATCHES}
    others = ", ".join(f"{size / 1e3:,.0f} kB at {batch}" for batch, size in kept.items())
    return Counted(
        holds=least[0] == "SGD" and alone,
        text="State a parameter, in bytes: "
        + ", ".join(f"{name} {ours}" for name, ours, _ in rows)
        + ". Activations are the model's, whatever the optimizer: the digits network keeps "
        f"{others} images.",
        head=("optimizer", "thalweg, bytes a parameter", "torch.optim"),
        rows=rows,
    )


CLAIM = Claim(
    name="S+1",
    subject="SGD",
    says="SGD needs little memory.",
    endpoint="Counted: bytes of optimizer state a parameter after a step, of a tensor of 100,000 in float32.",
    exact=count,
    conditions="Without momentum. Weights, gradients and activations are the same for all.",
)
