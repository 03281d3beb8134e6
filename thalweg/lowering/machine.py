"""From LLVM assembly to a callable address, through a cache on disk.

The cache is addressed by content: the key is a hash of the assembly text, the processor and the version
of LLVM, so an entry never goes stale and a changed rule finds nothing. A hit needs neither the optimizer
nor the code generator of LLVM.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.files import write_atomically

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
    return _llvm().create_lljit_compiler(_target())


def cache_folder() -> Path:
    """Return where compiled kernels are kept: `$THALWEG_CACHE_DIR`, else the user's cache folder."""
    if folder := os.environ.get("THALWEG_CACHE_DIR"):
        return Path(folder)
    import platformdirs

    return platformdirs.user_cache_path("thalweg", appauthor=False)


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


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, machine_code = content[:32], content[32:]
    # A disk may lose the end of a file; running half an object would be worse than compiling again.
    return machine_code if hashlib.sha256(machine_code).digest() == digest else None


def _write(path: Path, machine_code: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, hashlib.sha256(machine_code).digest() + machine_code)
    except OSError:
        # A read-only home is no reason to stop training; the next process compiles again.
        return


@cache
def compile_to_address(text: str, functions: tuple[str, ...]) -> tuple[int, ...]:
    """Return the addresses of `functions`, defined in the LLVM assembly `text`.

    They stay valid for the life of the process.
    """
    llvm = _llvm()
    key = "\n".join((_OPTIONS, str(llvm.llvm_version_info), *host(), *functions, text))
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = cache_folder() / "kernels" / f"{name}.o"
    machine_code = _read(path)
    if machine_code is None:
        machine_code = assemble(text)
        _write(path, machine_code)
    builder = llvm.JITLibraryBuilder().add_object_img(machine_code).add_current_process()
    for function in functions:
        builder.export_symbol(function)
    library = builder.link(_jit(), name)
    _LIBRARIES.append(library)
    return tuple(library[function] for function in functions)


def addresses_of(functions: Sequence[Any]) -> np.ndarray:
    """Return where ctypes functions lie, int64, as the table that compiled loops call them from."""
    return np.array([ctypes.cast(f, ctypes.c_void_p).value for f in functions], np.int64)


# A library is unloaded when its Python object dies.
_LIBRARIES: list[Any] = []
