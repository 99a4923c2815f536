"""Downloads a large file from a plain address or from Google Drive, and keeps only what is whole and right."""

import contextlib
import hashlib
import html.parser
import http.client
import json
import os
import queue
import re
import shutil
import sys
import threading
import urllib.error
import urllib.parse
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
from ..version import __version__

__all__ = ["DRIVE", "download", "is_web_page", "sha256_of"]

DRIVE = "https://drive.usercontent.google.com/download"
"""Where Google Drive hands out the files that anyone may read."""

TIMEOUT = 10.0
"""Seconds for a connection and its first answer, and for each read after it."""

_CHUNK = 1 << 20
_PAGE = 1 << 20  # of a web page, no more is read
_ATTEMPTS = 100  # as long as each of them brings something


def is_web_page(head: bytes) -> bool:
    """Whether the first bytes of a file are those of an HTML page."""
    return re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|!--|\?xml)", head, re.IGNORECASE) is not None


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    source: str,
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    what: str = "The file",
    remedy: str = "download it by hand",
    drive: str = DRIVE,
) -> Path:
    """Downloads a file, or takes the one that is there already.

    What a cut download leaves lies beside the target under ``<name>.part`` and is continued by the next call, unless
    the file has changed on the server meanwhile. A second process that wants the same file waits for the first.
    Nothing appears under the target's name before it is whole and, where they are known, of the right size and hash.

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
        GCPError: everything that prevents it: offline mode (``HF_HUB_OFFLINE``), no network within ``TIMEOUT`` seconds,
            no such file, no permission, Drive's quota, a web page in place of the file, a cut, a wrong size or hash, a
            full disk.
    """
    path = Path(target)
    transfer = _Transfer(source, path, sha256, size, drive)
    try:
        if transfer.have():
            return path
        if constants.HF_HUB_OFFLINE:
            raise _Failure("HF_HUB_OFFLINE is set")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path, what):
            if not transfer.have():  # another process may have brought it
                transfer.run(what)
    except _Failure as failure:
        at = f" from {transfer.shown}" if source.startswith(("http://", "https://", "drive:")) else ""
        raise GCPError(f"{what} cannot be downloaded{at}: {failure}; {remedy}.") from failure
    except OSError as error:
        raise GCPError(f"{what} cannot be written to {path} ({error.strerror or error}); {remedy}.") from error
    return path


class _Failure(Exception):
    """Why a download ends; a part of the sentence that the user sees."""


class _Cut(Exception):
    """The network's failures, after which what has arrived can be continued."""


class _Changed(Exception):
    """The server has another file than the one whose beginning has arrived."""


@contextlib.contextmanager
def _alone(path: Path, what: str) -> Iterator[None]:
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
    """Which file a partial one is the beginning of."""

    source: str
    validator: str | None
    total: int | None


class _Form(html.parser.HTMLParser):
    """The form on Drive's page that asks whether to download a file too large to be scanned, and the page's title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.inputs: dict[str, str] = {}
        self.title = ""
        self._in_title = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._in_title = tag == "title"
        if tag == "form" and urllib.parse.urlsplit(given.get("action", "")).path.endswith("/download"):
            self.action = given["action"]
        elif tag == "input" and self.action is not None and given.get("type") == "hidden" and "name" in given:
            self.inputs[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data


class _Transfer:
    def __init__(self, source: str, target: Path, sha256: str | None, size: int | None, drive: str) -> None:
        self.source, self.target, self.drive = source, target, drive
        self.sha256, self.size = (sha256 or "").lower(), size
        self.part = target.with_name(f"{target.name}.part")
        self.record = target.with_name(f"{target.name}.part.json")
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        scheme, _, name = source.partition(":")
        if scheme == "drive":
            query = urllib.parse.urlencode({"id": name, "export": "download", "confirm": "t"})
            self.url, self.shown = f"{drive}?{query}", f"https://drive.google.com/file/d/{name}"
        else:
            self.url = self.shown = source

    def have(self) -> bool:
        """Whether the target is there and right; one that is wrong is deleted."""
        if not self.target.is_file():
            return False
        if self.wrong(self.target) is None:
            return True
        self.target.unlink()
        return False

    def wrong(self, file: Path) -> str | None:
        """What is wrong with a whole file."""
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
        if not self.url.startswith(("http://", "https://")):
            raise _Failure(f"'{self.source}' is neither an http(s) address nor drive:ID")
        for _ in range(_ATTEMPTS):
            before = self.arrived() if self.known() else 0
            try:
                self.fetch(what)
                break
            except _Cut as cut:
                if self.arrived() <= before:
                    raise _Failure(str(cut)) from cut
            except _Changed:
                self.discard()
        else:
            raise _Failure(f"the connection broke off {_ATTEMPTS} times")
        problem = self.wrong(self.part)
        if problem is not None:
            self.discard()
            raise _Failure(problem)
        os.replace(self.part, self.target)
        self.record.unlink(missing_ok=True)

    def arrived(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def known(self) -> _Record | None:
        """What the partial file is the beginning of; None if that is another file, or cannot be told from one."""
        try:
            record = _Record(**json.loads(self.record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return record if record.source == self.source and (record.validator or record.total) else None

    def fetch(self, what: str) -> None:
        """One connection: continues the partial file, or begins it."""
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
            raise _Cut(f"the connection broke off after {offset} of {total} bytes")

    def answer(self, headers: dict[str, str]) -> tuple[Any, bytes]:
        """The answer that carries the file, and its first bytes; Drive's question is answered on the way."""
        for _ in range(2):
            response = self.open(self.url, headers)
            head = _read(response, 1024)
            if response.status == 206 or not is_web_page(head):
                return response, head
            with response:
                page = head + _read(response, _PAGE, whole=True)
            if not self.source.startswith("drive:"):
                raise _Failure("the answer is a web page, not the file")
            form = _Form(page.decode("utf-8", "replace"))
            if form.action is None:
                raise _Failure(_complaint(page, form.title, response.url))
            query = urllib.parse.urlencode(form.inputs)
            self.url = f"{urllib.parse.urljoin(response.url, form.action).partition('?')[0]}?{query}"
        raise _Failure("Google Drive asks again and again whether to download it")

    def open(self, url: str, headers: dict[str, str]) -> Any:
        fixed = {"User-Agent": f"timm-gcp/{__version__}", "Accept-Encoding": "identity"}
        request = urllib.request.Request(url, headers={**fixed, **headers})
        box: queue.Queue[Any] = queue.Queue()

        def work() -> None:
            try:
                box.put(self.opener.open(request, timeout=TIMEOUT))
            except Exception as error:  # handed over to the thread that waits
                box.put(error)

        # A name that does not resolve, or one of many addresses, could take far longer than a socket's own limit.
        threading.Thread(target=work, daemon=True).start()
        try:
            response = box.get(timeout=TIMEOUT)
        except queue.Empty:
            raise _Cut(f"no answer within {TIMEOUT:g} seconds") from None
        if isinstance(response, urllib.error.HTTPError):
            if response.code == 416:  # more has arrived than the server has
                raise _Changed from response
            page = _read(response, _PAGE, whole=True) if self.source.startswith("drive:") else b""
            said = f"the server answers {response.code} ({response.reason or 'no reason given'})"
            raise _Failure(_complaint(page, said, response.url) if _QUOTA.search(page) else said) from response
        if isinstance(response, (OSError, http.client.HTTPException, ValueError)):
            raise _Cut(f"no connection ({_words(response)})") from response
        if isinstance(response, Exception):
            raise response
        return response


_QUOTA = re.compile(rb"quota exceeded|too many users", re.IGNORECASE)


def _complaint(page: bytes, title: str, url: str) -> str:
    """What a page of Drive's says in place of the file."""
    if _QUOTA.search(page):
        return "Google Drive's quota for this file is used up, for about a day"
    if "ServiceLogin" in url or urllib.parse.urlsplit(url).netloc.startswith("accounts."):
        return "Google Drive asks to sign in, so the file is not open to everyone"
    return f"Google Drive answers with a web page ('{' '.join(title.split())[:60]}'), not the file"


def _read(response: Any, length: int, whole: bool = False) -> bytes:
    try:
        return response.read(length) if whole else response.read1(length)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Cut(f"the connection broke off ({_words(error)})") from error


def _words(error: Exception) -> str:
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
