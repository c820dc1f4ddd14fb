"""Downloads that can be interrupted, are checked, and never leave half a file or folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

BANANAS_URL = "http://d2l-data.s3-accelerate.amazonaws.com/banana-detection.zip"
BANANAS_SHA1 = "5de26c8fce5ccdea9f91267273464dc968d20d72"

_CHUNK = 1 << 18
_FRUITLESS_ATTEMPTS = 3  # in a row, each without a single byte, before giving up
_MAX_UNPACKED = 16 * 2**30
_MAX_RATIO = 200  # deflate can reach 1030; images, labels and json stay below 30


def download(
    url: str,
    destination: str | Path,
    *,
    sha1: str,
    timeout: float = 10.0,
    progress: bool = True,
) -> Path:
    """Fetch a file, going on where an earlier attempt stopped.

    Bytes go to ``{destination}.part``, which is renamed when its checksum is right. A broken
    connection is taken up again; when it cannot be, the part stays for the next call. When a
    resumed file turns out wrong it is fetched once more from the start.

    Args:
        url: Address, http or https.
        destination: File to write. If it is there with the right checksum, nothing is fetched;
            with a wrong one it is replaced.
        sha1: Expected SHA-1, 40 hexadecimal digits.
        timeout: Seconds without an answer after which a connection counts as broken.
        progress: Show a progress bar on stderr.

    Returns:
        ``destination``.

    Raises:
        ConnectionError: there is no network, the server refuses, or the connection keeps
            breaking.
        ValueError: the file is not the expected one (it is removed), or an argument is wrong.
        OSError: the file cannot be written, for instance because the disk is full; the part is
            kept.

    Note:
        Two processes must not fetch the same destination at once: let one do it first.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"download: expected url to start with http:// or https://, got {url!r}")
    if not re.fullmatch(r"[0-9a-fA-F]{40}", sha1):
        raise ValueError(f"download: expected sha1 of 40 hexadecimal digits, got {sha1!r}")
    destination = Path(destination)
    if destination.is_file() and _sha1(destination) == sha1.lower():
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(destination.name + ".part")
    resumed = _fetch(url, part, timeout, progress)
    actual = _sha1(part)
    if actual != sha1.lower() and resumed:
        part.unlink()
        _fetch(url, part, timeout, progress)
        actual = _sha1(part)
    if actual != sha1.lower():
        size = part.stat().st_size
        part.unlink()
        raise ValueError(
            f"download: expected SHA-1 {sha1.lower()} for {url}, got {actual} ({size} bytes, "
            "removed); the file at that address has changed, or a proxy answered in its place"
        )
    os.replace(part, destination)
    return destination


def _fetch(url: str, part: Path, timeout: float, progress: bool) -> bool:
    """Fetch until the server has nothing more to give; tell whether a part was continued."""
    fruitless, resumed = 0, False
    best = first = _size(part)
    while True:
        start = _size(part)
        resumed = resumed or start > 0
        try:
            if _fetch_once(url, part, start, timeout, progress):
                return resumed
            reason = "the connection was closed too early"
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code} {error.reason}"
            error.close()
            raise _unreachable(url, part, reason) from error
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        # Against the best so far: a server that starts anew each time must not go on for ever.
        fruitless = 0 if _size(part) > best else fruitless + 1
        best = max(best, _size(part))
        if fruitless == _FRUITLESS_ATTEMPTS or best == first:
            raise _unreachable(url, part, reason)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _unreachable(url: str, part: Path, reason: str) -> ConnectionError:
    kept = _size(part)
    advice = f"the {kept} bytes so far are kept in {part}: run again to go on; " if kept else ""
    return ConnectionError(
        f"download: expected an answer from {url}, got: {reason}; {advice}if this machine has no "
        "network, fetch the file on another one and pass its folder (--data FOLDER)"
    )


def _fetch_once(url: str, part: Path, start: int, timeout: float, progress: bool) -> bool:
    """Append what the server sends; tell whether that was all of it."""
    request = urllib.request.Request(url, headers={"User-Agent": "cvlib"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        return True  # nothing after `start`: complete, or too long, which the checksum finds
    with response:
        continues = response.status == 206 and _range_start(response) == start
        if response.status == 206 and not continues:
            raise http.client.HTTPException(f"bytes from {start} were asked for, others were sent")
        length = response.headers.get("Content-Length")
        expected = int(length) if length and length.isdecimal() else None
        offset = start if continues else 0
        with _opened(part, "ab" if continues else "wb") as file:
            received = _copy(response, file, part, offset, expected, progress)
    return expected is None or received >= expected


def _range_start(response: Any) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _copy(
    response: Any, file: IO[bytes], part: Path, offset: int, expected: int | None, progress: bool
) -> int:
    from tqdm import tqdm

    received = 0
    bar = tqdm(
        total=None if expected is None else offset + expected,
        initial=offset,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=part.stem,
        disable=not progress,
    )
    with bar:
        while block := _read(response):
            try:
                _write(file, block)
            except OSError as error:
                raise _unwritable(part, error) from error
            received += len(block)
            bar.update(len(block))
    return received


def _read(response: Any) -> bytes:
    try:
        # read1 gives what has come; read would lose a started block when the connection breaks.
        return response.read1(_CHUNK)
    except OSError as error:
        raise ConnectionError(str(error) or type(error).__name__) from error


def _write(file: IO[bytes], block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]  # a nearly full disk takes less than it is given


@contextmanager
def _opened(part: Path, mode: str) -> Iterator[IO[bytes]]:
    try:
        # Unbuffered: an error belongs to the write that caused it, not to close().
        file = open(part, mode, buffering=0)
    except OSError as error:
        raise _unwritable(part, error) from error
    with file:
        yield file


def _unwritable(part: Path, error: OSError) -> OSError:
    kept = _size(part)
    return OSError(
        error.errno,
        f"download: expected to write {part}, got: {error.strerror or error}; the {kept} bytes so "
        "far are kept: make room and run again to go on",
    )


def _sha1(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def extract_zip(archive: str | Path, destination: str | Path) -> Path:
    """Unpack a zip archive into a new folder, all of it or nothing.

    Refused are members with an absolute path or ``..``, links and other special files, encrypted
    members, two members of one name, and archives that would unpack to more than 16 GiB or to
    more than 200 times their size.

    Args:
        archive: The zip file.
        destination: Folder to create; it may exist if it is empty.

    Returns:
        ``destination``.

    Raises:
        FileExistsError: ``destination`` exists and is not empty.
        FileNotFoundError: there is no such archive.
        ValueError: the archive is damaged or refused; nothing is written.
        OSError: the disk is full; nothing is left behind.
    """
    archive, destination = Path(archive), Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(
            f"extract_zip: expected destination a new or empty folder, got {destination}; remove "
            "it or choose another one"
        )
    if not archive.is_file():
        raise FileNotFoundError(f"extract_zip: expected a zip file, got no file {archive}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        with zipfile.ZipFile(archive) as opened:
            _check_members(archive, opened.infolist())
            # mkdtemp's folder is private (0700); the one inside has the user's usual mode.
            content = scratch / "content"
            content.mkdir()
            opened.extractall(content)
        if destination.exists():
            destination.rmdir()
        os.replace(content, destination)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"extract_zip: expected a whole zip file, got {archive}: {error}; fetch it again"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return destination


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for member in members:
        reason = _refusal(member)
        name = str(PurePosixPath(member.filename))
        if name in seen:
            reason = "it is there twice"
        seen.add(name)
        if reason:
            raise ValueError(
                f"extract_zip: expected plain files and folders in {archive}, got member "
                f"{member.filename!r}: {reason}"
            )
    unpacked = sum(member.file_size for member in members)
    if unpacked > _MAX_UNPACKED:
        raise ValueError(
            f"extract_zip: expected {archive} to unpack to at most {_MAX_UNPACKED} bytes, got "
            f"{unpacked}; unpack it by hand if you trust it"
        )
    packed = archive.stat().st_size
    if unpacked > _MAX_RATIO * packed:
        raise ValueError(
            f"extract_zip: expected {archive} to unpack to at most {_MAX_RATIO} times its size of "
            f"{packed} bytes, got {unpacked} bytes; unpack it by hand if you trust it"
        )


def _refusal(member: zipfile.ZipInfo) -> str | None:
    name = member.filename
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or PureWindowsPath(name).drive or ".." in parts:
        return "its path leads out of the folder"
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a link or a special file"
    if member.flag_bits & 1:
        return "it is encrypted"
    return None


def fetch_bananas(cache_dir: str | Path | None = None, *, timeout: float = 10.0) -> Path:
    """Give the folder of the book's banana detection set, downloading it the first time.

    Args:
        cache_dir: Where to keep it; by default ``$CVLIB_HOME``, else ``~/.cache/cvlib``.
        timeout: Seconds without an answer after which the network counts as absent.

    Returns:
        The folder that holds ``bananas_train`` and ``bananas_val``, for ``BananaDataset``.

    Raises:
        ConnectionError: it is not there and cannot be downloaded.
        ValueError: the download is not the expected file.
        FileExistsError: the cache holds an incomplete copy.
        OSError: the disk is full.
    """
    if cache_dir is None:
        cache_dir = os.environ.get("CVLIB_HOME") or Path.home() / ".cache" / "cvlib"
    cache = Path(cache_dir).expanduser()
    unpacked = cache / "banana-detection"
    if found := _find_bananas(unpacked):
        return found
    if unpacked.exists():
        raise FileExistsError(
            f"fetch_bananas: expected bananas_train and bananas_val in {unpacked}, got an "
            "incomplete copy; remove that folder and run again"
        )
    archive = cache / "banana-detection.zip"
    download(BANANAS_URL, archive, sha1=BANANAS_SHA1, timeout=timeout)
    extract_zip(archive, unpacked)
    found = _find_bananas(unpacked)
    if found is None:
        raise ValueError(
            f"fetch_bananas: expected bananas_train and bananas_val in {archive}, got an archive "
            f"without them, unpacked in {unpacked}"
        )
    archive.unlink()
    return found


def _find_bananas(folder: Path) -> Path | None:
    """Find the set in ``folder`` or one level below: the archive has a top folder of its own."""
    inner = sorted(folder.iterdir()) if folder.is_dir() else []
    for candidate in (folder, *inner):
        labels = [candidate / f"bananas_{split}" / "label.csv" for split in ("train", "val")]
        if all(path.is_file() for path in labels):
            return candidate
    return None
