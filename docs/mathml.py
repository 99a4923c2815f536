"""MkDocs hook: formulas become MathML, which browsers show without scripts and without a network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Replaces every formula of a page (MkDocs calls this on the page's HTML)."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return f"<{match[1]}>{convert(html.unescape(match[3]), display=display)}</{match[1]}>"
