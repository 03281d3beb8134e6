"""A plain function that trains and reports, as it is written for tuners of hyperparameters.

thalweg compare examples/plain_function.py
"""

import torch
from torch import nn
from torch.nn import functional

from thalweg.lab.workload.adapters import FunctionTask


def circles(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the plane, and whether each lies within a circle."""
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return points, (points.norm(dim=1) < 1.2).long()


def train(config) -> None:
    """200 steps; `config` holds the optimizer's arguments, such as config["lr"], besides seed and steps."""
    torch.manual_seed(config["seed"])
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2)).to(config.device)
    optimizer = config.optimizer(model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config["steps"])
    inputs, targets = (part.to(config.device) for part in circles(2000, seed=0))
    held_out = {part: circles(1000, seed) for part, seed in (("validation", 1), ("test", 2))}
    for step in range(config["steps"] + 1):
        if step % 40 == 0:
            losses = {}
            with torch.no_grad():
                for part, (points, inside) in held_out.items():
                    logits = model(points.to(config.device))
                    losses[part] = functional.cross_entropy(logits, inside.to(config.device)).item()
            config.report(step=step, metric=losses["validation"], test=losses["test"])
        rows = torch.randint(len(inputs), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
        schedule.step()


task = FunctionTask(train, steps=200, batch_size=64, metric="cross-entropy")
