"""``python -m hub cards``: the cards of all rows of the manifest, and an index page."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from timm_gcp.commands.option_types import path_object
from timm_gcp.files import save_text
from timm_gcp.weights.manifest import MANIFEST, Checkpoint, read_manifest

from .card import by_whom, cell, percent, render_card
from .parameters import count_parameters

INDEX = "index.md"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m hub cards", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=path_object, default=Path("cards"), help="folder to write to (%(default)s)")
    parser.add_argument("--manifest", type=path_object, default=MANIFEST, help="manifest to show (the package's)")
    args = parser.parse_args(argv)

    rows = read_manifest(args.manifest)
    parameters = {name: count_parameters(row) for name, row in rows.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    pages = {INDEX: index(rows, parameters)}
    for name, row in rows.items():
        repo = row.hub.partition("@")[0] if row.hub else None
        pages[f"{name}.md"] = render_card(row, repo=repo, parameters=parameters[name])
    for name, text in pages.items():
        save_text(args.out / name, text)
    print(f"{args.out} has {INDEX} and the cards of {', '.join(rows)}.")
    return 0


def index(rows: Mapping[str, Checkpoint], parameters: Mapping[str, int | None]) -> str:
    """The index page: a line a measurement, or one a row that has none."""
    titles = ("name", "input", "parameters", "data", "top-1", "top-5", "measured by", "verified", "licence", "where")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, row in rows.items():
        count = parameters[name]
        for metric in row.metrics or ({},):
            cells = (
                f"[{name}]({name}.md)",
                " × ".join(map(str, row.input_size)),
                f"{count / 1e6:.2f} M" if count is not None else "",
                metric.get("data", ""),
                percent(metric.get("top1")),
                percent(metric.get("top5")),
                by_whom(metric) if metric else "",
                row.verified or "no",
                row.licence or "unknown",
                where(row),
            )
            lines.append("| " + " | ".join(cell(text) for text in cells) + " |")
    return "# Checkpoints\n\n" + "\n".join(lines) + "\n"


def where(row: Checkpoint) -> str:
    """Where the weights are to be had, in words."""
    places = []
    if row.package:
        places.append("in the package")
    if row.hub:
        places.append(f"Hub, `{row.hub.partition('@')[0]}`")
    if row.upstream:
        address = row.origin_url or row.upstream.source
        places.append(f"the authors' release ({address})")
    return ", ".join(places)
