"""What ends the build of the documentation's site: each of its checks on something that is wrong."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from pages import HOOKS, ROOT, hook

griffe = pytest.importorskip("griffe", exc_type=ImportError)
commands = pytest.importorskip("mkdocs.commands.build", exc_type=ImportError)
config = pytest.importorskip("mkdocs.config", exc_type=ImportError)
exceptions = pytest.importorskip("mkdocs.exceptions", exc_type=ImportError)


def build(folder, page, **others):
    """Build a site of one page, and return what it is warned of."""
    for name, text in {"docs/index.md": page, **others}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        (folder / name).touch()
    (folder / "mkdocs.yml").write_text(
        "site_name: one page\n"
        "use_directory_urls: false\n"
        "validation: {links: {anchors: warn, unrecognized_links: warn}, nav: {omitted_files: warn}}\n"
        f"hooks: ['{HOOKS}/beyond.py', '{HOOKS}/titles.py', '{HOOKS}/formulas.py', '{HOOKS}/whole.py']\n"
        "theme: {name: null, custom_dir: theme}\n"
        "markdown_extensions: [{pymdownx.arithmatex: {generic: true}}]\n"
        "nav: [index.md, repository/CONTRIBUTING.md, repository/CHANGELOG.md]\n"
    )
    (folder / "theme").mkdir()
    (folder / "theme/main.html").write_text("<html><body>{{ page.content }}</body></html>")
    heard = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        commands.build(config.load_config(str(folder / "mkdocs.yml")))
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    return heard


def test_what_a_page_links_to_outside_is_published_with_what_that_links_to(tmp_path):
    heard = build(
        tmp_path,
        "# One\n\n[a](../README.md#there) [b](../examples/one.py) [c](https://example.org)\n",
        **{
            "README.md": "# There\n\n[back](docs/index.md), [on](examples/two.md)\n",
            "examples/one.py": "print(1)\n",
            "examples/two.md": "# Two\n",
        },
    )
    assert heard == []
    built = tmp_path / "site"
    assert 'href="repository/index.html#there"' in (built / "index.html").read_text()
    assert "print(1)" in (built / "repository/examples/one.py.html").read_text()
    assert 'href="../index.html"' in (built / "repository/index.html").read_text()
    assert (built / "repository/examples/two.html").is_file()


def test_links_called_by_a_files_name_are_called_by_its_title(tmp_path):
    build(tmp_path, "# One\n\n[../README.md](../README.md) [a](../README.md)\n", **{"README.md": "# There\n"})
    written = (tmp_path / "site/index.html").read_text()
    assert '<a href="repository/index.html">There</a> <a href="repository/index.html">a</a>' in written


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("[a](nowhere.md)", "nowhere.md"),
        ("[a](../NOWHERE.md)", "../NOWHERE.md"),
        ("[a](#nowhere)", "#nowhere"),
        ("[a](../CHANGELOG.md#nowhere)", "nowhere"),
        ('<a href="nowhere.html">a</a>', "nowhere.html"),
        ('<a href="repository/CHANGELOG.html#nowhere">a</a>', "no such anchor"),
        ('<img src="https://example.org/a.png">', "comes from another server"),
        ('<script src="//example.org/a.js"></script>', "comes from another server"),
    ],
)
def test_what_leads_nowhere_or_to_another_server_is_told(page, said, tmp_path):
    assert any(said in line for line in build(tmp_path, f"# One\n\n{page}\n"))


def test_a_page_in_no_menu_is_told(tmp_path):
    assert any("two.md" in line for line in build(tmp_path, "# One\n", **{"docs/two.md": "# Two\n"}))


def test_links_in_code_are_left_as_they_are(tmp_path):
    build(tmp_path, "# One\n\n```\n[a](../README.md)\n```\n", **{"README.md": "# There\n"})
    assert "(../README.md)" in (tmp_path / "site/index.html").read_text()


def test_formulas_are_set_without_a_script(tmp_path):
    assert build(tmp_path, "# One\n\n$x < \\sqrt{y}$\n") == []
    written = (tmp_path / "site/index.html").read_text()
    assert "<math" in written
    assert "arithmatex" not in written


@pytest.mark.parametrize("formula", ["x \\nosuchcommand y", "a & b"])
def test_what_the_converter_of_formulas_does_not_know_is_an_error(formula, tmp_path):
    with pytest.raises((exceptions.Abort, exceptions.PluginError, SystemExit)):
        build(tmp_path, f"# One\n\n$${formula}$$\n")


def test_marks_of_docstrings_become_markdowns():
    markdown = hook("docstrings").markdown
    assert markdown("What :math:`x` is.") == "What $x$ is."
    assert markdown(".. math::\n    a &= b \\\\\n    c &= d\n") == (
        "\n$$\n\\begin{align*}\na &= b \\\\\nc &= d\n\\end{align*}\n$$"
    )
    assert markdown("And\n\n    .. code-block:: python\n\n        f()\n\nthen") == (
        "And\n\n\n    ```python\n    f()\n    ```\n\nthen"
    )


@pytest.fixture(scope="module")
def package():
    return griffe.load("thalweg", search_paths=[ROOT], resolve_aliases=True)


def named():
    return hook("reference").named(ROOT / "docs")


def test_the_reference_is_whole(package):
    assert list(hook("reference").missing(package, named())) == []


def test_a_public_name_that_no_page_has_is_told(package):
    said = list(hook("reference").missing(package, named() - {"thalweg.Lion"}))
    assert said == ["thalweg.Lion is in no page of docs/api"]


@pytest.mark.parametrize(
    "path", ["optimizer.base.Optimizer", "optimizer.base.Optimizer.flush", "optimizer.schedules.wsd"]
)
def test_what_has_no_docstring_is_told(path, package):
    found = package[path]
    kept, found.docstring = found.docstring, None
    try:
        said = list(hook("reference").missing(package, named()))
    finally:
        found.docstring = kept
    assert [line for line in said if line.endswith(f"{found.name} has no docstring")]


def test_an_argument_that_is_not_there_is_told(package):
    found = package["optimizer.presets.half_life"]
    kept = found.docstring
    found.docstring = griffe.Docstring("Half.\n\nArgs:\n    sample: misspelt.\n", parent=found)
    try:
        said = list(hook("reference").missing(package, named()))
    finally:
        found.docstring = kept
    assert said == ["thalweg.half_life describes sample, which it does not take"]


def test_a_claim_that_there_is_not_ends_the_build(monkeypatch):
    measured = hook("measured")
    monkeypatch.setattr(measured, "_known", lambda folder: {})
    page = SimpleNamespace(file=SimpleNamespace(src_uri="how-to-choose.md"))
    with pytest.raises(exceptions.PluginError, match="S-9"):
        measured.on_page_markdown(
            "- [S-9](lesson/README.md)", page=page, config=SimpleNamespace(docs_dir="docs"), files=None
        )
