import json
import re
import subprocess
import sys
from collections import Counter

import pytest

import thalweg
from thalweg.cli import main
from thalweg.lab.workload.shipped.digits import Digits

PYTHON = [sys.executable, "-c", "from thalweg.cli import main; main()"]


def failure(capsys, *arguments) -> str:
    """Runs arguments that must be refused; the one line that says why."""
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == ""
    assert re.fullmatch(r"thalweg: [^\n]+\n", err)
    return err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--nonsense"], ["--nonsense"]),
        (["frobnicate"], ["frobnicate"]),
        (["compare"], ["TASK"]),
        (["compare", "mnist"], ["'mnist'", "digits", "fashion-mnist"]),
        (["compare", "digits", "--nonsense"], ["--nonsense"]),
        (["compare", "digits", "extra"], ["extra"]),
        (["compare", "digits", "--trials", "0"], ["--trials", "0", "at least 1"]),
        (["compare", "digits", "--trials", "two"], ["--trials", "'two'", "whole number"]),
        (["compare", "digits", "--seeds", "-3"], ["--seeds", "-3", "at least 1"]),
        (["compare", "digits", "--workers", "0"], ["--workers", "0", "at least 1"]),
        (["compare", "digits", "--seed", "-1"], ["--seed", "-1", "from 0"]),
        (["compare", "digits", "--margin", "-1"], ["--margin", "-1", "at least 0"]),
        (["compare", "digits", "--margin", "nan"], ["--margin", "nan", "finite"]),
        (["compare", "digits", "--margin", "big"], ["--margin", "'big'", "number"]),
        (["compare", "digits", "--budget", "soon"], ["--budget", "'soon'", "10m"]),
        (["compare", "digits", "--budget", "5m", "--seeds", "3"], ["--budget", "--seeds"]),
        (["compare", "digits", "--limit", "0"], ["--limit", "above 0"]),
        (["compare", "digits", "--optimizers", "sgd,x"], ["--optimizers", "'x'", "adamw"]),
        (["compare", "digits", "--optimizers", "sgd,sgd"], ["--optimizers", "at least two"]),
        (["compare", "digits", "--optimizers", ""], ["--optimizers", "''", "adamw"]),
        (["compare", "digits", "--optimizers", "sgd,my.Own"], ["--optimizers", "'my.Own'", "spaces"]),
        (["compare", "digits", "--out", "/dev/null/x"], ["--out", "/dev/null/x"]),
        (["compare", "missing.py"], ["missing.py", "new-task"]),
        (["trial", "/dev/null/x", "--id", "0"], ["/dev/null/x"]),
        (["trial", "/dev/null"], ["--id"]),
    ],
)
def test_bad_arguments_get_one_line_and_status_2(capsys, monkeypatch, tmp_path, arguments, named):
    monkeypatch.chdir(tmp_path)
    line = failure(capsys, *arguments)
    assert all(name in line for name in named)


def test_out_may_not_be_a_file(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert "--out" in failure(capsys, "compare", "digits", "--out", str(tmp_path / "file"))


@pytest.mark.parametrize("name", ["cloudpickle", "optuna", "plotly", "rich", "scipy", "sklearn"])
def test_a_missing_extra_is_named_with_its_cure(capsys, monkeypatch, name):
    monkeypatch.setattr("thalweg.cli.failing.find_spec", lambda wanted: None if wanted == name else wanted)
    line = failure(capsys, "compare", "digits")
    assert name in line
    assert "pip install 'thalweg[lab]'" in line


def test_missing_typer_is_one_line():
    program = "import sys; sys.modules['typer'] = None; import thalweg.cli"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"thalweg: [^\n]*pip install 'thalweg\[lab\]'\n", done.stderr)


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"thalweg {thalweg.__version__}\n"


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "thalweg.cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"thalweg {thalweg.__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    assert "compare" in capsys.readouterr().out


def test_help_and_the_package_import_nothing_of_the_lab():
    program = (
        "import sys, thalweg; from thalweg.cli import main\n"
        "try: main(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "lab = [m for m in sys.modules if m.startswith('thalweg.lab')]\n"
        "extra = {'optuna', 'scipy', 'sklearn', 'plotly', 'rich'} & set(sys.modules)\n"
        "assert not lab and not extra, (lab, extra)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    """`thalweg compare digits` with the fewest trials and seeds, as a user runs it."""
    out = tmp_path_factory.mktemp("compare") / "new" / "folder"
    arguments = ["compare", "digits", "--trials", "2", "--seeds", "2", "--out", str(out)]
    done = subprocess.run([*PYTHON, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done, out


def test_compare_prints_ranking_verdict_code_and_paths(smallest):
    done, out = smallest
    assert re.search(r"^optimizer +test %", done.stdout)
    assert "No verdict: 7 seeds are the fewest that can tell, not 2." in done.stdout
    codes = re.findall(r"^  (thalweg\.\w+\(.*\))$", done.stdout, flags=re.MULTILINE)
    assert [code.split("(")[0] for code in codes] != []
    for code in codes:
        compile(code, "code", "eval")
    assert f"wrote {out / 'report.html'}\nwrote {out / 'results.json'}\n" in done.stdout


def test_compare_reports_progress_in_plain_lines_where_there_is_no_terminal(smallest):
    done, _ = smallest
    lines = done.stderr.splitlines()
    assert lines[0] == "3 optimizers need 7 seeds for a verdict, not 2"
    assert "30 runs to go" in lines
    assert re.search(r"^\d+/\d+ runs, \d+:\d\d gone, .*\d:\d\d left$", done.stderr, flags=re.MULTILINE)
    assert "\x1b" not in done.stderr + done.stdout


def test_compare_writes_its_files_and_nothing_else(smallest):
    _, out = smallest
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "results.json", "study.db"]
    document = json.loads((out / "results.json").read_text())
    stages = Counter(record["stage"] for record in document["records"])
    assert (stages["tune"], stages["confirm"], stages["final"]) == (3 * 2, 3 * 2 * 3, 3 * 2)
    assert [row["name"] for row in document["ranking"]].count("adamw") == 1
    assert document["verdict"]["headline"] in (out / "report.html").read_text()


def test_the_same_command_finds_all_runs_done(smallest):
    done, out = smallest
    arguments = ["compare", "digits", "--trials", "2", "--seeds", "2", "--out", str(out)]
    again = subprocess.run([*PYTHON, *arguments], capture_output=True, text=True, check=True)
    assert "runs that were made before" in again.stderr
    assert again.stdout == done.stdout


def test_files_that_cannot_be_written_do_not_cost_the_answer(capsys, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    class Brief(Digits):
        steps = 22

    monkeypatch.setattr("thalweg.lowering.files.write_atomically", full)
    monkeypatch.setattr("thalweg.lab.workload.shipped.find", lambda name, data: Brief())
    options = {"--trials": "1", "--seeds": "1", "--workers": "1", "--out": str(tmp_path)}
    with pytest.raises(SystemExit) as exit_:
        main(["compare", "digits", *(word for option in options.items() for word in option)])
    out, err = capsys.readouterr()
    assert exit_.value.code == 1
    assert "thalweg.AdamW(model.parameters()" in out
    assert re.fullmatch(r"thalweg: [^\n]*No space left on device[^\n]*", err.splitlines()[-1])


def test_new_task_writes_a_file_once(capsys, tmp_path):
    path = tmp_path / "mine.py"
    with pytest.raises(SystemExit) as exit_:
        main(["new-task", str(path)])
    assert exit_.value.code == 0
    assert str(path) in capsys.readouterr().out
    compile(path.read_text(), str(path), "exec")
    assert "exists already" in failure(capsys, "new-task", str(path))
