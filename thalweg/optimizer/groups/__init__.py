"""Parameter groups from a model: rules by name or class, no decay where none is due, rates by depth."""

from thalweg.optimizer.groups.assigning import ParamGroups, param_groups
from thalweg.optimizer.groups.selectors import Selector

__all__ = ["ParamGroups", "Selector", "param_groups"]
