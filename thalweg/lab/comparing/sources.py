"""The source that a task depends on: its own file, the user's modules that it imports, versions of packages.

Comments, formatting and docstrings are no part of it: what is looked at is the program that a file holds.
"""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

import thalweg

OURS = Path(thalweg.__file__).resolve().parent

_PYTHONS = {Path(path).resolve() for path in sysconfig.get_paths().values()} | {
    Path(sys.base_prefix).resolve() / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
}


@dataclass
class Sources:
    """What was found.

    Attributes:
        files: the program of each of the user's files, as a digest, by a name to tell it by.
        packages: the version of each package that they import.
        variables: the environment variables that the files read, by name.
        unknown: what could not be looked at, each in a few words.
    """

    files: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    variables: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)


def is_users(path: Path) -> bool:
    """Whether a file is neither Python's, nor an installed package's, nor ours."""
    path = path.resolve()
    if {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(OURS):
        return False
    return not any(path.is_relative_to(folder) for folder in _PYTHONS)


def gather(files: Iterable[Path], modules: Iterable[str] = ()) -> Sources:
    """These files and modules, and all that they import, wherever in them the import stands."""
    found, seen = Sources(), set[str]()
    waiting: list[tuple[str, Path | None]] = [(file.name, file) for file in files]
    waiting += [(module, None) for module in modules]
    while waiting:
        name, path = waiting.pop()
        path = path or _located(name, found)
        if path is None or str(path.resolve()) in seen:
            continue
        seen.add(str(path.resolve()))
        tree = _parsed(path)
        found.files[_unique(name, found)] = _digest(path, tree)
        found.variables.update(_variables(tree))
        waiting += [(imported, None) for imported in _imports(tree, name, path)]
    return found


def program(text: str) -> str:
    """A digest of the program in a text, whatever its comments say and however it is laid out."""
    return _hashed(ast.unparse(_without_docstrings(ast.parse(text))).encode())


def _unique(name: str, found: Sources) -> str:
    return name if name not in found.files else f"{name} ({len(found.files)})"


def _located(name: str, found: Sources) -> Path | None:
    """The user's file that a module is; of what is not the user's, the version of its package is noted."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "thalweg":
        return None
    path = _origin(name)
    if path is None or not is_users(path):
        if _origin(top) is not None or top in sys.modules:
            found.packages[top] = _version(top, found)
        return None
    return path


def _origin(name: str) -> Path | None:
    """Where a module lies, without importing it or what it lies in."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        folders = [] if file else list(getattr(module, "__path__", []))
        return Path(file) if file else Path(folders[0]) if folders else None
    folder, _, last = name.rpartition(".")
    places = None
    if folder:
        parent = _origin(folder)
        if parent is None:
            return None
        places = [str(parent if parent.is_dir() else parent.parent)]
    try:
        spec = PathFinder.find_spec(last or name, places)
    except (ImportError, ValueError, OSError):
        return None
    if spec is None:
        return None
    if spec.origin and Path(spec.origin).is_file():
        return Path(spec.origin)
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0]) if folders else None


def _version(package: str, found: Sources) -> str:
    version = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(version, str):
        return version
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        pass
    if package in sys.modules and not hasattr(sys.modules[package], "__file__"):
        return "no version"
    known = _distributions().get(package, ())
    if known:
        return metadata.version(known[0])
    origin = _origin(package)
    if origin is None or not is_users(origin):  # else its files are looked at
        found.unknown.append(f"the version of {package}")
    return "unknown"


@lru_cache(maxsize=1)
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _parsed(path: Path) -> ast.Module | None:
    if path.suffix != ".py":
        return None
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return None


def _digest(path: Path, tree: ast.Module | None) -> str:
    if tree is not None:
        return _hashed(ast.unparse(_without_docstrings(tree)).encode())
    return _hashed(path.read_bytes()) if path.is_file() else "a folder"


def _hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _imports(tree: ast.Module | None, name: str, path: Path) -> Iterator[str]:
    """The modules that a file imports; of ``from a import b`` both ``a`` and, should it be one, ``a.b``."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _whole(alias.name)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package and not name.endswith(".py") else []
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield from _whole(base)
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _variables(tree: ast.Module | None) -> Iterator[str]:
    """The environment variables that a file reads by name, as ``os.environ["X"]`` or ``os.getenv("X")``."""
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Subscript) and _called(node.value) == "environ":
            name: ast.expr | None = node.slice
        elif isinstance(node, ast.Call) and node.args and _reads_variable(node.func):
            name = node.args[0]
        else:
            continue
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            yield name.value


def _reads_variable(function: ast.expr) -> bool:
    owner = _called(function.value) if isinstance(function, ast.Attribute) else ""
    return _called(function) == "getenv" or (_called(function) == "get" and owner == "environ")


def _called(node: ast.expr) -> str:
    """The last part of a name: that of ``os.environ`` is ``environ``."""
    return getattr(node, "attr", getattr(node, "id", ""))


def _whole(name: str) -> Iterator[str]:
    """A module and the packages that it lies in, whose own files are run too."""
    parts = name.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
