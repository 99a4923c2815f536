"""Writes the tables of README and docs from the code: ``python docs/tables.py [--check]``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; what is between them is replaced.
"""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from timm_gcp.commands.recipes import find_recipe, recipe_names  # noqa: E402
from timm_gcp.data import FINE_GRAINED  # noqa: E402
from timm_gcp.method import Argument, name_of_dtype  # noqa: E402
from timm_gcp.methods import METHODS  # noqa: E402
from timm_gcp.models import BACKBONES  # noqa: E402
from timm_gcp.weights import paper_results  # noqa: E402
from timm_gcp.weights.manifest import read_manifest  # noqa: E402

_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def methods() -> str:
    """One line per method: suffix, output, gradient, arguments, precision, source."""
    return _table(
        ("Suffix", "Output", "Gradient", "Arguments", "Precision", "Source"),
        (
            (
                f"`{row.name}`",
                row.forward,
                row.backward,
                ", ".join(f"`{name}={_value(value)}`" for name, value in row.defaults.items()),
                name_of_dtype(row.dtype),
                row.reference,
            )
            for row in METHODS.values()
        ),
    )


def arguments() -> str:
    """One line per argument of a method; methods that share it are in one line."""
    methods_of: dict[Argument, list[str]] = {}
    for row in METHODS.values():
        for argument in row.arguments:
            methods_of.setdefault(argument, []).append(f"`{row.name}`")
    return _table(
        ("Argument", "Methods", "Default", "Meaning"),
        (
            (f"`{one.name}`", ", ".join(names), _value(one.default), one.description)
            for one, names in methods_of.items()
        ),
    )


def backbones() -> str:
    """One line per family of registered backbones, by the module of timm that defines it."""
    import timm
    from timm.models import model_entrypoint

    families: dict[str, list[str]] = {}
    for name in BACKBONES:
        # AlexNet is ours: timm has none.
        module = model_entrypoint(name).__module__ if timm.is_model(name) else "alexnet"
        families.setdefault(module.rpartition(".")[2], []).append(f"`{name}`")
    return _table(("Family", "Backbones"), ((family, ", ".join(names)) for family, names in sorted(families.items())))


def datasets() -> str:
    """One line per data set that is read from its official folder."""
    return _table(
        ("`--dataset`", "Data set", "Classes", "Images", "Folder", "Download", "Licence"),
        (
            (
                f"`{name}`",
                f"[{row.title}]({row.homepage})",
                str(row.classes),
                ", ".join(f"{split} {count:,}" for split, count in row.images.items()),
                f"`{row.folder}`",
                "`--dataset-download`" if row.fetch else "by hand",
                row.licence,
            )
            for name, row in FINE_GRAINED.items()
        ),
    )


def recipes() -> str:
    """One line per recipe: its name and the first line of its file."""
    return _table(
        ("Recipe", "What it is"),
        (
            (f"`{name}`", find_recipe(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
            for name in recipe_names()
        ),
    )


def checkpoints() -> str:
    """One line per row of the manifest."""
    return _table(
        ("Name", "What it is", "Top-1", "Top-5", "Measured by", "Licence"),
        (
            (
                f"`{row.name}`",
                row.description,
                _percent(metric.get("top1")),
                _percent(metric.get("top5")),
                {"upstream": "its authors"}.get(metric.get("by", ""), metric.get("by", "nobody here")),
                row.licence or "not stated",
            )
            for row in read_manifest().values()
            for metric in (row.metrics or ({},))
        ),
    )


def paper_imagenet() -> str:
    """The errors of the paper on ImageNet."""
    return f"{paper_results.imagenet_table()}\n"


def paper_fine_grained() -> str:
    """The accuracies of the paper after fine-tuning."""
    return f"{paper_results.fine_grained_table()}\n"


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods,
    "arguments": arguments,
    "backbones": backbones,
    "datasets": datasets,
    "recipes": recipes,
    "checkpoints": checkpoints,
    "paper_imagenet": paper_imagenet,
    "paper_fine_grained": paper_fine_grained,
}


def render(text: str) -> str:
    """A page with its tables as the code has them now."""
    return _TABLE.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


def pages() -> list[Path]:
    """README and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main(argv: Sequence[str]) -> int:
    """Rewrites the pages, or with ``--check`` only says which ones would change."""
    stale = [page for page in pages() if render(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    for page in stale:
        print(page.relative_to(ROOT))
        if "--check" not in argv:
            page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
    return int("--check" in argv and bool(stale))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _value(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
