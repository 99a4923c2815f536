"""The experiment's section in the report: the paper's questions, answered from the recorded runs.

Each question gets the differences with their 95 % confidence intervals, and a plot where one helps.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from timm_gcp.text import markdown_table

from . import experiment_plots as plots
from .experiment_settings import (
    BACKBONE,
    BASE_HYBRID,
    CANDIDATES,
    FRESH_FOLD,
    HEADS,
    OTHERS,
    REDUCED,
    REDUCING,
    SEARCHED,
    SEEDS,
)
from .intervals import Interval, mean_and_deviation, paired, unpaired
from .rate_search import fold_scores, rate_of
from .record import read_table

EXACT = ("polar", "svd", "svdpade")
"""Methods that compute one function up to rounding in float64 (see the section on gradients)."""

ROOTS = ("svd", "svdtrunc", "svdtaylor", "svdpade", "polar")
"""Methods whose forward pass is the exact root."""

DRAWN = ("average", "isqrt", "rsqrt", "polar", BASE_HYBRID)
"""Heads whose curves are drawn."""


class Results:
    """The recorded runs of the experiment.

    Attributes:
        folder: holds ``experiment.csv`` and ``experiment_curves.csv``; the plots are written there.
        epochs: number of epochs of every run.
        runs: the final runs on `BACKBONE`, without those that compare reductions.
        scores: head → test top-1 by seed, heads in the order of `HEADS`.
        same_shops: head → top-1 by seed on the fold on which nothing was chosen.
        others: backbone of another family → its final runs, without those that compare reductions.
        reductions: backbone → its runs that compare reductions, on the fold and final ones.
        curves: every epoch of `runs`.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the two CSV files of a results folder."""
        runs = read_table(folder / "experiment.csv")
        reduced = runs["head"].isin(REDUCED)
        compared = runs[reduced]
        runs = runs[~reduced]
        main, final = runs["backbone"] == BACKBONE, runs["fold"].isna()
        curves = read_table(folder / "experiment_curves.csv", ("backbone", "head"))
        self.folder = folder
        self.epochs = int(runs.loc[main & ~final, "epochs"].iloc[0])
        self.runs = runs[main & final]
        self.scores = by_head(self.runs)
        self.same_shops = by_head(runs[main & (runs["fold"] == FRESH_FOLD)])
        self.others = {name: own for name in OTHERS.values() if len(own := runs[final & (runs["backbone"] == name)])}
        self.reductions = {
            name: own for name in REDUCING.values() if len(own := compared[compared["backbone"] == name])
        }
        self.curves = curves[(curves["backbone"] == BACKBONE) & ~curves["head"].isin(REDUCED)]

    def gap(self, head: str, base: str) -> Interval | None:
        """Test top-1 of `head` minus that of `base`, paired by seed; None if they share no seed."""
        if head not in self.scores or base not in self.scores:
            return None
        return paired(self.scores[head], self.scores[base])

    def curve(self, head: str, column: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """A column by epoch, ``[seeds, epochs]``, of all seeds or of those given; NaN where it is empty."""
        by_seed = self.curves[self.curves["head"] == head].pivot(index="seed", columns="epoch", values=column)
        return (by_seed if seeds is None else by_seed.loc[sorted(seeds)]).to_numpy()

    def curves_of(self, heads: Iterable[str], column: str) -> dict[str, np.ndarray]:
        """Head → `curve`, for those of the heads that have runs."""
        return {head: self.curve(head, column) for head in heads if head in self.scores}

    def chosen(self) -> str:
        """The covariance head with the best mean on the folds, which is compared with average pooling."""
        scores, rate = fold_scores(self.folder, self.epochs), rate_of(self.folder, "isqrt", self.epochs)
        return max(CANDIDATES, key=lambda head: scores.get((head, rate), 0))


def by_head(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """Head → top-1 on the held-out split, by seed."""
    found = dict(list(runs.groupby("head")))
    return {head: found[head].groupby("seed")["held_top1"].last() for head in HEADS if head in found}


def section(folder: Path) -> str:
    """Markdown of every question that the recorded runs can answer; writes the plots beside it."""
    results = Results(folder)
    if not results.scores:
        return f"{search_table(results)}\n\nThere are no final runs yet."
    done, planned = len(results.runs), (len(HEADS) - len(REDUCED)) * len(SEEDS)
    so_far = f"{done} of {planned} final runs are done." if done < planned else f"{done} final runs."
    parts = [search_table(results), so_far, table(results)]
    parts += [text for question in QUESTIONS if (text := question(results))]
    return "\n\n".join(parts)


def search_table(results: Results) -> str:
    """Mean top-1 on the folds, by head and learning rate."""
    scores = fold_scores(results.folder, results.epochs).unstack("lr")
    heads = [head for head in dict.fromkeys((*SEARCHED, *CANDIDATES)) if head in scores.index]
    rows = []
    for head in heads:
        chosen = rate_of(results.folder, head, results.epochs)
        means = scores.loc[head].items()
        cells = ["" if pd.isna(m) else ("**{:.1f}**" if rate == chosen else "{:.1f}").format(m) for rate, m in means]
        rows.append((head, *cells))
    found = markdown_table(("top-1 on the folds, by lr", *(f"{rate:g}" for rate in scores.columns)), rows)
    if not all(head in heads for head in CANDIDATES):
        return f"{found}\n\nThe search is not finished."
    return (
        f"{found}\n\nBold: the chosen rate. Covariance head chosen for the comparison with average pooling, before any "
        f"evaluation on the test part: `{results.chosen()}`."
    )


def table(results: Results) -> str:
    """Test top-1 of every head: seeds, mean, deviation, paired differences."""
    rows = []
    for head, own in results.scores.items():
        rate, train = _rate_and_fit(results.runs, head)
        gaps = [results.gap(head, base) or "" if head != base else "" for base in ("average", "isqrt")]
        rows.append((head, rate, _listed(own), mean_and_deviation(own), f"{train:.1f}", *gaps))
    plots.heads(results.scores, "test top-1", results.folder / "experiment_heads.png")
    titles = ("head", "lr", "test top-1 by seed", "mean ± sd", "train top-1", "minus average", "minus isqrt")
    return f"{markdown_table(titles, rows)}\n\n![test top-1 of every head](experiment_heads.png)"


def _listed(values: pd.Series) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _rate_and_fit(runs: pd.DataFrame, head: str) -> tuple[str, float]:
    """Learning rate of a head's runs, and their mean top-1 on the training part."""
    own = runs[runs["head"] == head]
    return f"{own['lr'].iloc[0]:g}", own["train_top1"].mean()


def _question(title: str, *lines: str, plot: str = "") -> str:
    if not lines:
        return ""  # no runs to answer it from
    body = "\n".join(f"- {line}" for line in lines)
    return f"### {title}\n\n{body}" + (f"\n\n![{title}]({plot})" if plot else "")


def _verdict(gap: Interval) -> str:
    if gap.number == 1:
        return f"{gap.mean:+.1f} with one seed, so without an interval"
    return f"{gap.verdict()}, {gap} ({gap.number} seeds, paired)"


def _comparisons(results: Results, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """One line per pair of heads that share a seed."""
    gaps = [(head, base, results.gap(head, base)) for head, base in pairs]
    return [f"`{head}` against `{base}`: {_verdict(gap)}." for head, base, gap in gaps if gap is not None]


def against_average(results: Results) -> str:
    """Covariance pooling against average pooling on the test part."""
    pairs = dict.fromkeys([(results.chosen(), "average"), ("isqrt", "average"), (BASE_HYBRID, "average")])
    plot = "experiment_curves.png"
    plots.curves(results.curves_of(DRAWN, "eval_top1"), results.folder / plot)
    return _question(
        "Is covariance pooling more accurate than average pooling?", *_comparisons(results, pairs), plot=plot
    )


def in_the_same_shops(results: Results) -> str:
    """The same comparison on photographs of the shops that were trained on."""
    scores = results.same_shops
    if not scores:
        return ""
    lines = [_score_line(head, scores) for head in scores]
    plot = "experiment_same_shops.png"
    plots.heads(scores, "top-1 on the half held out", results.folder / plot)
    return _question("Is it more accurate on photographs of the same shops?", *lines, plot=plot)


def _score_line(head: str, scores: dict[str, pd.Series]) -> str:
    """A head's accuracies, and its difference from average pooling."""
    gap = paired(scores[head], scores["average"]) if head != "average" and "average" in scores else None
    against = f"; against `average`: {_verdict(gap)}" if gap else ""
    return f"`{head}`: {mean_and_deviation(scores[head])} ({_listed(scores[head])}){against}."


def on_other_backbones(results: Results) -> str:
    """The same comparison on backbones of other families."""
    if not results.others:
        return ""
    lines = []
    shown = {f"{BACKBONE}, {head}": results.scores[head] for head in SEARCHED if head in results.scores}
    for backbone, runs in results.others.items():
        scores = by_head(runs)
        shown |= {f"{backbone}, {head}": own for head, own in scores.items()}
        for head in scores:
            rate, train = _rate_and_fit(runs, head)
            lines.append(f"`{backbone}`, lr {rate}, {train:.1f} on the training part: {_score_line(head, scores)}")
    plot = "experiment_backbones.png"
    plots.heads(shown, "test top-1", results.folder / plot)
    return _question("Is `isqrt` more accurate than average pooling on other backbones?", *lines, plot=plot)


def reductions(results: Results) -> str:
    """The kinds of reduction before the covariance, by backbone: accuracy on the fold and on the test part."""
    if not results.reductions:
        return ""
    rows, base = [], next(iter(REDUCED))
    for backbone, runs in results.reductions.items():
        scores, folds = by_head(runs[runs["fold"].isna()]), fold_scores(results.folder, results.epochs, backbone)
        rates = {head: rate_of(results.folder, head, results.epochs, backbone) for head in runs["head"].unique()}
        best = max(folds[head, rate] for head, rate in rates.items())
        for head in (each for each in REDUCED if each in rates):
            fold = folds[head, rates[head]]
            cells = [f"`{head.removeprefix('isqrt-')}`", f"{rates[head]:g}"]
            cells += [("**{:.1f}**" if fold == best else "{:.1f}").format(fold)]
            if head in scores:
                gap = paired(scores[head], scores[base]) if head != base and base in scores else None
                cells += [_listed(scores[head]), mean_and_deviation(scores[head]), str(gap or "")]
            rows.append((backbone, *cells, *[""] * (6 - len(cells))))
    titles = ("backbone", "reduction", "lr", "top-1 on the fold", "test top-1 by seed", "mean ± sd", "minus conv")
    return f"### Which reduction suits which backbone?\n\n{markdown_table(titles, rows)}\n\nBold: the best on the fold."


def approximate_against_exact(results: Results) -> str:
    """Newton–Schulz against the exact roots: on the test part, and on validation as the learning rate falls."""
    lines = _comparisons(results, [("isqrt", head) for head in ROOTS])
    exact = [head for head in EXACT if head in results.scores]
    plot = ""
    if exact and "isqrt" in results.scores:
        lines += _pooled_comparison(results, exact)
        lr, gap = _gap_by_epoch(results, exact)
        lines += _gap_by_rate(lr, gap)
        plot = "experiment_gap.png"
        plots.gap(lr, gap, results.folder / plot)
    title = "Is the approximate root more accurate than the exact one, and how does it depend on the learning rate?"
    return _question(title, *lines, plot=plot)


def _pooled_comparison(results: Results, exact: list[str]) -> list[str]:
    """`isqrt` against all runs of the exact roots; nothing if there are too few runs."""
    newton, pool = results.scores["isqrt"], pd.concat([results.scores[head] for head in exact])
    if not len(pool) > len(newton) > 1:
        return []
    gap = unpaired(newton, pool)
    names = ", ".join(f"`{head}`" for head in exact)
    return [
        f"`isqrt` against {names} together, which compute one function up to rounding ({len(pool)} runs): "
        f"{gap.verdict()}, {gap}."
    ]


def _gap_by_epoch(results: Results, exact: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and validation top-1 of `isqrt` minus the exact roots, ``[epochs]``, over the seeds all have."""
    shared = set.intersection(*(set(results.scores[head].index) for head in ("isqrt", *exact)))
    newton, *others = (results.curve(head, "eval_top1", shared) for head in ("isqrt", *exact))
    return results.curve("isqrt", "lr")[0], newton.mean(0) - np.concatenate(others).mean(0)


def _gap_by_rate(lr: np.ndarray, gap: np.ndarray) -> list[str]:
    after, share = np.arange(len(lr)) >= lr.argmax(), lr / lr.max()
    bands = {
        "above half": after & (share > 0.5),
        "between a tenth and half": after & (share > 0.1) & (share <= 0.5),
        "a tenth or less": after & (share <= 0.1),
    }
    return [
        f"Validation top-1 while the learning rate is {text} of its peak: "
        f"isqrt − exact = {gap[band].mean():+.1f} on average."
        for text, band in bands.items()
    ]


def conditioning(results: Results) -> str:
    """Condition number of the covariances while the learning rate is high and once it is low."""
    lines = []
    for head in ("isqrt", "polar", BASE_HYBRID):
        if head in results.scores:
            kappa, lr = results.curve(head, "kappa"), results.curve(head, "lr")[0]
            high, low = kappa[:, lr > lr.max() / 2], kappa[:, lr < lr.max() / 10]
            under = np.nanmax(results.curve(head, "under_eps"))
            lines.append(
                f"`{head}`: median κ {np.nanmedian(high):.1e} while the learning rate is above half of its peak, "
                f"{np.nanmedian(low):.1e} once it is below a tenth; at most {under:.1%} of the eigenvalues below eps."
            )
    plot = "experiment_conditioning.png"
    lr_of, kappa_of = (results.curves_of(DRAWN[1:], column) for column in ("lr", "kappa"))
    plots.conditioning(lr_of, kappa_of, results.folder / plot)
    return _question("Does the conditioning improve as the learning rate falls?", *lines, plot=plot)


def hybrid(results: Results) -> str:
    """Each method under the hybrid protocol against the method by itself and against Newton–Schulz."""
    hybrids = {head.removesuffix("-hybrid"): own for head, own in results.scores.items() if head.endswith("-hybrid")}
    if not hybrids:
        return ""
    pairs = [(f"{method}-hybrid", base) for method in hybrids for base in (method, "isqrt")]
    plot = "experiment_hybrid.png"
    plots.pairs(results.scores, hybrids, results.folder / plot)
    return _question(
        "Is the hybrid protocol more accurate than one method throughout?", *_comparisons(results, pairs), plot=plot
    )


def pade(results: Results) -> str:
    """SVD-Padé against the other exact roots, by itself and under the hybrid protocol."""
    others = [head for head in ROOTS if head != "svdpade"]
    pairs = [("svdpade", head) for head in others] + [(BASE_HYBRID, f"{head}-hybrid") for head in others]
    return _question("Is SVD-Padé the best of the SVD family?", *_comparisons(results, pairs))


def precision_and_smoothness(results: Results) -> str:
    """Pairs of heads that differ in precision or in the smoothness of their gradient only."""
    pairs = [
        ("svdpade", "svdpade-float32"),
        ("isqrt-float64", "isqrt"),
        ("svdnewton", "svdpade"),
        ("rsqrt", "polar"),
        ("isqrt", "svdnewton"),
    ]
    return _question("What do precision and smoothness contribute?", *_comparisons(results, pairs))


QUESTIONS: tuple[Callable[[Results], str], ...] = (
    against_average,
    in_the_same_shops,
    on_other_backbones,
    reductions,
    approximate_against_exact,
    conditioning,
    hybrid,
    pade,
    precision_and_smoothness,
)
