"""Downloads against a local server that misbehaves on request, and hostile zip archives."""

import errno
import hashlib
import importlib
import re
import stat
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cvlib.data.files.download import download, extract_zip, fetch_bananas

# The name `cvlib.data.files.download` is the function: the module is reached by its import path.
module = importlib.import_module("cvlib.data.files.download")

BODY = np.random.default_rng(0).bytes(1_000_000)
SHA1 = hashlib.sha1(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.body``; what goes wrong is set on the server."""

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        time.sleep(server.delay)
        if server.status:
            self.send_error(server.status)
            return
        start = 0
        if server.accepts_ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(server.body):
                self.send_error(416)
                return
        body = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + server.range_error
            self.send_header("Content-Range", f"bytes {first}-/{len(server.body)}")
        if server.sends_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[:cut])

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    """Ignores clients that hang up, as some tests do."""

    def handle_error(self, request, client_address):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server(("127.0.0.1", 0), Handler)
    server.body, server.accepts_ranges, server.sends_length = BODY, True, True
    server.cuts, server.ranges, server.status = [], [], None
    server.delay, server.range_error = 0, 0
    server.url = f"http://127.0.0.1:{server.server_port}/file.zip"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "file.zip"


def part_of(target):
    return target.with_name("file.zip.part")


def get(server, target, **kwargs):
    return download(server.url, target, sha1=SHA1, progress=False, **kwargs)


def test_a_file_is_downloaded(server, target):
    assert get(server, target) == target
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["file.zip"]
    assert server.ranges == [None]


def test_an_existing_file_is_kept(server, target):
    target.parent.mkdir()
    target.write_bytes(BODY)
    get(server, str(target))
    assert server.ranges == []


def test_an_existing_file_with_a_wrong_checksum_is_replaced(server, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    get(server, target)
    assert target.read_bytes() == BODY


def test_a_partial_file_is_resumed(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(BODY[:300_000])
    get(server, target)
    assert target.read_bytes() == BODY
    assert server.ranges == ["bytes=300000-"]


def test_a_complete_partial_file_is_used(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(BODY)
    get(server, target)
    assert target.read_bytes() == BODY
    assert not part_of(target).exists()


@pytest.mark.parametrize("part", [b"x" * 1000, BODY + b"more"], ids=["other", "too-long"])
def test_a_wrong_partial_file_is_downloaded_again_once(server, target, part):
    target.parent.mkdir()
    part_of(target).write_bytes(part)
    get(server, target)
    assert target.read_bytes() == BODY
    assert server.ranges == [f"bytes={len(part)}-", None]


def test_broken_connections_are_resumed(server, target):
    server.cuts = [250_000, 100_000, 7]
    get(server, target)
    assert target.read_bytes() == BODY
    assert server.ranges == [None, "bytes=250000-", "bytes=350000-", "bytes=350007-"]


def test_server_without_ranges_restarts(server, target):
    server.accepts_ranges = False
    server.cuts = [250_000]
    get(server, target)
    assert target.read_bytes() == BODY
    assert server.ranges == [None, "bytes=250000-"]


def test_server_without_ranges_that_always_breaks_is_given_up(server, target):
    server.accepts_ranges = False
    server.cuts = [200, 100, 200, 100, 200, 100, 200, 100]
    with pytest.raises(ConnectionError, match="the connection was closed too early"):
        get(server, target)
    assert len(server.ranges) == 4


def test_server_without_length(server, target):
    server.sends_length = False
    get(server, target)
    assert target.read_bytes() == BODY


def test_server_that_sends_another_range(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(BODY[:10])
    server.range_error = 1
    with pytest.raises(ConnectionError, match="requested bytes from 10, got others"):
        get(server, target)


def test_connection_that_stays_broken_keeps_the_part(server, target):
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(ConnectionError, match=r"the 1000 bytes so far are kept in .*run again"):
        get(server, target)
    assert part_of(target).read_bytes() == BODY[:1000]
    get(server, target)
    assert target.read_bytes() == BODY


def test_no_network(target):
    url = "http://127.0.0.1:9/file.zip"
    with pytest.raises(ConnectionError, match=re.escape(url) + r".*refused.*--data FOLDER"):
        download(url, target, sha1=SHA1)
    assert not target.exists()


def test_timeout(server, target):
    server.delay = 0.3
    with pytest.raises(ConnectionError, match="timed out"):
        get(server, target, timeout=0.05)


@pytest.mark.parametrize("status", [404, 503])
def test_refusal(server, target, status):
    server.status = status
    with pytest.raises(ConnectionError, match=f"{server.url}, got: the server answered {status} "):
        get(server, target)


def test_wrong_checksum(server, target):
    server.body = b"<html>log in</html>"
    actual = hashlib.sha1(server.body).hexdigest()
    with pytest.raises(ValueError, match=f"expected SHA-1 {SHA1} for .*, got {actual} .19 bytes"):
        get(server, target)
    assert list(target.parent.iterdir()) == []


def test_wrong_checksum_after_a_resume_is_tried_once_more(server, target):
    server.body = BODY[:-1] + bytes([BODY[-1] ^ 1])
    target.parent.mkdir()
    part_of(target).write_bytes(BODY[:10])
    with pytest.raises(ValueError, match="expected SHA-1"):
        get(server, target)
    assert server.ranges == ["bytes=10-", None]
    assert list(target.parent.iterdir()) == []


def test_full_disk_keeps_the_part(server, target, monkeypatch):
    real, left = module._write, [2]

    def write(file, block):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        real(file, block)

    monkeypatch.setattr(module, "_write", write)
    with pytest.raises(OSError, match=r"No space left on device; the .* kept: make room") as caught:
        get(server, target)
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, ConnectionError)
    kept = part_of(target).read_bytes()
    assert kept
    assert kept == BODY[: len(kept)]


def test_short_writes_lose_nothing(tmp_path):
    written = []

    class Narrow:
        def write(self, block):
            written.append(bytes(block[:3]))
            return len(written[-1])

    module._write(Narrow(), b"0123456789")
    assert b"".join(written) == b"0123456789"


def test_unwritable_destination(server, tmp_path):
    (tmp_path / "file.zip.part").mkdir()
    with pytest.raises(OSError, match=r"expected to write .*file\.zip\.part, got: Is a directory"):
        get(server, tmp_path / "file.zip")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "a.zip"])
def test_url_must_be_http(target, url):
    with pytest.raises(ValueError, match="expected `url` to start with http"):
        download(url, target, sha1=SHA1)


def test_sha1_must_be_one(target):
    with pytest.raises(ValueError, match="expected `sha1` of 40 hexadecimal digits, got 'abc'"):
        download("http://host/a", target, sha1="abc")


def test_progress_bar(server, target, capsys):
    download(server.url, target, sha1=SHA1.upper(), progress=True)
    assert "file.zip" in capsys.readouterr().err


def make_zip(path, members, mode=0, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = compression
            archive.writestr(info, data)
    return path


def assert_refused(archive, match, error=ValueError):
    folder = archive.parent
    with pytest.raises(error, match=match):
        extract_zip(archive, folder / "out")
    assert [path.name for path in folder.iterdir()] == [archive.name]


def test_extract(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("x/", b""), ("x/a.txt", b"1"), ("b.txt", b"2")])
    out = extract_zip(str(archive), tmp_path / "deep" / "out")
    assert (out / "x/a.txt").read_bytes() == b"1"
    assert (out / "b.txt").read_bytes() == b"2"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_extract_into_an_empty_folder(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a.txt", b"1")])
    (tmp_path / "out").mkdir()
    assert (extract_zip(archive, tmp_path / "out") / "a.txt").read_bytes() == b"1"


def test_extract_into_a_used_folder(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a.txt", b"1")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("precious")
    with pytest.raises(FileExistsError, match="`destination` to be a new or empty folder, got"):
        extract_zip(archive, tmp_path / "out")
    assert (tmp_path / "out/mine").read_text() == "precious"


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "\\evil", "..\\evil", "C:\\evil", "C:evil"]
)
def test_members_that_climb_out(tmp_path, name):
    archive = make_zip(tmp_path / "a.zip", [("good", b"1"), (name, b"2")])
    assert_refused(archive, "its path leads out of the folder")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_special_files(tmp_path, kind):
    archive = make_zip(tmp_path / "a.zip", [("a", b"/etc/passwd")], mode=kind | 0o777)
    assert_refused(archive, "got member 'a': it is a link or a special file")


def test_encrypted_members(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a", b"1")])
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    assert_refused(archive, "it is encrypted")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_members_of_one_name(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a", b"1"), ("./a", b"2")])
    assert_refused(archive, "it is there twice")


def test_bomb_by_ratio(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a", bytes(3_000_000))])
    assert_refused(archive, "at most 200 times its size of .* bytes, got 3000000 bytes")


def test_bomb_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_UNPACKED", 999)
    archive = make_zip(tmp_path / "a.zip", [("a", b"x" * 500), ("b", b"y" * 500)])
    assert_refused(archive, "unpack to at most 999 bytes, got 1000")


def test_bomb_that_lies_about_its_size(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a", bytes(3_000_000))])
    data = bytearray(archive.read_bytes())
    for start, offset in ((data.index(b"PK\x03\x04"), 22), (data.index(b"PK\x01\x02"), 24)):
        data[start + offset : start + offset + 4] = (100).to_bytes(4, "little")
    archive.write_bytes(data)
    assert_refused(archive, "expected a complete zip file")


@pytest.mark.parametrize("kind", ["half", "flipped", "text"])
def test_damaged_archive(tmp_path, kind):
    archive = make_zip(tmp_path / "a.zip", [("a", BODY[:5000])], compression=zipfile.ZIP_STORED)
    data = archive.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    archive.write_bytes({"half": data[:middle], "flipped": flipped, "text": b"no"}[kind])
    assert_refused(archive, r"expected a complete zip file, got .*a\.zip: .*; download it again")


def test_damaged_deflate_stream(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("a", BODY[:5000].hex())])
    data = bytearray(archive.read_bytes())
    data[60:80] = b"\xff" * 20
    archive.write_bytes(data)
    assert_refused(archive, "expected a complete zip file")


def test_missing_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got .*a\.zip, which does not exist"):
        extract_zip(tmp_path / "a.zip", tmp_path / "out")


@pytest.fixture
def bananas(server, tmp_path, monkeypatch):
    """Serve a tiny archive instead of the real one."""
    members = [
        (f"banana-detection/bananas_{split}/{name}", b"x")
        for split in ("train", "val")
        for name in ("label.csv", "images/0.png")
    ]
    server.body = make_zip(tmp_path / "served.zip", members).read_bytes()
    monkeypatch.setattr(module, "BANANAS_URL", server.url)
    monkeypatch.setattr(module, "BANANAS_SHA1", hashlib.sha1(server.body).hexdigest())
    return server


def test_fetch_once(bananas, tmp_path):
    first = fetch_bananas(tmp_path / "cache")
    assert (first / "bananas_train/images/0.png").is_file()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["banana-detection"]
    assert fetch_bananas(tmp_path / "cache") == first
    assert len(bananas.ranges) == 1


def test_fetch_uses_an_unpacked_set_without_network(tmp_path, monkeypatch):
    for split in ("train", "val"):
        folder = tmp_path / "banana-detection" / f"bananas_{split}"
        folder.mkdir(parents=True)
        (folder / "label.csv").touch()
    monkeypatch.setenv("CVLIB_HOME", str(tmp_path))
    assert fetch_bananas() == tmp_path / "banana-detection"


def test_fetch_default_folder(bananas, tmp_path, monkeypatch):
    monkeypatch.delenv("CVLIB_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert fetch_bananas().is_relative_to(tmp_path / ".cache" / "cvlib")


def test_fetch_over_an_incomplete_copy(bananas, tmp_path):
    (tmp_path / "banana-detection").mkdir()
    with pytest.raises(FileExistsError, match="got an incomplete copy; remove that folder"):
        fetch_bananas(tmp_path)
    assert bananas.ranges == []


def test_fetch_of_an_archive_without_bananas(bananas, tmp_path, monkeypatch):
    bananas.body = make_zip(tmp_path / "served.zip", [("a", b"1")]).read_bytes()
    monkeypatch.setattr(module, "BANANAS_SHA1", hashlib.sha1(bananas.body).hexdigest())
    with pytest.raises(ValueError, match=r"expected bananas_train and bananas_val in .* without"):
        fetch_bananas(tmp_path / "cache")


def test_fetch_without_network(bananas, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BANANAS_URL", "http://127.0.0.1:9/b.zip")
    with pytest.raises(ConnectionError, match="--data FOLDER"):
        fetch_bananas(tmp_path / "cache", timeout=1.0)
