"""What torch asks of an optimizer: groups, state, hooks and checkpoints, for all rules in one place."""

from thalweg.optimizer.base import Optimizer, Options, Params, arguments

__all__ = ["Optimizer", "Options", "Params", "arguments"]
