"""Imports run one way, and what is below knows nothing of what is above."""

from __future__ import annotations

import ast
import importlib
import pickle
import re
from pathlib import Path

import pytest

import thalweg as tw
from thalweg.lab.workload.errors import Doubt
from thalweg.optimizer import factors

ROOT = Path(tw.__file__).parent

ROOMS = [
    {"cli"},
    {"lab", "bench"},
    {"algorithms"},
    {"optimizer"},
    {"stepping"},
    {"lowering"},
    {"storage"},
    {"distributed"},
    {"additions"},
    {"rule"},
]
"""From the top down. A module imports from rooms below its own, and in its own by `ORDER`."""

ORDER = {
    "cli": [
        "__main__",
        "app",
        "bench compare lesson memory new_task rate records sensitivity simulate",
        "arguments failing",
    ],
    "stepping": [
        "stepper",
        "planning",
        "making pool",
        "plan",
        "compiled watched",
        "stages",
        "meshes",
        "batches",
        "engines",
        "rests roster sorts",
        "member settings state stall guard past parts",
        "gradients plain rows scaling slots",
        "counters shards",
    ],
    "lowering": [
        "gpu reference cpu",
        "look",
        "passes",
        "spec fusion",
        "trace",
        "machine",
        "chunks files",
    ],
    "storage": ["choices", "codecs layout"],
    "optimizer": [
        "sam",
        "base groups schedules presets moments",
        "evaluated",
        "arranged averaging",
        "stepped",
        "backward grouped offload",
        "mirrors",
        "loading",
        "matching weights",
        "arguments depths factors handles holding hooks obstacles priming saving unscaling",
        "compiling",
    ],
    "rule": ["resting", "recipe", "addition", "rule", "hyper measure rest roots", "maths"],
}
"""Within a room, likewise; what stands in one line knows nothing of its neighbours."""

LEVEL = {name: level for level, room in enumerate(ROOMS) for name in room}

LAB_ROOMS = [
    {"lesson", "sweeping"},
    {"comparing", "memory", "simulating"},
    {"showing"},
    {"judging", "running"},
    {"study"},
    {"workload"},
    {"spaces", "landscape"},
]
"""The rooms of the lab, likewise."""

LAB_ORDER = {
    "lesson": [
        "command",
        "page",
        "wording",
        "known landscape",
        "making",
        "claims",
        "batches experiments counting",
        "arms workloads",
        "claim keeping probes",
        "found judging",
        "experiment",
        "plans",
        "scale",
    ],
    "comparing": [
        "api command",
        "comparison",
        "carrying",
        "beginning",
        "trying",
        "spending",
        "choosing group",
        "budget former identity optimizers",
        "digests",
        "sources",
    ],
    "sweeping": ["rate sensitivity", "asked"],
    "memory": ["command", "api", "page", "picture", "counted", "optimizers", "footprint", "parts"],
    "simulating": ["command", "studies", "families"],
    "showing": ["result console", "report", "ahead figures results export pages"],
    "judging": [
        "missing",
        "explanation findings ranges",
        "doubts verdict",
        "cautions levels",
        "measures wording",
        "statistics quantities",
    ],
    "running": [
        "execution",
        "pool store rehearsal",
        "worker kept",
        "serving absence",
        "connecting endings limits parcel processes trial",
        "course",
        "checkpoints explaining hopeless whole",
        "watching",
        "leave logs memory sampling training",
        "resuming",
        "attributes drawing schedules",
        "faults marks ranks",
    ],
    "study": ["grid", "protocol", "evidence extension", "study intervals looks", "record", "why"],
    "workload": [
        "models",
        "adapters",
        "shipped tasks template",
        "looking",
        "lazy",
        "chance contract data batches errors",
        "switches",
    ],
    "spaces": ["recipe", "known search", "space together"],
    "landscape": ["planes", "hessian lines noise stability updates", "spectra", "vectors"],
}
"""What asks for a picture stands above what draws it, and imports that when it is asked."""

LAB_LEVEL = {name: level for level, room in enumerate(LAB_ROOMS) for name in room}

TEMPLATE = ("workload", "template", "my_task")
"""A user's own file, which imports what users import."""


def path_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix("").parts


def imported(path: Path) -> set[tuple[str, ...]]:
    """Return what a file imports of `thalweg`, wherever in the file, as paths below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {tuple(m.split(".")[1:]) for m in modules if m.startswith("thalweg.")}
    return found


def place(room: str, module: str, order: dict[str, list[str]] = ORDER) -> int:
    found = [i for i, names in enumerate(order[room]) if module in names.split()]
    assert found, f"{module} has no place in {room}"
    return found[0]


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.stem[0] != "_"]


def entries(folder: Path) -> set[str]:
    """What a folder holds, without folders in which an earlier version has left nothing but caches."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.parts[0] for path in files if "__pycache__" not in path.parts}


def test_the_ground_floor_is_rooms():
    assert len(entries(ROOT) - {"__init__.py", "_version.py", "cli", "py.typed"}) <= 10


def test_the_lab_is_rooms():
    found = entries(ROOT / "lab") - {"__init__.py", "README.md"}
    assert len(found) <= 12
    assert {name.removesuffix(".py") for name in found} == LAB_LEVEL.keys()


LISTED = ["rule", "optimizer", "stepping", "lowering", "storage", "distributed"]
"""The rooms whose files `docs/architecture.md` lists one by one."""

IN_A_WORD = {"batches", "engines", "groups"}
"""Folders that it does not look into."""


@pytest.mark.parametrize("room", LISTED)
def test_the_list_of_the_house_has_every_file_and_no_other(room):
    text = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^{room}/ .*\n(?:  .*\n)+", text, re.MULTILINE)
    files = {path.relative_to(ROOT / room) for path in (ROOT / room).rglob("*.py")}
    names = {path.name for path in files if path.name != "__init__.py"}
    needed = {path.name for path in files if path.name in names and path.parts[0] not in IN_A_WORD}
    said = set(re.findall(r"\w+\.py", block))
    assert needed - said == set(), "they have no place in the list"
    assert said - names == set(), "they are no more"


@pytest.mark.parametrize(
    "room",
    sorted(
        str(path.relative_to(ROOT))
        for path in (*ROOT.iterdir(), *(ROOT / "lab").iterdir())
        if (path / "__init__.py").exists()
    ),
)
def test_every_room_says_what_it_is(room):
    text = (ROOT / room / "README.md").read_text()
    assert len(text.splitlines()) <= 14
    for said in ("Lives here", "May import", "To add"):
        assert said in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down(path):
    own, *inside = path_of(path)
    assert own in LEVEL, f"{own} has no place in the order of rooms"
    for other, *rest in imported(path):
        if other.startswith("_version") or (own in ("cli", "lab", "bench") and other in tw.__all__):
            continue  # they use the public names
        if other != own:
            assert LEVEL[own] < LEVEL[other], f"{own} imports {other}"
        elif own in ORDER and inside != ["__init__"] and rest[0] != inside[0]:
            assert place(own, inside[0]) < place(own, rest[0]), f"{inside[0]} imports {rest[0]}"


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path_of(path)[0] == "lab" and path_of(path)[1:] != ("__init__",)],
    ids=lambda path: str(path.relative_to(ROOT / "lab")),
)
def test_imports_of_the_lab_run_down(path):
    own, *inside = path_of(path)[1:]
    assert own in LAB_LEVEL, f"{own} has no place in the order of the lab's rooms"
    for _, other, *rest in (names for names in imported(path) if names[0] == "lab"):
        if (own, *inside) == TEMPLATE:
            assert rest[0] in importlib.import_module(f"thalweg.lab.{other}").__all__
        elif other != own:
            assert LAB_LEVEL[own] < LAB_LEVEL[other], f"{own} imports {other}"
        elif inside != ["__init__"] and rest[0] != inside[0]:
            assert place(own, inside[0], LAB_ORDER) < place(own, rest[0], LAB_ORDER), (
                f"{inside[0]} imports {rest[0]}"
            )


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("thalweg.lab", "Axis Evaluation Result Space Split Workload compare device_of tasks"),
        ("thalweg.lab", "StoreError TrialError WorkerDiedError"),
        ("thalweg.lab.errors", "TrialError StoreError WorkerDiedError"),
        ("thalweg.lab.workload", "Evaluation Split Workload device_of"),
        ("thalweg.lab.spaces", "FEW SOME MANY Axis Space"),
    ],
)
def test_users_files_find_what_documents_have_shown_them(module, names):
    for name in names.split():
        assert getattr(importlib.import_module(module), name) is not None


def test_pickles_of_a_former_version_find_its_errors():
    former = b"cthalweg.lab.errors\nDoubt\n(Vmodel\nVtrained before\ntR."
    assert pickle.loads(former) == Doubt("model", "trained before")


def test_whole_schedules_of_a_former_version_find_their_factors():
    for kind in (factors.Phases, factors.Stairs):
        former = f"cthalweg.optimizer.schedules\n{kind.__name__}\n.".encode()
        assert pickle.loads(former) is kind


def test_algorithms_see_the_optimizer_and_the_vocabulary_only():
    for path in (ROOT / "algorithms").glob("*.py"):
        assert {room for room, *_ in imported(path)} <= {"optimizer", "rule", "algorithms"}, path.name


def test_algorithms_know_no_storage():
    for path in (ROOT / "algorithms").glob("*.py"):
        text = ast.unparse(without_docstrings(ast.parse(path.read_text())))
        assert not re.search(r"\b(float32|bfloat16|data_ptr|stride|numpy|llvm)\b", text), path.name


def test_what_is_below_knows_no_algorithm_by_name():
    names = {name.lower() for name in tw.__all__ if name[0].isupper()} - {"optimizer", "mixed", "sam"}
    below = {name for name in LEVEL if LEVEL[name] >= LEVEL["optimizer"]} - {"rule"}
    for path in FILES:
        if path_of(path)[0] in below:
            code = ast.unparse(without_docstrings(ast.parse(path.read_text())))
            words = set(re.findall(r"[a-z]+", code.lower()))
            assert not words & names, f"{path.name} names {words & names}"


def without_docstrings(tree: ast.AST) -> ast.AST:
    """Drop prose; comments are not in the tree to begin with."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [
                x for x in body if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))
            ] or [ast.Pass()]
    return tree
