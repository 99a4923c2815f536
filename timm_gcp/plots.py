"""Draws plots without a display: matplotlib's ``Figure`` on the Agg canvas, imported when it is needed."""

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from .files import written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["integer_locator", "new_figure", "plain_text", "save_figure", "svg_of"]

_BACKEND = "MPLBACKEND"


def _load_matplotlib() -> None:
    """Imports matplotlib, even if the environment names a backend that is missing (such as a notebook's)."""
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop(_BACKEND, None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ[_BACKEND] = backend
    if backend:
        # As the import itself would have done, so that pyplot uses this backend elsewhere in the process.
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def new_figure(**options: Any) -> "Figure":
    """An empty figure; takes the arguments of matplotlib's ``Figure``."""
    _load_matplotlib()
    from matplotlib.figure import Figure

    return Figure(**options)


def integer_locator(**options: Any) -> Any:
    """A locator of ticks at whole numbers; takes the arguments of matplotlib's ``MaxNLocator``."""
    _load_matplotlib()
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, **options)


def plain_text(text: str) -> str:
    """A text for a figure, in which matplotlib reads no formula."""
    return text.replace("$", r"\$")


def save_figure(figure: "Figure", out_png: str | os.PathLike[str], dpi: int = 150) -> None:
    """Writes a plot as a PNG file, completely or not at all.

    Args:
        figure: of ``new_figure``.
        out_png: the file.
        dpi: dots per inch.

    Raises:
        GCPError: the file cannot be written, or is a pipe or a device.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with written_aside(out_png) as scratch:
        figure.savefig(scratch, format="png", dpi=dpi)


def svg_of(figure: "Figure") -> str:
    """A plot as an SVG element whose texts are text; the same plot gives the same element.

    Args:
        figure: of ``new_figure``.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "timm_gcp"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
