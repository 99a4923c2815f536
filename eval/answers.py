"""The paper's questions, answered from the experiment's lines: a verdict in numbers and a picture each.

A difference is called so only if its 95 % interval leaves zero out; everything else is *level*.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean

import numpy as np

from . import answer_pictures as pictures
from .experiment import (
    BACKBONE,
    CANDIDATES,
    FRESH_FOLD,
    HEADS,
    OTHERS,
    SEARCHED,
    SEEDS,
    TRUNK,
    fold_scores,
    rate_of,
)
from .intervals import Interval, paired, spread, unpaired
from .record import read_rows

# One function up to rounding in float64 (see the section on gradients).
EXACT = ("polar", "svd", "svdpade")
ROOTS = ("svd", "svdtrunc", "svdtaylor", "svdpade", "polar")
SHOWN = ("average", "isqrt", "rsqrt", "polar", TRUNK)
"""Heads whose curves are drawn."""


class Experiment:
    """The final runs of ``experiment.csv`` and their curves.

    Attributes:
        epochs: of every run.
        rows: the final runs.
        scores: head → seed → test top-1, heads in the order of the experiment.
        same_shops: head → seed → top-1 on the fold that has chosen nothing.
        others: backbone of another family → its final runs.
        curves: every epoch of `rows`.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        lines = read_rows(results / "experiment.csv")
        every = [row for row in lines if row["backbone"] == BACKBONE]
        self.epochs = int(next(row["epochs"] for row in every if row["fold"]))
        self.rows = [row for row in every if not row["fold"]]
        final = [row for row in lines if not row["fold"]]
        by_backbone = {name: [row for row in final if row["backbone"] == name] for name in OTHERS.values()}
        self.others = {name: rows for name, rows in by_backbone.items() if rows}
        self.curves = [row for row in read_rows(results / "experiment_curves.csv") if row["backbone"] == BACKBONE]
        self.scores = _by_head(self.rows)
        self.same_shops = _by_head([row for row in every if row["fold"] == str(FRESH_FOLD)])

    def gap(self, head: str, base: str) -> Interval | None:
        """Test top-1 of one head minus another's, seed by seed."""
        return paired(self.scores.get(head, {}), self.scores.get(base, {}))

    def course(self, head: str, column: str, seeds: Iterable[str] | None = None) -> np.ndarray:
        """A column over the epochs, ``[seeds, epochs]``, nan where it is empty; of all seeds or of these."""
        seeds = sorted({row["seed"] for row in self.curves if row["head"] == head} if seeds is None else seeds)
        lines = [[row for row in self.curves if row["head"] == head and row["seed"] == seed] for seed in seeds]
        return np.array([[float(row[column] or "nan") for row in line] for line in lines])

    def courses(self, heads: Iterable[str], column: str) -> dict[str, np.ndarray]:
        """The heads of these that have runs, and their course."""
        return {head: self.course(head, column) for head in heads if head in self.scores}

    def named(self) -> str:
        """The covariance head with the best mean on the folds: the one to hold against average pooling."""
        rate = rate_of(self.results, "isqrt", self.epochs)
        best = {head: fmean(fold_scores(self.results, head, self.epochs).get(rate, [0])) for head in CANDIDATES}
        return max(best, key=lambda head: best[head])


def _by_head(rows: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    scores = {head: {row["seed"]: float(row["held_top1"]) for row in rows if row["head"] == head} for head in HEADS}
    return {head: dict(sorted(own.items())) for head, own in scores.items() if own}


def section(results: Path) -> str:
    """Markdown of every question that the runs at hand can answer; draws the pictures beside it."""
    experiment = Experiment(results)
    if not experiment.scores:
        return f"{search_table(experiment)}\n\nThe final runs have not begun."
    done, planned = len(experiment.rows), len(HEADS) * len(SEEDS)
    so_far = f"{done} of {planned} final runs are done." if done < planned else f"{done} final runs."
    parts = [search_table(experiment), so_far, table(experiment)]
    parts += [text for question in QUESTIONS if (text := question(experiment))]
    return "\n\n".join(parts)


def search_table(experiment: Experiment) -> str:
    """Mean top-1 on the folds, by head and rate."""
    epochs, results = experiment.epochs, experiment.results
    heads = dict.fromkeys((*SEARCHED, *CANDIDATES))
    scores = {head: own for head in heads if (own := fold_scores(results, head, epochs))}
    rates = sorted({rate for own in scores.values() for rate in own})
    lines = [
        "| top-1 on the folds | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
        "|---" * (1 + len(rates)) + "|",
    ]
    for head, own in scores.items():
        means = {rate: fmean(values) for rate, values in own.items()}
        taken = rate_of(results, head, epochs)
        cells = [("**{:.1f}**" if r == taken else "{:.1f}").format(means[r]) if r in means else "" for r in rates]
        lines.append(f"| {head} | {' | '.join(cells)} |")
    if not all(head in scores for head in CANDIDATES):
        return "\n".join([*lines, "", "The search has not ended."])
    named = f"Named for the comparison with average pooling before the test part was read: `{experiment.named()}`."
    return "\n".join([*lines, "", named])


def table(experiment: Experiment) -> str:
    """Test top-1 of every head: seeds, mean, deviation, paired differences."""
    lines = [
        "| head | lr | test top-1 by seed | mean ± sd | train | minus average | minus isqrt |",
        "|---|---|---|---|---|---|---|",
    ]
    for head, own in experiment.scores.items():
        rate, train = _rate_and_fit(experiment.rows, head)
        gaps = [str(experiment.gap(head, base) or "") if head != base else "" for base in ("average", "isqrt")]
        listed = ", ".join(f"{value:.1f}" for value in own.values())
        lines.append(
            f"| {head} | {rate} | {listed} | {spread(list(own.values()))} | {train:.1f} | {' | '.join(gaps)} |"
        )
    pictures.heads(experiment.scores, "test top-1", experiment.results / "experiment_heads.png")
    return "\n".join([*lines, "", "![test top-1 of every head](experiment_heads.png)"])


def _rate_and_fit(rows: list[dict[str, str]], head: str) -> tuple[str, float]:
    """The rate of a head's runs, and their mean top-1 on the training part."""
    own = [row for row in rows if row["head"] == head]
    return own[0]["lr"], fmean(float(row["train_top1"]) for row in own)


def _question(title: str, *lines: str, picture: str = "") -> str:
    if not lines:
        return ""  # no runs to answer it from
    body = "\n".join(f"- {line}" for line in lines)
    return f"### {title}\n\n{body}" + (f"\n\n![{title}]({picture})" if picture else "")


def _says(experiment: Experiment, head: str, base: str) -> str | None:
    gap = experiment.gap(head, base)
    return None if gap is None else f"`{head}` against `{base}`: {_verdict(gap)}."


def _verdict(gap: Interval) -> str:
    if gap.number == 1:
        return f"{gap.mean:+.1f} with one seed, which decides nothing"
    return f"{gap.verdict()}, {gap} ({gap.number} seeds, paired)"


def _all(experiment: Experiment, pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [text for head, base in pairs if (text := _says(experiment, head, base))]


def against_average(experiment: Experiment) -> str:
    lines = _all(experiment, [(experiment.named(), "average"), ("isqrt", "average"), (TRUNK, "average")])
    picture = "experiment_curves.png"
    pictures.curves(experiment.courses(SHOWN, "eval_top1"), experiment.results / picture)
    return _question("Does covariance pooling beat average pooling?", *dict.fromkeys(lines), picture=picture)


def in_the_same_shops(experiment: Experiment) -> str:
    scores = experiment.same_shops
    if not scores:
        return ""
    lines = [_listed(head, own, scores.get("average", {})) for head, own in scores.items()]
    picture = "experiment_same_shops.png"
    pictures.heads(scores, "top-1 on the half held out", experiment.results / picture)
    return _question("And on photographs of the same shops?", *lines, picture=picture)


def _listed(head: str, own: Mapping[str, float], average: Mapping[str, float]) -> str:
    gap = paired(own, average) if head != "average" else None
    listed = ", ".join(f"{value:.1f}" for value in own.values())
    against = f"; against `average`: {_verdict(gap)}" if gap else ""
    return f"`{head}`: {spread(list(own.values()))} ({listed}){against}."


def on_other_backbones(experiment: Experiment) -> str:
    if not experiment.others:
        return ""
    lines = []
    shown = {f"{BACKBONE}, {head}": experiment.scores[head] for head in SEARCHED if head in experiment.scores}
    for backbone, rows in experiment.others.items():
        scores = _by_head(rows)
        shown |= {f"{backbone}, {head}": own for head, own in scores.items()}
        for head, own in scores.items():
            rate, train = _rate_and_fit(rows, head)
            said = _listed(head, own, scores.get("average", {}))
            lines.append(f"`{backbone}`, lr {rate}, {train:.1f} on the training part: {said}")
    picture = "experiment_backbones.png"
    pictures.heads(shown, "test top-1", experiment.results / picture)
    return _question("Does `isqrt` beat average pooling on other backbones?", *lines, picture=picture)


def approximate_against_exact(experiment: Experiment) -> str:
    lines = _all(experiment, [("isqrt", head) for head in ROOTS])
    pool = [value for head in EXACT for value in experiment.scores.get(head, {}).values()]
    newton = list(experiment.scores.get("isqrt", {}).values())
    if len(pool) > len(newton) > 1:
        gap = unpaired(newton, pool)
        named = ", ".join(f"`{head}`" for head in EXACT if head in experiment.scores)
        lines.append(f"Against {named} together, one function to rounding ({len(pool)} runs): {gap.verdict()}, {gap}.")
    exact = [head for head in EXACT if head in experiment.scores]
    picture = ""
    if exact and newton:
        lr = experiment.course("isqrt", "lr")[0]
        shared = set.intersection(*(set(experiment.scores[head]) for head in ("isqrt", *exact)))
        courses = [experiment.course(head, "eval_top1", shared) for head in ("isqrt", *exact)]
        gap = courses[0].mean(0) - np.concatenate(courses[1:]).mean(0)
        after = np.arange(len(lr)) >= lr.argmax()
        share = lr / lr.max()
        for text, band in (
            ("above half of its peak", after & (share > 0.5)),
            ("between a tenth and half", after & (share > 0.1) & (share <= 0.5)),
            ("a tenth or less", after & (share <= 0.1)),
        ):
            lines.append(
                f"Validation top-1 while the rate is {text}: isqrt − exact {gap[band].mean():+.1f} on average."
            )
        picture = "experiment_gap.png"
        pictures.gap(lr, gap, experiment.results / picture)
    title = "Does the approximate root beat the exact one, each by itself? Does the gap close as the rate falls?"
    return _question(title, *lines, picture=picture)


def conditioning(experiment: Experiment) -> str:
    lines = []
    for head in ("isqrt", "polar", TRUNK):
        if head in experiment.scores:
            kappa, lr = experiment.course(head, "kappa"), experiment.course(head, "lr")[0]
            high, low = kappa[:, lr > lr.max() / 2], kappa[:, lr < lr.max() / 10]
            under = np.nanmax(experiment.course(head, "under_eps"))
            lines.append(
                f"`{head}`: median κ {np.nanmedian(high):.1e} while the rate is above half its peak, "
                f"{np.nanmedian(low):.1e} once it is under a tenth; at most {under:.1%} of the eigenvalues under eps."
            )
    picture = "experiment_conditioning.png"
    lr, kappa = (experiment.courses(SHOWN[1:], column) for column in ("lr", "kappa"))
    pictures.conditioning(lr, kappa, experiment.results / picture)
    return _question("Does the conditioning improve as the rate falls?", *lines, picture=picture)


def hybrid(experiment: Experiment) -> str:
    hybrids = [head for head in experiment.scores if head.endswith("-hybrid")]
    if not hybrids:
        return ""
    pairs = [(head, base) for head in hybrids for base in (head.removesuffix("-hybrid"), "isqrt")]
    picture = "experiment_hybrid.png"
    alone = {head: experiment.scores.get(head.removesuffix("-hybrid"), {}) for head in hybrids}
    pictures.pairs({head: (alone[head], experiment.scores[head]) for head in hybrids}, experiment.results / picture)
    return _question("Does the hybrid protocol close the gap?", *_all(experiment, pairs), picture=picture)


def pade(experiment: Experiment) -> str:
    others = [head for head in ROOTS if head != "svdpade"]
    pairs = [("svdpade", head) for head in others] + [(TRUNK, f"{head}-hybrid") for head in others]
    return _question("Is SVD-Padé the best of the SVD family?", *_all(experiment, pairs))


def precision_and_smoothness(experiment: Experiment) -> str:
    pairs = [
        ("svdpade", "svdpade-float32"),
        ("isqrt-float64", "isqrt"),
        ("svdnewton", "svdpade"),
        ("rsqrt", "polar"),
        ("isqrt", "svdnewton"),
    ]
    return _question("What do precision and smoothness each contribute?", *_all(experiment, pairs))


QUESTIONS: tuple[Callable[[Experiment], str], ...] = (
    against_average,
    in_the_same_shops,
    on_other_backbones,
    approximate_against_exact,
    conditioning,
    hybrid,
    pade,
    precision_and_smoothness,
)
