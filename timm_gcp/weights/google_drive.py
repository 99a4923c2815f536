"""Addresses and web pages of files that Google Drive gives to anyone who has the link."""

import html.parser
import re
import urllib.parse

__all__ = ["DOWNLOAD", "confirmed_address", "file_address", "page_address", "quota_used_up", "reason_of_page"]

DOWNLOAD = "https://drive.usercontent.google.com/download"
"""Where Google Drive hands out public files."""

_QUOTA = re.compile(r"quota exceeded|too many users", re.IGNORECASE)


def file_address(file_id: str, download: str = DOWNLOAD) -> str:
    """The address that answers with a file, or with a page that asks for a confirmation."""
    return f"{download}?{urllib.parse.urlencode({'id': file_id, 'export': 'download', 'confirm': 't'})}"


def page_address(file_id: str) -> str:
    """The address of a file's page for people."""
    return f"https://drive.google.com/file/d/{file_id}"


def confirmed_address(page: str, url: str) -> str | None:
    """The address behind the button of the page that asks whether to download a file without a virus scan.

    Args:
        page: HTML.
        url: of the page.

    Returns:
        The address; None if this is another page.
    """
    form = _Form(page)
    if form.action is None:
        return None
    return f"{urllib.parse.urljoin(url, form.action).partition('?')[0]}?{urllib.parse.urlencode(form.inputs)}"


def quota_used_up(page: str) -> bool:
    """Whether a page says that a file was downloaded too often."""
    return _QUOTA.search(page) is not None


def reason_of_page(page: str, url: str) -> str:
    """Why Google Drive answers with a page in place of the file, as a part of a sentence.

    Args:
        page: HTML.
        url: of the page.
    """
    if quota_used_up(page):
        return "Google Drive's quota for this file is used up, for about a day"
    if "ServiceLogin" in url or urllib.parse.urlsplit(url).netloc.startswith("accounts."):
        return "Google Drive asks to sign in, so the file is not open to everyone"
    return f"Google Drive answers with a web page ('{' '.join(_Form(page).title.split())[:60]}'), not the file"


class _Form(html.parser.HTMLParser):
    """Reads the form of a page whose button downloads the file, and the page's title.

    Attributes:
        action: address of the form; None if the page has no such form.
        inputs: hidden fields of the form.
        title: of the page.
    """

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
