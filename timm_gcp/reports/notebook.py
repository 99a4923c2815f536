"""HTML of results for a notebook: a title, a small table, charts, pictures and a table that unfolds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .charts import inline_svg
from .page import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Fact", "Picture", "Table", "show"]


@dataclass(frozen=True)
class Fact:
    """A line of the small table.

    Attributes:
        name: on the left.
        value: on the right.
        note: beside it, in grey.
    """

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image with its caption.

    Attributes:
        uri: ``data:`` address of the picture; None where there is none.
        name: of the image.
        lines: name and value of each line below it, and whether it stands out.
    """

    uri: str | None
    name: str
    lines: Sequence[tuple[str, str, bool]]


@dataclass(frozen=True)
class Table:
    """A table that unfolds.

    Attributes:
        title: what is always shown.
        columns: names; the first and the last hold texts, the others numbers.
        rows: of texts.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def show(
    title: str,
    *,
    facts: Sequence[Fact] = (),
    figures: Sequence["Figure"] = (),
    pictures: Sequence[Picture] = (),
    table: Table | None = None,
    notes: Sequence[str] = (),
) -> str:
    """HTML that a notebook shows; its style is its own, and its colours follow a light or dark theme.

    Args:
        title: what is shown.
        facts: lines of a small table.
        figures: charts, as `timm_gcp.reports.charts.inline_svg` takes them.
        pictures: images with captions.
        table: further rows.
        notes: sentences at the end.
    """
    charts = [inline_svg(figure, title) for figure in figures]
    return render("notebook.html", title=title, facts=facts, charts=charts, pictures=pictures, table=table, notes=notes)
