"""Charts inside the page: matplotlib's SVG in the colours of the page, light or dark."""

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots import new_figure, plain_text, svg_of
from ..training.curves import PALETTE
from .calibration import Calibration
from .metrics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["inline_svg", "interval_chart", "reliability_diagram"]

_VARIABLES = {
    **{colour.lower(): f"var(--series-{number})" for number, colour in enumerate(PALETTE[:6])},
    "#000000": "var(--ink)",
    "#e6e6e6": "var(--rule)",  # matplotlib's grey 0.9, of grids
    "#595959": "var(--muted)",
    "#404040": "var(--muted)",
}
"""Colours of the figures, and the variables of page.css that stand for them."""
_CLEANING = (
    (r"<metadata>.*?</metadata>", ""),
    (r"<style.*?</style>", ""),  # it would hold for the whole page
    (r' id="(?![mp][0-9a-f]{10}")[^"]*"', ""),  # two figures on a page have the same names; these are digests
    (r"font-family: [^;\"]*", "font-family: inherit"),
    (r"\s*\n\s*", " "),
)


def inline_svg(figure: "Figure", title: str) -> str:
    """A figure as an SVG element for the page.

    Args:
        figure: with a transparent background, in the colours of `timm_gcp.training.curves`.
        title: what it shows, for those who do not see it.
    """
    svg = svg_of(figure)
    head, body = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    opening = f'<svg class="chart" role="img" xmlns="http://www.w3.org/2000/svg" {view[0] if view else ""}'
    opening += ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    for pattern, text in _CLEANING:
        body = re.sub(pattern, text, body, flags=re.DOTALL)
    body = re.sub(r"#[0-9a-fA-F]{6}\b", lambda found: _VARIABLES.get(found[0].lower(), found[0]), body)
    return f"{opening}><title>{html.escape(title)}</title>{body}"


def reliability_diagram(calibration: Calibration) -> "Figure":
    """Accuracy against confidence, bin by bin, above the share of the images in each bin.

    Args:
        calibration: of the predictions.
    """
    figure = new_figure(figsize=(5.2, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width, filled = calibration.edges[1] - calibration.edges[0], calibration.images > 0
    left, accuracy, confidence = (
        each[filled] for each in (calibration.edges[:-1], calibration.accuracy, calibration.confidence)
    )
    above.plot([0, 1], [0, 1], color="0.35", lw=1, ls=(0, (4, 3)), label="calibrated")
    above.bar(left + width / 2, accuracy, 0.9 * width, color=PALETTE[0], alpha=0.75, lw=0, label="accuracy")
    above.vlines(confidence, accuracy, confidence, color=PALETTE[1], lw=2)
    above.plot(confidence, confidence, "o", ms=3.5, color=PALETTE[1], label="mean confidence")
    above.set_ylabel("accuracy")
    above.set_ylim(0, 1.02)
    above.set_xlim(0, 1)
    above.legend(frameon=False, fontsize="small", loc="upper left")
    below.bar(
        calibration.edges[:-1] + width / 2,
        100 * calibration.images / np.sum(calibration.images),
        0.9 * width,
        color=PALETTE[0],
        alpha=0.75,
        lw=0,
    )
    below.set_ylabel("images (%)")
    below.set_xlabel("confidence of the prediction")
    for axes in (above, below):
        _style(axes)
    return figure


def interval_chart(rows: Sequence[tuple[str, Interval, int]]) -> "Figure":
    """Shares of several runs with their confidence intervals, the first at the top.

    Args:
        rows: label, share and number of the colour of each run.
    """
    figure = new_figure(figsize=(5.2, 0.7 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (_, share, number) in enumerate(rows):
        colour = PALETTE[number % len(PALETTE)]
        axes.plot([100 * share.low, 100 * share.high], [place, place], color=colour, lw=2)
        axes.plot(100 * share.value, place, "o", ms=6, color=colour)
    labels = [label if len(label) <= 28 else f"…{label[-27:]}" for label, _, _ in rows]
    axes.set_yticks(range(len(rows)), [plain_text(label) for label in labels])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("top-1 (%), 95 % confidence interval")
    _style(axes)
    return figure


def _style(axes: Any) -> None:
    axes.grid(True, color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
