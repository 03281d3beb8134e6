"""Builds wheel and sdist, and tries the wheel in an environment that holds what its metadata ask for alone.

`make wheel`. That environment is a new one, with the wheel and links to packages beside this Python: those
that the metadata name, and what these need. So an import that no metadata name fails, and nothing is
downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in", "thalweg")

STEP = """
import importlib.util, pathlib, sys, torch, thalweg as tw
assert pathlib.Path(tw.__file__).is_relative_to(sys.prefix), tw.__file__
assert importlib.util.find_spec("typer") is None
param = torch.nn.Parameter(torch.arange(8192.0))
optimizer = tw.AdamW([param], lr=0.5, weight_decay=0.0, state="int8")
param.grad = torch.ones(8192)
optimizer.step()
assert optimizer.state[param]["exp_avg_ratios"].dtype == torch.int8
assert torch.allclose(param, torch.arange(8192.0) - 0.5, atol=1e-3)
"""

SHIPPED = "from thalweg.lab.workload import shipped, tasks; tasks.smoke(shipped.find({name!r}))"
"""Loads a workload, and tries one batch and both evaluations."""

EXTRAS = {
    "speech": SHIPPED.format(name="speech"),
    "series": SHIPPED.format(name="series"),
    "ratings": SHIPPED.format(name="ratings"),
    "rl": SHIPPED.format(name="rl"),
    "postgresql": "import psycopg; psycopg.pq.version()",
}
"""What each extra, beside the lab, is there for."""


def main() -> None:
    """Ends with an error at the first thing that is not as it should be."""
    with tempfile.TemporaryDirectory(prefix="thalweg wheel ") as scratch:
        folder = Path(scratch)
        wheel = build(folder)
        python = environment(folder / "new", wheel)
        call([python, "-c", STEP])
        assert "pip install 'thalweg[lab]'" in call([python, "-m", "thalweg.cli", "--version"], status=2)
        link(named(wheel, "lab"), site(python))
        try_lab(python)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda extra: try_extra(python, wheel, extra), EXTRAS))
    print(f"{wheel.name} installs and works: optimizers alone, the lab, {', '.join(EXTRAS)}")


def try_lab(python: Path) -> None:
    """Runs the command as a new user does, in a folder of their own."""
    from thalweg._version import __version__

    script = python.with_name("thalweg")
    assert call([script, "--version"]) == f"thalweg {__version__}\n"
    shown = call([script, "compare", "digits", "--trials", "2", "--seeds", "2"], cwd=python.parent)
    assert "wrote compare-digits/report.html" in shown, shown


def try_extra(python: Path, wheel: Path, extra: str) -> None:
    """Does what an extra is for, with its packages in a folder beside the environment."""
    folder = python.parent.parent / extra
    folder.mkdir()
    link(named(wheel, extra), folder)
    call([python, "-c", EXTRAS[extra]], PYTHONPATH=str(folder))


def build(folder: Path) -> Path:
    """Makes both from a copy of the tree; the sdist gives the same wheel, and that has every file."""
    source = folder / "source"
    source.mkdir()
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    wheel, sdist = built(source, folder, "wheel"), built(source, folder, "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [unpacked] = (folder / "unpacked").iterdir()
    assert contents(wheel) == contents(built(unpacked, folder / "unpacked", "wheel")), "the sdist's differs"
    expected = {
        str(path.relative_to(source))
        for path in (source / "thalweg").rglob("*")
        if path.is_file() and path.name != "README.md" and "__pycache__" not in path.parts
    }
    held = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert held == expected, f"not the package's files: {held ^ expected}"
    return wheel


def built(source: Path, into: Path, kind: str) -> Path:
    """Calls setuptools as `pip` and `build` do (PEP 517), without a copy of it that would be downloaded."""
    program = f"from setuptools import build_meta as b; print(b.build_{kind}({str(into)!r}))"
    return into / call([sys.executable, "-c", program], cwd=source).splitlines()[-1]


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def named(wheel: Path, extra: str) -> list[Requirement]:
    """What the metadata name for an extra; "" for what is always needed."""
    [text] = [content.decode() for name, content in contents(wheel).items() if name.endswith("/METADATA")]
    all_ = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)$", text, flags=re.M)]
    return [one for one in all_ if applies(one, {extra}) and (not extra or not applies(one, {""}))]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether it is asked for with one of these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def environment(folder: Path, wheel: Path) -> Path:
    """A new environment with the wheel and what that always asks for; its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    call([*pip, "--disable-pip-version-check", wheel])
    link(named(wheel, ""), site(python))
    return python


def site(python: Path) -> Path:
    """Where an environment has its packages."""
    [place] = python.parent.parent.glob("lib/python*/site-packages")
    return place


def link(requirements: list[Requirement], place: Path) -> None:
    """Makes what is asked for, and what that asks for, importable from a folder."""
    for package in needed(requirements):
        for top, target in entries(package):
            if not (place / top).exists():
                (place / top).symlink_to(target)


def needed(waiting: list[Requirement]) -> Iterator[metadata.Distribution]:
    """The installed packages that these ask for, with all that they ask for."""
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        if (one.name, frozenset(one.extras)) in seen:
            continue
        seen.add((one.name, frozenset(one.extras)))
        package = metadata.distribution(one.name)
        assert one.specifier.contains(package.version, prereleases=True), f"{one}: {package.version} is here"
        yield package
        further = map(Requirement, package.requires or [])
        waiting += [another for another in further if applies(another, {"", *one.extras})]


def entries(package: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """What a package has put beside the others: names, and where they lie."""
    tops = {path.parts[0] for path in package.files or [] if path.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        yield top, Path(str(package.locate_file(top)))


def call(command: list[Any], status: int = 0, cwd: Path | None = None, **more: str) -> str:
    """Runs a command that sees nothing of the repository; what it says."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd or tempfile.gettempdir(),
        env={name: value for name, value in os.environ.items() if name not in hidden} | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if status else "")


if __name__ == "__main__":
    main()
