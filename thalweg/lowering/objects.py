"""Questions about many Python objects, asked in one compiled loop through CPython's stable C interface.

Whether 12,000 state tensors and 4,000 parameters are still the same objects takes Python over a
millisecond, as long as stepping them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from thalweg.lowering import machine

_FUNCTIONS = (
    "PyDict_Next",
    "PyList_GetItem",
    "PyObject_GetAttr",
    "PyLong_AsVoidPtr",
    "Py_DecRef",
)

_ASSEMBLY = """\
define i32 @same_values(ptr %dicts, ptr %known, i64 %count, ptr %functions) {
entry:
  %outer = alloca i64
  %inner = alloca i64
  %key = alloca ptr
  %dict.at = alloca ptr
  %value.at = alloca ptr
  %next = load ptr, ptr %functions
  store i64 0, ptr %outer
  br label %dict
dict:
  %before = phi i64 [ 0, %entry ], [ %seen, %value ]
  %has.dict = call i32 %next(ptr %dicts, ptr %outer, ptr %key, ptr %dict.at)
  %no.dict = icmp eq i32 %has.dict, 0
  br i1 %no.dict, label %end, label %open
open:
  %one = load ptr, ptr %dict.at
  store i64 0, ptr %inner
  br label %value
value:
  %seen = phi i64 [ %before, %open ], [ %seen.next, %same ]
  %has.value = call i32 %next(ptr %one, ptr %inner, ptr %key, ptr %value.at)
  %no.value = icmp eq i32 %has.value, 0
  br i1 %no.value, label %dict, label %compare
compare:
  %room = icmp slt i64 %seen, %count
  br i1 %room, label %look, label %differ
look:
  %now = load ptr, ptr %value.at
  %cell = getelementptr ptr, ptr %known, i64 %seen
  %then = load ptr, ptr %cell
  %equal = icmp eq ptr %now, %then
  br i1 %equal, label %same, label %differ
same:
  %seen.next = add nuw nsw i64 %seen, 1
  br label %value
end:
  %all = icmp eq i64 %before, %count
  %answer = zext i1 %all to i32
  ret i32 %answer
differ:
  ret i32 0
}

define i32 @same_items(ptr %list, ptr %known, i64 %count, ptr %functions) {
entry:
  %get.at = getelementptr ptr, ptr %functions, i64 1
  %get = load ptr, ptr %get.at
  br label %item
item:
  %i = phi i64 [ 0, %entry ], [ %i.next, %look ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %same
look:
  %now = call ptr %get(ptr %list, i64 %i)
  %cell = getelementptr ptr, ptr %known, i64 %i
  %then = load ptr, ptr %cell
  %equal = icmp eq ptr %now, %then
  %i.next = add nuw nsw i64 %i, 1
  br i1 %equal, label %item, label %differ
same:
  ret i32 1
differ:
  ret i32 0
}

define i32 @attributes(ptr %objects, ptr %name, ptr %values, i64 %count, ptr %functions) {
entry:
  %get.at = getelementptr ptr, ptr %functions, i64 2
  %get = load ptr, ptr %get.at
  %convert.at = getelementptr ptr, ptr %functions, i64 3
  %convert = load ptr, ptr %convert.at
  %release.at = getelementptr ptr, ptr %functions, i64 4
  %release = load ptr, ptr %release.at
  br label %object
object:
  %i = phi i64 [ 0, %entry ], [ %i.next, %read ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %ask, label %done
ask:
  %cell = getelementptr ptr, ptr %objects, i64 %i
  %one = load ptr, ptr %cell
  %number = call ptr %get(ptr %one, ptr %name)
  %failed = icmp eq ptr %number, null
  br i1 %failed, label %error, label %read
read:
  %value = call ptr %convert(ptr %number)
  %value.at = getelementptr ptr, ptr %values, i64 %i
  store ptr %value, ptr %value.at
  call void %release(ptr %number)
  %i.next = add nuw nsw i64 %i, 1
  br label %object
done:
  ret i32 1
error:
  ret i32 0
}
"""


class _Loops:
    """The compiled loops. They keep the GIL, and raise what Python raises in them."""

    def __init__(self) -> None:
        self._functions = machine.addresses_of([getattr(ctypes.pythonapi, name) for name in _FUNCTIONS])
        self.functions = self._functions.ctypes.data
        names = ("same_values", "same_items", "attributes")
        values, items, attributes = machine.compile_to_address(_ASSEMBLY, names)
        thing, pointer, count = ctypes.py_object, ctypes.c_void_p, ctypes.c_int64
        look = ctypes.PYFUNCTYPE(ctypes.c_int32, thing, pointer, count, pointer)
        self.same_values = look(values)
        self.same_items = look(items)
        self.attributes = ctypes.PYFUNCTYPE(ctypes.c_int32, pointer, thing, pointer, count, pointer)(
            attributes
        )


@cache
def _loops() -> _Loops:
    return _Loops()


class Identities:
    """Remembers objects, to say whether others are the same ones. Equality would compare tensors.

    Args:
        objects: what is remembered, and kept alive.
    """

    def __init__(self, objects: Sequence[Any]) -> None:
        self._objects = list(objects)
        self._ids = np.array([id(thing) for thing in self._objects], np.int64)
        self._arguments = (self._ids.ctypes.data, len(self._objects), _loops().functions)

    def are_values(self, dicts: dict[Any, Any]) -> bool:
        """Say whether these are, in order, the values of the dicts that are the values of `dicts`."""
        return bool(_loops().same_values(dicts, *self._arguments))

    def are_items(self, items: list[Any]) -> bool:
        """Say whether these are, in order, the items of a list."""
        return len(items) == len(self._objects) and bool(_loops().same_items(items, *self._arguments))

    def read(self, name: str, values: np.ndarray) -> None:
        """Read an attribute that is an address from each of them.

        Args:
            name: the attribute, an int.
            values: int64 (objects,), overwritten.

        Raises:
            AttributeError: if one has no such attribute.
        """
        ids, count, functions = self._arguments
        # Where the loop has failed, ctypes raises the error that Python has set.
        _loops().attributes(ids, name, values.ctypes.data, count, functions)
