"""What torch asks of an optimizer: groups, state, hooks and checkpoints, for all rules in one place."""

from thalweg.optimizer.arguments import Options, Params, arguments
from thalweg.optimizer.base import Optimizer
from thalweg.optimizer.sam import SAM

__all__ = ["SAM", "Optimizer", "Options", "Params", "arguments"]
