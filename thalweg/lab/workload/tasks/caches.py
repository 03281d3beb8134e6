"""What functools caches in a user's file, on its way to worker processes.

Pickle sends a cached function as a name to be imported, which worker processes cannot do. It is sent as an
empty cache that is then given its function, in two steps because a recursive function refers to its own.
A cached property has a lock in Python 3.11, which cannot be sent at all; it is made anew.
"""

import copyreg
import functools
from collections.abc import Callable
from typing import Any

Cached = type(functools.cache(lambda: None))


def make_sendable() -> None:
    """Has pickle send both; calling it again changes nothing."""
    copyreg.pickle(Cached, _reduce_cached)
    copyreg.pickle(functools.cached_property, _reduce_property)


def _reduce_cached(cached: Any) -> Any:
    """What `copyreg` is to do with such a function."""
    if not cached.__module__.startswith(("_thalweg_task_", "__main__")):
        return cached.__qualname__
    parameters = cached.cache_parameters()
    return (
        _empty_cache,
        (parameters["maxsize"], parameters["typed"]),
        cached.__wrapped__,
        None,
        None,
        _fill_cache,
    )


def _reduce_property(value: Any) -> Any:
    named = {key: part for key, part in vars(value).items() if key not in ("lock", "func")}
    return _property, (value.func, named)


def _property(function: Callable[..., Any], named: dict[str, Any]) -> Any:
    made: Any = functools.cached_property(function)
    vars(made).update(named)
    return made


def _empty_cache(maxsize: int | None, typed: bool) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return forward.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]

    return functools.lru_cache(maxsize, typed)(forward)


def _fill_cache(cached: Any, function: Callable[..., Any]) -> None:
    functools.update_wrapper(cached.__wrapped__, function)
