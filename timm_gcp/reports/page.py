"""Renders a page as one HTML file: style and script are inside, nothing is loaded from elsewhere."""

import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..files import save_text
from ..version import __version__
from .metrics import Interval

__all__ = ["render", "save_page"]


def save_page(path: Path, template: str, **content: Any) -> None:
    """Renders a template into a file, aside and renamed.

    Args:
        path: the file.
        template: its name, in ``templates/``.
        **content: what it shows.

    Raises:
        GCPError: the file cannot be written.
    """
    save_text(path, render(template, **content))


def render(template: str, **content: Any) -> str:
    """Renders a template.

    Args:
        template: its name, in ``templates/``.
        **content: what it shows.
    """
    return _environment().get_template(template).render(**content)


@cache
def _environment() -> Environment:
    loader = PackageLoader(__package__, "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=_percent, ends=_ends, number=_number, signed=_signed)
    environment.globals.update(version=__version__)
    for name in ("page.css", "page.js"):
        environment.globals[name.replace(".", "_")] = loader.get_source(environment, name)[0]
    return environment


def _percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage without its sign; a dash where it is not defined."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.{digits}f}"


def _ends(interval: Interval) -> str:
    return f"{_percent(interval.low)} – {_percent(interval.high)}"


def _number(value: Any, form: str = ".3f") -> str:
    """A number in a format; a dash where there is none."""
    return format(value, form) if isinstance(value, (int, float)) and not math.isnan(value) else "–"


def _signed(share: float) -> str:
    """A difference of shares in points, with a true minus sign."""
    return f"{100 * share:+.1f}".replace("-", "−")
