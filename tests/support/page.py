"""Helpers of the tests of pages: what a page loads and says, and the page in a browser."""

import html.parser
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(html.parser.HTMLParser):
    """The addresses that a page loads, its texts, and whether its elements are closed in order."""

    void = frozenset(("meta", "link", "img", "input", "br"))

    def __init__(self, text):
        super().__init__()
        self.addresses, self.texts, self.open, self.pictures = [], [], [], 0
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.pictures += tag == "img"
        self.addresses += [value for name, value in attributes.items() if name in ("src", "href", "xlink:href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data.strip())


def page(path):
    """The page, of which nothing lies elsewhere."""
    return checked_html(path.read_text(encoding="utf-8"))


def checked_html(text):
    """The HTML, of which nothing lies elsewhere."""
    found = Page(text)
    assert all(address.startswith(("data:", "#")) for address in found.addresses)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)
    return found


def in_chromium(path, folder, script=""):
    """The page once its scripts have run, and what they reported; a script of the test runs after those of the page."""
    copied = folder / "page.html"
    copied.write_text(path.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    more = [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    done = subprocess.run([CHROMIUM, *flags, *more, copied.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line and "getImageData" not in line]


chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
