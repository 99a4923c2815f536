"""``timm-gcp compare``: several runs in one page, with paired tests where they were evaluated on the same images."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import GCPError
from ..reports.compare import Comparison, compare_runs, write_comparison
from ..reports.compared_runs import read_runs
from ..reports.report import PAGE as REPORT
from ..tasks import MULTI_LABEL
from .option_types import file_path
from .options import add_debug
from .parser import Parser
from .results_folder import OF_OTHERS, check_results_folder

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp compare``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: bad input, before anything is written.
    """
    args = parse_compare_args(argv)
    comparison = compare_runs(read_runs([Path(run) for run in args.runs]))
    page = write_comparison(Path(args.out), comparison)
    _show(comparison)
    print(f"Comparison: {page}")
    return 0


def _multi_label_table(comparison: Comparison) -> Table:
    table = Table(title="Metrics, %")
    table.add_column("run", overflow="fold")
    for name in (*MULTI_LABEL.metrics.values(), "images"):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        found = [row.result.get(key) for key in MULTI_LABEL.metrics]
        numbers = ("–" if value is None else f"{value:.2f}" for value in found)
        table.add_row(Text(row.label), *numbers, str(row.result.get("count") or "–"))
    return table


def _show(comparison: Comparison) -> None:
    console = Console()
    if comparison.task is MULTI_LABEL:
        console.print(_multi_label_table(comparison))
        console.print("McNemar's test is for one label per image, so there is no paired test.")
        return
    table = Table(title="Top-1 %, 95 % confidence interval")
    table.add_column("run", overflow="fold")
    for name in ("top-1", "interval", "images"):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        if row.metrics is None:
            top1 = row.result.get("top1")
            table.add_row(Text(row.label), "–" if top1 is None else f"{top1:.2f}", "–", "–")
        else:
            share = row.metrics.top1
            ends = f"{100 * share.low:.1f} – {100 * share.high:.1f}"
            table.add_row(Text(row.label), f"{100 * share.value:.2f}", ends, str(row.metrics.images))
    console.print(table)
    if not comparison.pairs:
        console.print("No two of the runs have predictions of the same images, so there is no paired test.")
        return
    table = Table(title="Differences on the same images, points of top-1")
    for name in ("A", "B"):
        table.add_column(name, overflow="fold")
    for name in ("A − B", "interval", "p (McNemar)", "p (Holm)"):
        table.add_column(name, justify="right")
    for first, second, found in comparison.pairs:
        each = found.difference
        ends = f"{100 * each.low:+.1f} to {100 * each.high:+.1f}"
        table.add_row(
            Text(first.label),
            Text(second.label),
            f"{100 * each.value:+.2f}",
            ends,
            f"{found.p:.2g}",
            f"{found.adjusted:.2g}",
        )
    console.print(table)


def parse_compare_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp compare``.

    Raises:
        GCPError: a single run, or a folder that cannot be written.
    """
    parser = Parser(
        prog="timm-gcp compare",
        description="Compare runs in one page: metrics, curves, and differences with McNemar's exact test where they "
        "were evaluated on the same images.",
    )
    parser.add_argument(
        "runs",
        type=file_path,
        nargs="+",
        metavar="RUN",
        help="folder of timm-gcp train, timm-gcp probe or timm-gcp validate --report; two or more",
    )
    parser.add_argument(
        "--out", type=file_path, default="output/compare", metavar="DIR", help="folder of the page and its tables"
    )
    add_debug(parser)
    args: argparse.Namespace = parser.parse_args(argv)
    if len(args.runs) < 2:
        raise GCPError("There is one run only; give two or more, timm-gcp compare RUN RUN.")
    check_results_folder(args.out, "--out", "comparison", others=(*OF_OTHERS, REPORT))
    return args
