"""What a run leaves on objects beside tensors that have a name: counters, lists, generators of a task.

Looked at are the attributes of the model's modules, of optimizers that are not ours, and of the task: also of
objects that it holds, of its classes, the globals of its file and what its methods have closed over. Kept is
what consists of numbers, texts, arrays, tensors, generators and containers of these.
"""

import io
import pickle
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSet
from contextlib import suppress
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.lab.workload.errors import ResumingError

BIG = 16 << 20
"""Of what takes more bytes than this only a checksum is kept: it is data, and a run must not change them."""

DEPTH = 4
"""How far objects that hold objects are followed."""

_LIBRARIES = ("thalweg", "torch", "numpy", "builtins", "collections")
"""Whose classes hold nothing of a run."""

_DATA = (
    *_LIBRARIES[1:],
    "random",
    "_random",
    "copyreg",
    "_codecs",
    "datetime",
    "pathlib",
    "decimal",
    "fractions",
)
"""Whose objects are data, if they are neither modules nor optimizers."""

Owner = tuple[str, Mapping[str, Any], Callable[[str, Any], None]]
"""A name, the attributes, and what sets one."""

Kept = Mapping[tuple[str, str], bytes | int]
"""By owner and attribute: the value, or the checksum of a big one."""


def owners(task: Any, model: nn.Module, optimizers: Mapping[str, Optimizer]) -> Iterator[Owner]:
    """All that may hold something of a run; nothing of a task that ships with the lab."""
    for name, module in model.named_modules():
        yield _of(f"module {name or 'model'}", module, _MODULES)
    for name, optimizer in optimizers.items():
        if not _is_of(type(optimizer), ("thalweg",)):
            yield _of(f"optimizer {name}", optimizer, _of_any_optimizer())
    if not _is_of(type(task), ("thalweg",)):
        yield from _of_objects("task", task, {id(task)}, DEPTH)
        yield from _of_program(type(task))


def kept(found: Iterator[Owner]) -> Kept:
    """What there is to be kept."""
    values: dict[tuple[str, str], bytes | int] = {}
    for owner, attributes, _ in found:
        for name, value in list(attributes.items()):
            with suppress(_NotPlainError, pickle.PicklingError, RecursionError):
                packed = _packed(value)
                values[owner, name] = packed if len(packed) <= BIG else zlib.crc32(packed)
    return values


def put_back(found: Iterator[Owner], before: Kept, after: Kept, wanted: Kept) -> None:
    """Sets what was kept.

    Args:
        found: the owners of the run that goes on.
        before: what they held before batches were drawn again.
        after: and after.
        wanted: what they held when the run was cut off.

    Raises:
        ResumingError: it is not known how to.
    """
    for owner, attributes, put in found:
        for (of, name), value in wanted.items():
            if of != owner or after.get((of, name)) == value:
                continue
            if isinstance(value, int):
                if (of, name) in after:
                    raise ResumingError(f"{name} of the {owner} is large and was changed")
                continue
            if before.get((of, name)) != after.get((of, name)):
                raise ResumingError(f"{name} of the {owner} is changed by batches and by other methods")
            if not _put_into(attributes.get(name), again := pickle.loads(value)):
                put(name, again)


def _of(name: str, value: Any, without: frozenset[str] = frozenset()) -> Owner:
    held = {key: part for key, part in vars(value).items() if key not in without}
    return name, held, vars(value).__setitem__


_MODULES = frozenset(vars(nn.Module())) - {"training"}


@cache
def _of_any_optimizer() -> frozenset[str]:
    # Asked for late: torch's first optimizer imports torch's compiler, which takes a second.
    any_of_torch = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    return frozenset(vars(any_of_torch)) | {"_step_count", "step"}


def _of_objects(name: str, value: Any, seen: set[int], depth: int) -> Iterator[Owner]:
    yield _of(name, value)
    for key, part in list(vars(value).items()):
        simple = isinstance(part, type | FunctionType | ModuleType | nn.Module | Optimizer)
        if depth and not simple and hasattr(part, "__dict__") and id(part) not in seen:
            seen.add(id(part))
            if not _is_of(type(part), _DATA):
                yield from _of_objects(f"{key} of the {name}", part, seen, depth - 1)


def _of_program(kind: type) -> Iterator[Owner]:
    """A task's classes, and what their methods have for globals and closures."""
    seen: set[int] = set()
    for cls in kind.__mro__:
        if _is_of(cls, _LIBRARIES) or cls.__module__ == "typing":
            continue
        held = {key: part for key, part in vars(cls).items() if not key.startswith(("__", "_abc_"))}
        yield f"class {cls.__name__}", held, lambda key, part, cls=cls: setattr(cls, key, part)  # type: ignore[misc]
        for method in held.values():
            function = getattr(method, "__func__", getattr(method, "fget", method))
            if isinstance(function, FunctionType):
                yield from _of_function(cls, function, seen)


def _of_function(cls: type, function: FunctionType, seen: set[int]) -> Iterator[Owner]:
    names = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    filled = {name: cell for name, cell in names.items() if name != "__class__" and _is_filled(cell)}
    if filled:
        yield (
            f"closure of {cls.__name__}.{function.__name__}",
            {name: cell.cell_contents for name, cell in filled.items()},
            lambda key, part: setattr(filled[key], "cell_contents", part),
        )
    if id(function.__globals__) not in seen:
        seen.add(id(function.__globals__))
        held = {key: part for key, part in function.__globals__.items() if not key.startswith("__")}
        yield f"file of {cls.__name__}", held, function.__globals__.__setitem__


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_of(kind: Any, libraries: tuple[str, ...]) -> bool:
    return str(kind.__module__).partition(".")[0] in libraries


class _NotPlainError(Exception):
    pass


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Lets data pass; whatever else a container holds makes it none."""
        if isinstance(value, torch.Generator):
            return _generator, (str(value.device), value.get_state().numpy().tobytes())
        if isinstance(value, nn.Module | Optimizer | nn.Parameter | ModuleType):
            raise _NotPlainError
        if isinstance(value, Tensor) and (value.requires_grad or type(value) is not Tensor):
            raise _NotPlainError
        # Functions and classes by which data are made again, among them those of compiled modules.
        kind: Any = value if hasattr(value, "__qualname__") else type(value)
        if not _is_of(kind, (*_DATA, "_thread", __name__.partition(".")[0])):
            raise _NotPlainError
        return NotImplemented


def _packed(value: Any) -> bytes:
    if isinstance(value, type | FunctionType | ModuleType):
        raise _NotPlainError
    packed = io.BytesIO()
    try:
        _Packer(packed, protocol=5).dump(value)
    except (TypeError, AttributeError, ValueError, RuntimeError) as error:  # locks, files, sparse tensors
        raise _NotPlainError from error
    return packed.getvalue()


def _generator(device: str, state: bytes) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return generator


def _put_into(present: Any, value: Any) -> bool:
    """Changes an object in place, which others may hold too; whether that is possible."""
    if type(present) is not type(value):
        return False
    if isinstance(value, torch.Generator):
        present.set_state(value.get_state())
    elif isinstance(value, np.random.Generator):
        if type(present.bit_generator) is not type(value.bit_generator):
            return False
        present.bit_generator.state = value.bit_generator.state
    elif isinstance(value, np.random.RandomState):
        present.set_state(value.get_state())
    elif isinstance(value, random.Random):
        present.setstate(value.getstate())
    elif isinstance(value, list):
        present[:] = value
    elif isinstance(value, deque) and present.maxlen == value.maxlen:
        present.clear()
        present.extend(value)
    elif isinstance(value, MutableMapping | MutableSet):
        present.clear()
        present |= value
    else:
        return False
    return True
