"""What torch asks of an optimizer: groups, state, hooks and checkpoints, for all rules in one place."""

from thalweg.optimizer.base import Optimizer, Options, Params, arguments
from thalweg.optimizer.sam import SAM

__all__ = ["SAM", "Optimizer", "Options", "Params", "arguments"]
