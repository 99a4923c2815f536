"""The curve of a learning-rate range test: losses by rate, smoothed, and the rule that chooses a rate from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GCPError
from ..files import json_text, save_text
from ..plots import new_figure, save_figure

__all__ = ["CSV_FILE", "JSON_FILE", "PICTURE", "RULE", "RangeCurve", "smoothed"]

CSV_FILE, JSON_FILE, PICTURE = "lr_range_test.csv", "lr_range_test.json", "lr_range_test.png"
RULE = "a tenth of the rate at which the smoothed loss is lowest"
_SHARE = 0.1
_WIDTH = 3.0  # standard deviation of the smoothing, in updates
_LEAST_FALL = 5.0  # standard errors of the smoothed loss, of which the lowest is looked for


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """The losses averaged with Gaussian weights over the updates before and after: without the lag of a running mean.

    Args:
        losses: one per update, ``[N]``.

    Returns:
        ``[N]``, float64.
    """
    at = np.arange(len(losses))
    weights = np.exp(-0.5 * ((at[:, None] - at[None]) / _WIDTH) ** 2)
    result: np.ndarray = weights @ np.asarray(losses, dtype=np.float64) / weights.sum(1)
    return result


@dataclass(frozen=True)
class RangeCurve:
    """A learning-rate range test (Smith, *Cyclical Learning Rates for Training Neural Networks*, WACV 2017).

    The test makes updates at rates that rise by a factor. The loss falls, is lowest near the largest rate at which
    training is stable, and rises beyond it.

    Attributes:
        rates: of the updates, ascending.
        losses: of their batches, each before its update.
    """

    rates: Sequence[float]
    losses: Sequence[float]

    @property
    def lowest(self) -> int:
        """The update with the lowest smoothed loss."""
        return int(smoothed(self.losses).argmin())

    def choose(self) -> float:
        """The rate by `RULE`, to two significant digits.

        Raises:
            GCPError: the loss does not fall by more than its noise.
        """
        curve = smoothed(self.losses)
        start, lowest = float(curve[0]), float(curve[self.lowest])
        residuals = (np.asarray(self.losses) - curve)[: self.lowest + 1]
        noise = float(residuals.std()) / math.sqrt(2 * math.sqrt(math.pi) * _WIDTH)
        if not start - lowest > _LEAST_FALL * noise:
            raise GCPError(
                f"--lr auto: the loss does not fall at any rate between {self.rates[0]:.2g} and {self.rates[-1]:.2g} "
                f"({start:.4g} at first, {lowest:.4g} at the lowest), so no rate can be chosen; give --lr, or leave it "
                "out for that by --lr-base."
            )
        return float(f"{_SHARE * self.rates[self.lowest]:.1e}")

    def save(self, folder: Path, chosen: float, default: float) -> None:
        """Writes the choice with its rule, and the curve as a table and as a picture.

        Args:
            folder: of the run.
            chosen: the rate that was chosen.
            default: the rate without the test, for comparison.

        Raises:
            GCPError: a file cannot be written.
        """
        curve = smoothed(self.losses)
        lines = ["update,lr,loss,smoothed_loss"]
        lines += [
            f"{number},{rate:.6g},{loss:.6g},{mean:.6g}"
            for number, (rate, loss, mean) in enumerate(zip(self.rates, self.losses, curve, strict=True))
        ]
        save_text(folder / CSV_FILE, "\n".join(lines) + "\n")
        record = {"lr": chosen, "rule": RULE, "lowest_at": self.rates[self.lowest], "lr_without_test": default}
        save_text(folder / JSON_FILE, json_text(record))
        self._draw(folder / PICTURE, curve, chosen, default)

    def _draw(self, path: Path, curve: np.ndarray, chosen: float, default: float) -> None:
        figure = new_figure(figsize=(6.4, 4.0), layout="constrained", facecolor="white")
        axes: Any = figure.subplots()
        axes.plot(self.rates, self.losses, ".", ms=4, color="0.6", label="loss of a batch")
        axes.plot(self.rates, curve, lw=1.8, color="tab:blue", label="smoothed")
        axes.axvline(chosen, color="tab:orange", lw=1.5, label=f"chosen: {chosen:g}")
        axes.axvline(default, color="0.4", lw=1, ls="--", label=f"by --lr-base: {default:g}")
        axes.set_xscale("log")
        # Beyond the stable rates the loss is arbitrarily large.
        axes.set_ylim(curve.min() - 0.1 * np.ptp(curve), max(curve[0], curve.min()) + np.ptp(curve[: self.lowest + 1]))
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss")
        axes.set_title(RULE[0].upper() + RULE[1:], fontsize="small")
        axes.legend(frameon=False, fontsize="small")
        save_figure(figure, path)
