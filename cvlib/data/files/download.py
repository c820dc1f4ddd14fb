"""Resumable, verified downloads that never leave an incomplete file or folder."""

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
_MAX_FAILURES = 3  # in a row, without receiving a byte
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
    """Download a file, resuming an earlier attempt.

    Bytes are written to ``{destination}.part``, which is renamed once its checksum is verified.
    Broken connections are resumed; if that fails, the partial file is kept for the next call. A
    resumed file with a wrong checksum is downloaded once more from the beginning.

    Args:
        url: Address, http or https.
        destination: File to write. An existing file is kept if its checksum is right, and
            replaced otherwise.
        sha1: Expected SHA-1, 40 hexadecimal digits.
        timeout: Seconds without an answer after which a connection counts as broken.
        progress: Show a progress bar on stderr.

    Returns:
        ``destination``.

    Raises:
        ConnectionError: There is no network, the server refuses, or the connection keeps
            breaking.
        ValueError: The file has another checksum and was removed, or an argument is invalid.
        OSError: The file cannot be written, for instance because the disk is full; the partial
            file is kept.

    Note:
        Two processes must not download to the same destination at once.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"download: expected `url` to start with http:// or https://, got {url!r}")
    if not re.fullmatch(r"[0-9a-fA-F]{40}", sha1):
        raise ValueError(f"download: expected `sha1` of 40 hexadecimal digits, got {sha1!r}")
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
    """Download to ``part``; return whether an existing partial file was resumed."""
    failures, resumed = 0, False
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
        # Compared with the best size so far, in case a server restarts each time.
        failures = 0 if _size(part) > best else failures + 1
        best = max(best, _size(part))
        if failures == _MAX_FAILURES or best == first:
            raise _unreachable(url, part, reason)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _unreachable(url: str, part: Path, reason: str) -> ConnectionError:
    kept = _size(part)
    advice = f"the {kept} bytes so far are kept in {part}: run again to resume; " if kept else ""
    return ConnectionError(
        f"download: expected an answer from {url}, got: {reason}; {advice}if this machine has no "
        "network, download the file on another one and pass its folder (--data FOLDER)"
    )


def _fetch_once(url: str, part: Path, start: int, timeout: float, progress: bool) -> bool:
    """Download from byte ``start`` on; return whether the file is complete."""
    request = urllib.request.Request(url, headers={"User-Agent": "cvlib"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        return True  # nothing after `start`: complete or too long, which the checksum decides
    with response:
        continues = response.status == 206 and _range_start(response) == start
        if response.status == 206 and not continues:
            raise http.client.HTTPException(f"requested bytes from {start}, got others")
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
        # Unlike read, read1 does not lose a partial block when the connection breaks.
        return response.read1(_CHUNK)
    except OSError as error:
        raise ConnectionError(str(error) or type(error).__name__) from error


def _write(file: IO[bytes], block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]  # a nearly full disk may accept only some


@contextmanager
def _opened(part: Path, mode: str) -> Iterator[IO[bytes]]:
    try:
        # Unbuffered, so that errors are raised by write() rather than by close().
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
        "far are kept: make room and run again to resume",
    )


def _sha1(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def extract_zip(archive: str | Path, destination: str | Path) -> Path:
    """Extract a zip archive into a new folder, completely or not at all.

    Archives are refused if they have absolute paths or ``..``, links or other special files,
    encrypted members, or two members of one name, or if they would expand to more than 16 GiB or
    200 times their size.

    Args:
        archive: Zip file.
        destination: Folder to create; it may exist if it is empty.

    Returns:
        ``destination``.

    Raises:
        FileExistsError: ``destination`` exists and is not empty.
        FileNotFoundError: ``archive`` does not exist.
        ValueError: The archive is damaged or refused; nothing is written.
        OSError: The disk is full; nothing is left behind.
    """
    archive, destination = Path(archive), Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(
            f"extract_zip: expected `destination` to be a new or empty folder, got {destination}; "
            "remove it or choose another one"
        )
    if not archive.is_file():
        raise FileNotFoundError(
            f"extract_zip: expected `archive` to be a zip file, got {archive}, which does not exist"
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        with zipfile.ZipFile(archive) as file:
            _check_members(archive, file.infolist())
            # mkdtemp's folder is private (0700); the one inside has the default mode.
            content = scratch / "content"
            content.mkdir()
            file.extractall(content)
        if destination.exists():
            destination.rmdir()
        os.replace(content, destination)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"extract_zip: expected a complete zip file, got {archive}: {error}; download it again"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return destination


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    names: set[str] = set()
    for member in members:
        reason = _find_danger(member)
        name = str(PurePosixPath(member.filename))
        if name in names:
            reason = "it is there twice"
        names.add(name)
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


def _find_danger(member: zipfile.ZipInfo) -> str | None:
    """Return why a member must not be extracted, or None."""
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
    """Download the banana detection dataset, unless it is cached.

    Args:
        cache_dir: Cache folder; by default ``$CVLIB_HOME``, or ``~/.cache/cvlib``.
        timeout: Seconds without an answer after which a connection counts as broken.

    Returns:
        Folder with ``bananas_train`` and ``bananas_val``, for ``BananaDataset``.

    Raises:
        ConnectionError: The dataset is not cached and cannot be downloaded.
        ValueError: The downloaded file is not the expected one.
        FileExistsError: The cache has an incomplete copy.
        OSError: The disk is full.
    """
    if cache_dir is None:
        cache_dir = os.environ.get("CVLIB_HOME") or Path.home() / ".cache" / "cvlib"
    cache = Path(cache_dir).expanduser()
    unpacked = cache / "banana-detection"
    if (folder := _find_bananas(unpacked)) is not None:
        return folder
    if unpacked.exists():
        raise FileExistsError(
            f"fetch_bananas: expected bananas_train and bananas_val in {unpacked}, got an "
            "incomplete copy; remove that folder and run again"
        )
    archive = cache / "banana-detection.zip"
    download(BANANAS_URL, archive, sha1=BANANAS_SHA1, timeout=timeout)
    extract_zip(archive, unpacked)
    folder = _find_bananas(unpacked)
    if folder is None:
        raise ValueError(
            f"fetch_bananas: expected bananas_train and bananas_val in {archive}, got an archive "
            f"without them, unpacked in {unpacked}"
        )
    archive.unlink()
    return folder


def _find_bananas(folder: Path) -> Path | None:
    """Find the dataset in a folder or one level below, as the archive has a top folder."""
    subfolders = sorted(folder.iterdir()) if folder.is_dir() else []
    for candidate in (folder, *subfolders):
        labels = [candidate / f"bananas_{split}" / "label.csv" for split in ("train", "val")]
        if all(path.is_file() for path in labels):
            return candidate
    return None
