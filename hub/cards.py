"""``python -m hub cards``: writes the model cards of all rows of the manifest, and an index page."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import timm

from timm_gcp.commands.option_types import path_object
from timm_gcp.files import save_text
from timm_gcp.models.create import create_on_meta
from timm_gcp.text import markdown_table
from timm_gcp.weights.manifest import MANIFEST, Checkpoint, read_manifest

from .model_card import measured_by, percent, render_card

INDEX = "index.md"


def main(argv: list[str]) -> int:
    """Runs the command ``cards``; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m hub cards", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=path_object, default=Path("cards"), help="folder to write to (%(default)s)")
    parser.add_argument("--manifest", type=path_object, default=MANIFEST, help="manifest to read (the package's)")
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
    print(f"Written to {args.out}: {INDEX} and the cards of {', '.join(rows)}.")
    return 0


def count_parameters(row: Checkpoint) -> int | None:
    """Number of parameters of a row's network; None if its architecture is not registered."""
    if not timm.is_model(row.architecture):
        return None
    model = create_on_meta(row.architecture, num_classes=row.num_classes, **row.model_args)
    return sum(p.numel() for p in model.parameters())


def index(rows: Mapping[str, Checkpoint], parameters: Mapping[str, int | None]) -> str:
    """The index page: one line per measurement, or one for a row without measurements."""
    titles = ("name", "input", "parameters", "data", "top-1", "top-5", "measured by", "verified", "licence", "where")
    lines = []
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
                measured_by(metric) if metric else "",
                row.verified or "no",
                row.licence or "unknown",
                where(row),
            )
            lines.append(cells)
    return f"# Checkpoints\n\n{markdown_table(titles, lines)}\n"


def where(row: Checkpoint) -> str:
    """The places from which the weights can be loaded."""
    places = []
    if row.package:
        places.append("in the package")
    if row.hub:
        places.append(f"Hub, `{row.hub.partition('@')[0]}`")
    if row.upstream:
        address = row.origin_url or row.upstream.source
        places.append(f"the authors' release ({address})")
    return ", ".join(places)
