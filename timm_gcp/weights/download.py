"""Downloads a large file from a plain address or from Google Drive and checks that it is whole and right.

gdown (6.5.1) is not used: if a file changes on the server before a restart, it appends the new file's rest to the old
part, it accepts a web page as the file, and two processes do not wait for each other.
"""

import contextlib
import http.client
import json
import os
import queue
import re
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import constants
from tqdm import tqdm

from ..errors import GCPError
from ..files import sha256_of
from ..version import __version__
from . import google_drive

__all__ = ["download", "is_web_page"]

TIMEOUT = 10.0
"""Seconds for a connection and its first answer, and for each read after it."""

_CHUNK = 1 << 20
_PAGE = 1 << 20  # bytes read of a web page
_ATTEMPTS = 100  # connections, as long as each of them brings some bytes


def is_web_page(head: bytes) -> bool:
    """Whether the first bytes of a file are those of an HTML page."""
    return re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|!--|\?xml)", head, re.IGNORECASE) is not None


def download(
    source: str,
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    what: str = "The file",
    remedy: str = "download it by hand",
    drive: str = google_drive.DOWNLOAD,
) -> Path:
    """Downloads a file, or takes the one that is there already.

    The beginning of an interrupted download is kept beside the target under ``<name>.part`` and continued by the next
    call, unless the file has changed on the server. A second process that wants the same file waits for the first.
    The target appears only when it is whole and, where they are known, of the right size and hash.

    Args:
        source: an ``http(s)://`` address, or ``drive:ID``, a file of Google Drive that anyone may read.
        target: the file to write; its folder is made.
        sha256: the hash in hexadecimal, or the first digits of it, as in the names of torch.hub's files.
        size: in bytes.
        what: what messages call the file, such as 'The weights of resnet50_svdpade'.
        remedy: what to do if it cannot be had: the end of a sentence, without its full stop.
        drive: address of Google Drive's downloads.

    Returns:
        The target.

    Raises:
        GCPError: the file cannot be had: offline mode (``HF_HUB_OFFLINE``), no network within ``TIMEOUT`` seconds, no
            such file, no permission, Drive's quota, a web page in place of the file, an interrupted connection, a wrong
            size or hash, a full disk.
    """
    path = Path(target)
    transfer = _Transfer(source, path, sha256, size, drive)
    try:
        if transfer.have():
            return path
        if constants.HF_HUB_OFFLINE:
            raise _Failure("HF_HUB_OFFLINE is set")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, what):
            if not transfer.have():  # another process may have downloaded it
                transfer.run(what)
    except _Failure as failure:
        at = f" from {transfer.shown}" if source.startswith(("http://", "https://", "drive:")) else ""
        raise GCPError(f"{what} cannot be downloaded{at}: {failure}; {remedy}.") from failure
    except OSError as error:
        raise GCPError(f"{what} cannot be written to {path} ({error.strerror or error}); {remedy}.") from error
    return path


class _Failure(Exception):
    """A download cannot be completed; the message is a part of the sentence that the user sees."""


class _Interrupted(Exception):
    """The network failed; what has arrived can be continued."""


class _Changed(Exception):
    """The server has another file than the one whose beginning has arrived."""


@contextlib.contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{what} is being downloaded by another process; waiting for it.", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Record:
    """Identifies the file that a partial file is the beginning of.

    Attributes:
        source: as ``download`` was given it.
        validator: of the server's answer (see ``_validator``).
        total: bytes of the whole file.
    """

    source: str
    validator: str | None
    total: int | None


class _Transfer:
    """One file on its way: ``<name>.part`` holds what has arrived, ``<name>.part.json`` its ``_Record``."""

    def __init__(self, source: str, target: Path, sha256: str | None, size: int | None, drive: str) -> None:
        self.source, self.target = source, target
        self.sha256, self.size = (sha256 or "").lower(), size
        self.part = target.with_name(f"{target.name}.part")
        self.record = target.with_name(f"{target.name}.part.json")
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        scheme, _, name = source.partition(":")
        self.on_drive = scheme == "drive"
        self.url = google_drive.file_address(name, drive) if self.on_drive else source
        self.shown = google_drive.page_address(name) if self.on_drive else source

    def have(self) -> bool:
        """Whether the target is there and right; one that is wrong is deleted."""
        if not self.target.is_file():
            return False
        if self.fault_of(self.target) is None:
            return True
        self.target.unlink()
        return False

    def fault_of(self, file: Path) -> str | None:
        """What is wrong with a whole file; None if nothing is."""
        length = file.stat().st_size
        if self.size is not None and length != self.size:
            return f"it has {length} bytes, not {self.size}"
        if not length:
            return "it is empty"
        with open(file, "rb") as content:
            if is_web_page(content.read(1024)):
                return "the answer is a web page, not the file"
        if self.sha256 and not (found := sha256_of(file)).startswith(self.sha256):
            return f"its SHA-256 is {found[: max(8, len(self.sha256))]}…, not {self.sha256}"
        return None

    def run(self, what: str) -> None:
        """Downloads the file, by as many connections as it takes, checks it and puts it in place."""
        if not self.url.startswith(("http://", "https://")):
            raise _Failure(f"'{self.source}' is neither an http(s) address nor drive:ID")
        for _ in range(_ATTEMPTS):
            before = self.arrived() if self.known() else 0
            try:
                self.fetch(what)
                break
            except _Interrupted as interruption:
                if self.arrived() <= before:
                    raise _Failure(str(interruption)) from interruption
            except _Changed:
                self.discard()
        else:
            raise _Failure(f"the connection broke off {_ATTEMPTS} times")
        fault = self.fault_of(self.part)
        if fault is not None:
            self.discard()
            raise _Failure(fault)
        os.replace(self.part, self.target)
        self.record.unlink(missing_ok=True)

    def arrived(self) -> int:
        """Bytes of the partial file."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def discard(self) -> None:
        """Deletes the partial file."""
        self.part.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def known(self) -> _Record | None:
        """The record of the partial file; None if it belongs to another source or does not identify the file."""
        try:
            record = _Record(**json.loads(self.record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return record if record.source == self.source and (record.validator or record.total) else None

    def fetch(self, what: str) -> None:
        """Continues the partial file, or begins it, by one connection."""
        record = self.known()
        offset = self.arrived() if record else 0
        if record and record.total and offset == record.total:
            return
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and record and record.validator:
            headers["If-Range"] = record.validator
        response, head = self.answer(headers)
        with response:
            total = _length(response)
            if response.status == 206:
                start, total = _content_range(response)
                if start != offset or (record and record.total not in (None, total)):
                    raise _Changed
            else:
                offset = 0
                self.discard()  # first, so that a part never lies beside the record of another file
                record = _Record(self.source, _validator(response), total)
                self.record.write_text(json.dumps(asdict(record)), encoding="utf-8")
            if self.size is not None and total not in (None, self.size):
                self.discard()
                raise _Failure(f"the server has {total} bytes of it, not {self.size}")
            if total is not None and shutil.disk_usage(self.part.parent).free < total - offset:
                raise _Failure(f"it takes {(total - offset) / 1e6:.0f} MB, more than the disk has left")
            self.receive(response, head, offset, total, what)

    def receive(self, response: Any, chunk: bytes, offset: int, total: int | None, what: str) -> None:
        """Appends what a connection brings to the partial file.

        Args:
            response: an answer of the server.
            chunk: its first bytes, read already.
            offset: bytes that have arrived before.
            total: bytes of the whole file; None if the server does not tell.
            what: what the progress bar calls the file.
        """
        most = total if total is not None else self.size
        hidden = not sys.stderr.isatty()
        bar = tqdm(total=most, initial=offset, unit="B", unit_scale=True, desc=what, disable=hidden, leave=False)
        with bar, open(self.part, "ab" if offset else "wb") as file:
            while chunk:
                offset += len(chunk)
                if most is not None and offset > most:
                    self.discard()
                    raise _Failure(f"the server sends more than {most} bytes")
                file.write(chunk)
                bar.update(len(chunk))
                file.flush()
                chunk = _read(response, _CHUNK)
            os.fsync(file.fileno())
        if total is not None and offset < total:
            raise _Interrupted(f"the connection broke off after {offset} of {total} bytes")

    def answer(self, headers: dict[str, str]) -> tuple[Any, bytes]:
        """The answer that carries the file, and its first bytes; confirms Google Drive's question on the way."""
        for _ in range(2):
            response = self.open(self.url, headers)
            head = _read(response, 1024)
            if response.status == 206 or not is_web_page(head):
                return response, head
            if not self.on_drive:
                response.close()
                raise _Failure("the answer is a web page, not the file")
            with response:
                page = (head + _read(response, _PAGE, whole=True)).decode("utf-8", "replace")
            confirmed = google_drive.confirmed_address(page, response.url)
            if confirmed is None:
                raise _Failure(google_drive.reason_of_page(page, response.url))
            self.url = confirmed
        raise _Failure("Google Drive asks again and again whether to download it")

    def open(self, url: str, headers: dict[str, str]) -> Any:
        """The server's answer to a request, within ``TIMEOUT`` seconds."""
        fixed = {"User-Agent": f"timm-gcp/{__version__}", "Accept-Encoding": "identity"}
        request = urllib.request.Request(url, headers={**fixed, **headers})
        box: queue.Queue[Any] = queue.Queue()

        def work() -> None:
            try:
                box.put(self.opener.open(request, timeout=TIMEOUT))
            except Exception as error:  # raised below, in the thread that waits
                box.put(error)

        # A name that does not resolve, or one of many addresses, could take far longer than a socket's own limit.
        threading.Thread(target=work, daemon=True).start()
        try:
            response = box.get(timeout=TIMEOUT)
        except queue.Empty:
            raise _Interrupted(f"no answer within {TIMEOUT:g} seconds") from None
        if isinstance(response, urllib.error.HTTPError):
            raise self.refusal(response) from response
        if isinstance(response, (OSError, http.client.HTTPException, ValueError)):
            raise _Interrupted(f"no connection ({_reason(response)})") from response
        if isinstance(response, Exception):
            raise response
        return response

    def refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What to raise for an HTTP status that is an error."""
        if error.code == 416:  # more has arrived than the server has
            return _Changed()
        page = _read(error, _PAGE, whole=True).decode("utf-8", "replace") if self.on_drive else ""
        if google_drive.quota_used_up(page):
            return _Failure(google_drive.reason_of_page(page, error.url))
        return _Failure(f"the server answers {error.code} ({error.reason or 'no reason given'})")


def _read(response: Any, length: int, whole: bool = False) -> bytes:
    try:
        return response.read(length) if whole else response.read1(length)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Interrupted(f"the connection broke off ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split()).rstrip(".")


def _length(response: Any) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


def _content_range(response: Any) -> tuple[int | None, int | None]:
    """First byte and whole length by a Content-Range header."""
    found = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (int(found[1]), int(found[2])) if found else (None, None)


def _validator(response: Any) -> str | None:
    """What If-Range takes: a strong ETag, or else the date."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
