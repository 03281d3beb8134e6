"""From LLVM assembly to a callable address, through a cache on disk.

The cache is addressed by content: the key is a hash of the assembly text, the processor and the version
of LLVM, so an entry never goes stale and a changed rule finds nothing. A hit needs neither the optimizer
nor the code generator of LLVM.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache, update_wrapper
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from thalweg.lowering.files import write_atomically

T = TypeVar("T")

_OPTIONS = "O3 v1"


@cache
def _llvm() -> Any:
    # Imported at the first kernel: `import thalweg` must not pay for LLVM.
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def host() -> tuple[str, str]:
    """Return the name and the feature string of this processor, as LLVM writes them."""
    llvm = _llvm()
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


@cache
def _target() -> Any:
    cpu, features = host()
    target = _llvm().Target.from_default_triple()
    return target.create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="default", jit=True
    )


@cache
def _jit() -> Any:
    # JITLink lays a library's code and constants side by side. LLVM's older linker takes memory for each
    # where it finds some, and aborts the process where two ends are more than 2 GiB apart, as in one whose
    # address space a GPU's driver or large tables have filled.
    return _llvm().create_lljit_compiler(_target(), use_jit_link=True)


class Once(Generic[T]):
    """A function that is called once in a process, however many threads come first.

    `functools.cache` lets each of them call it, and keeps what the last one has made. Who goes on with an
    address in what another has made reads memory that was freed.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._cached = cache(make)
        self.cache_clear = self._cached.cache_clear
        update_wrapper(self, make)

    def __call__(self) -> T:
        """Return what the function has returned."""
        with _LOCK:
            return self._cached()


@cache
def obstacle() -> str:
    """Say what keeps this machine from compiling and running kernels; "" if nothing does.

    A first tiny kernel is compiled, linked and called, as llvmlite may be missing, LLVM may not know the
    system, and a system may forbid memory that is written and then run.
    """
    try:
        (address,) = compile_to_address("define i32 @first() { ret i32 42 }", ("first",))
        answer = ctypes.CFUNCTYPE(ctypes.c_int32)(address)()
    except Exception as error:
        return f"kernels cannot be compiled here ({type(error).__name__}: {' '.join(str(error).split())})"
    return "" if answer == 42 else "kernels that are compiled here do not run"


def cache_folder() -> Path | None:
    """Return where compiled kernels are kept: `$THALWEG_CACHE_DIR`, else the user's cache folder.

    None where the user has none, as a process without `$HOME` and without a name for its user.
    """
    if folder := os.environ.get("THALWEG_CACHE_DIR"):
        return Path(folder)
    import platformdirs

    try:
        return platformdirs.user_cache_path("thalweg", appauthor=False)
    except RuntimeError:
        return None


def assemble(text: str) -> bytes:
    """Optimize LLVM assembly for this processor and return the object file."""
    llvm = _llvm()
    module = llvm.parse_assembly(text)
    module.triple = _target().triple
    module.data_layout = str(_target().target_data)
    module.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = True
    tuning.loop_interleaving = True
    tuning.loop_unrolling = True
    builder = llvm.create_pass_builder(_target(), tuning)
    builder.getModulePassManager().run(module, builder)
    return _target().emit_object(module)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, machine_code = content[:32], content[32:]
    # A disk may lose the end of a file; running half an object would be worse than compiling again.
    return machine_code if hashlib.sha256(machine_code).digest() == digest else None


def _write(path: Path | None, machine_code: bytes) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, hashlib.sha256(machine_code).digest() + machine_code)
    except OSError:
        # A read-only home is no reason to stop training; the next process compiles again.
        return


def compile_to_address(text: str, functions: tuple[str, ...]) -> tuple[int, ...]:
    """Return the addresses of `functions`, defined in the LLVM assembly `text`.

    They stay valid for the life of the process. May be called from several threads.
    """
    found = _ADDRESSES.get((text, functions))
    if found is not None:
        return found
    with _LOCK:
        if (text, functions) not in _ADDRESSES:
            _ADDRESSES[text, functions] = _compile(text, functions)
        return _ADDRESSES[text, functions]


def _compile(text: str, functions: tuple[str, ...]) -> tuple[int, ...]:
    llvm = _llvm()
    key = "\n".join((_OPTIONS, str(llvm.llvm_version_info), *host(), *functions, text))
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    folder = cache_folder()
    path = None if folder is None else folder / "kernels" / f"{name}.o"
    machine_code = _read(path)
    if machine_code is None:
        machine_code = assemble(text)
        _write(path, machine_code)
    builder = llvm.JITLibraryBuilder().add_object_img(machine_code).add_current_process()
    for function in functions:
        builder.export_symbol(function)
    # The number is for a name of its own: one that was linked before an interruption is taken for good.
    library = builder.link(_jit(), f"{name}.{next(_NUMBERS)}")
    _LIBRARIES.append(library)
    return tuple(library[function] for function in functions)


def addresses_of(functions: Sequence[Any]) -> np.ndarray:
    """Return where ctypes functions lie, int64, as the table that compiled loops call them from."""
    return np.array([ctypes.cast(f, ctypes.c_void_p).value for f in functions], np.int64)


_ADDRESSES: dict[tuple[str, tuple[str, ...]], tuple[int, ...]] = {}
_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    # Another thread may hold the lock when a process forks; in the child nobody would give it back.
    os.register_at_fork(after_in_child=lambda: _LOCK._at_fork_reinit())  # type: ignore[attr-defined]
_NUMBERS = itertools.count()

# A library is unloaded when its Python object dies.
_LIBRARIES: list[Any] = []
