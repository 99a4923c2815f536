"""What a report is about, which its page shows beside the predictions."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import GCPError
from ..training.curves import curve_figures
from .charts import inline_svg

__all__ = ["Subject"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a report is about.

    Attributes:
        title: of the page.
        facts: name → value, at its top.
        summary: ``summary.csv`` of the training, or None.
        heads: heads of a probe, as its results.
        note: a sentence on what the predictions are; '' for none.
    """

    title: str
    facts: Mapping[str, Any]
    summary: Path | None = None
    heads: Sequence[Any] = field(default=())
    note: str = ""

    @property
    def known_facts(self) -> dict[str, Any]:
        """The facts that have a value."""
        return {name: value for name, value in self.facts.items() if value not in (None, "")}

    def curves(self) -> list[Any]:
        """The training curves, as charts inside the page; none without a summary that can be read."""
        if self.summary is None:
            return []
        try:
            figures = curve_figures(self.summary)
        except GCPError as error:
            _logger.warning("The report has no curves. %s", error)
            return []
        return [inline_svg(figure, f"Training curves, part {number}") for number, figure in enumerate(figures, 1)]
