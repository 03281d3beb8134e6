import gzip
import http.client
import io
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from thalweg.lab.workload import data
from thalweg.lab.workload.data import MissingDataError, Remote

CONTENT = b"the data"
REMOTE = Remote("file.bin", "https://example.org/file.bin", data.sha256(CONTENT), 1)


@pytest.fixture
def server(monkeypatch):
    """A server that answers with `content`, or raises it, and counts how often it is asked."""

    class Server:
        content: bytes | Exception = CONTENT
        asked = 0

        def __call__(self, url, timeout):
            assert url == REMOTE.url
            assert timeout > 0
            self.asked += 1
            if isinstance(self.content, Exception):
                raise self.content
            return io.BytesIO(self.content)

    fake = Server()
    monkeypatch.setattr(urllib.request, "urlopen", fake)
    return fake


def test_a_file_is_downloaded_once(server, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        assert data.fetch(REMOTE, folder, "advice").read_bytes() == CONTENT
    assert server.asked == 1
    assert REMOTE.url in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["file.bin"]


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    assert data.fetch(REMOTE, tmp_path, "advice").read_bytes() == CONTENT
    assert server.asked == 1


def test_a_wrong_checksum_is_an_error_and_nothing_is_kept(server, tmp_path):
    server.content = b"something else"
    with pytest.raises(MissingDataError, match=r"SHA-256 .* not .*; what to do") as raised:
        data.fetch(REMOTE, tmp_path, "what to do")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError(OSError(-2, "Name or service not known")), "Name or service not known"),
        (urllib.error.HTTPError(REMOTE.url, 404, "Not Found", None, None), "Not Found"),
        (TimeoutError("timed out"), "timed out"),
        (http.client.IncompleteRead(b"part"), "IncompleteRead"),
    ],
)
def test_without_network_one_line_says_why_and_what_to_do(server, tmp_path, error, reason):
    server.content = error
    with pytest.raises(MissingDataError) as raised:
        data.fetch(REMOTE, tmp_path, "what to do")
    message = str(raised.value)
    assert message.startswith(f"cannot download {REMOTE.url}: ")
    assert reason in message
    assert message.endswith("; what to do")
    assert "\n" not in message


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MissingDataError, match="THALWEG_DATA_DIR"):
        data.fetch(REMOTE, tmp_path / "file", "advice")


def test_the_cache_lies_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("THALWEG_DATA_DIR", str(tmp_path))
    assert data.cache_folder("cifar10") == tmp_path / "cifar10"
    monkeypatch.delenv("THALWEG_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data.cache_folder("cifar10").parts[-3:] == ("thalweg", "data", "cifar10")


def test_who_has_no_home_is_told_to_name_a_folder(monkeypatch):
    def homeless(name):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("THALWEG_DATA_DIR", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", homeless)
    with pytest.raises(MissingDataError, match=r"no home directory .* set THALWEG_DATA_DIR"):
        data.cache_folder("cifar10")


def test_a_file_is_unpacked_by_its_name(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "a").write_bytes(CONTENT)
    assert data.unpacked(tmp_path / "a.gz") == data.unpacked(tmp_path / "a") == CONTENT


@pytest.mark.parametrize("damage", [lambda packed: packed[:-4], lambda packed: b"no gzip" + packed])
def test_a_damaged_packed_file_is_named(tmp_path, damage):
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(CONTENT)))
    with pytest.raises(MissingDataError, match=r"cannot read '.*a\.gz'"):
        data.unpacked(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="No such file"):
        data.unpacked(Path(tmp_path / "a.gz"))
