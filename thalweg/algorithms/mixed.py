"""One optimizer whose groups follow different rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from thalweg.algorithms.adagrad import Adadelta, Adagrad
from thalweg.algorithms.adam import Adam, AdamW
from thalweg.algorithms.adamax import Adamax
from thalweg.algorithms.lion import Lion
from thalweg.algorithms.nadam import NAdam
from thalweg.algorithms.radam import RAdam
from thalweg.algorithms.rmsprop import RMSprop
from thalweg.algorithms.sgd import SGD
from thalweg.optimizer import Optimizer, Params
from thalweg.optimizer.compiling import uncompiled
from thalweg.optimizer.saving import RULE as KEY
from thalweg.rule import Rule

_CLASSES = (SGD, Adadelta, Adagrad, Adam, AdamW, Adamax, Lion, NAdam, RAdam, RMSprop)


class Mixed(Optimizer):
    """An optimizer whose groups follow the rules of different classes: one step, one state dict.

    .. code-block:: python

        optimizer = thalweg.Mixed(
            [
                {"params": embeddings, "optimizer": "Adam", "lr": 1e-3},
                {"params": others, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9},
            ],
            weight_decay=1e-4,
            max_norm=1.0,  # of all gradients, whatever their rules
        )

    A group has the hyperparameters and defaults of its class, and what it does not say comes from `shared`.

    Args:
        params: groups, each of which names its class under `"optimizer"`: one of this package's by name, or a
            subclass of `thalweg.Optimizer` itself, whose name is then kept.
        optimizer: the class of groups that name none; without it, every group has to.
        shared: arguments of the classes, for all groups that do not say otherwise.

    Raises:
        ValueError: if a group names no class, or one that is not known.
        ValueError, TypeError: if a class refuses an argument; the message says what is allowed.
    """

    _known: ClassVar[dict[str, type[Optimizer]]] = {cls.__name__: cls for cls in _CLASSES}

    @uncompiled  # what is set here would be unknown to `add_param_group`
    def __init__(
        self,
        params: Params,
        optimizer: str | type[Optimizer] | None = None,
        *,
        fused: bool | None = None,
        **shared: Any,
    ) -> None:
        self._classes = dict(self._known)
        self._shared = shared if fused is None else {**shared, "fused": fused}
        self._default = optimizer
        super().__init__(params, {"fused": fused})

    def _rules(self) -> Callable[[Mapping[str, Any]], Rule]:
        classes = self._classes
        return lambda group: classes[group[KEY]].rule

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_classes", "_shared", "_default")
        return {**super().__getstate__(), **{name: vars(self)[name] for name in kept}}

    def _check(self, group: Mapping[str, Any]) -> None:
        """Leave it to the classes, which are asked when groups are added."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, with the hyperparameters and defaults of its class."""
        own = dict(param_group)
        name = self._name(own.pop(KEY, self._default))
        names: dict[str, Any] = {key: own.pop(key) for key in ("params", "param_names") if key in own}
        # What the class would have made of it, with all that it checks.
        made = self._classes[name](
            [torch.zeros((), device="cpu")], **self._joined(self._shared, own)
        ).param_groups[0]
        said = {key: value for key, value in made.items() if key not in ("params", "param_names")}
        super().add_param_group({**said, KEY: name, **names})

    def _name(self, asked: Any) -> str:
        """Return the name of a class, which is known from now on."""
        if isinstance(asked, type) and issubclass(asked, Optimizer) and asked is not Optimizer:
            if self._classes.setdefault(asked.__name__, asked) is not asked:
                raise ValueError(f"optimizer={asked!r}: another class is called {asked.__name__!r} here")
            return asked.__name__
        if isinstance(asked, str) and asked in self._classes:
            return asked
        allowed = ", ".join(sorted(self._classes))
        raise ValueError(
            f"a group's {KEY!r} must be a subclass of thalweg.Optimizer or one of {allowed}, not {asked!r}"
        )

    @staticmethod
    def joined(state_dicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return one state dict of those of separate optimizers, for `load_state_dict`.

        Args:
            state_dicts: in the order of this optimizer's groups, ours or torch's.
        """
        state: dict[Any, Any] = {}
        groups: list[dict[str, Any]] = []
        for one in state_dicts:
            begin = sum(len(group["params"]) for group in groups)
            ids = [key for group in one["param_groups"] for key in group["params"]]
            place = {key: begin + i for i, key in enumerate(ids)}
            state |= {place.get(key, key): value for key, value in one["state"].items()}
            groups += [
                {**group, "params": [place[key] for key in group["params"]]} for group in one["param_groups"]
            ]
        return {"state": state, "param_groups": groups}
