"""Writes one page of all measurements: tables, plots and comparisons from the CSV files of ``eval/results/``.

Tables and comparisons are computed from the files. A discussion written by hand, ``notes/NAME.md``, is appended to a
section. The same files give the same page, byte for byte.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from timm_gcp import GCPError
from timm_gcp.commands.option_types import path_object
from timm_gcp.files import save_text
from timm_gcp.weights import paper_results

from . import (
    embedding,
    experiment_report,
    finetune_report,
    gains,
    gradients,
    memory,
    probe,
    probe_images,
    refit,
    speed,
    training_step,
)
from .record import RESULTS, read_cells, read_table


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: name of its CSV file and of its note, without the extension.
        title: heading.
        command: the command of the measurement.
        body: returns the Markdown for a results folder, and writes the plots there; None for a section without a CSV
            file, which consists of its note.
    """

    name: str
    title: str
    command: str
    body: Callable[[Path], str] | None = None

    @property
    def source(self) -> str:
        """The file that the section needs; without it, the section is left out."""
        return f"{self.name}.csv" if self.body is not None else f"notes/{self.name}.md"

    def text(self, results: Path) -> str:
        """The section as Markdown, from a results folder."""
        parts = [f"## {self.title}", f"```bash\n{self.command}\n```"]
        if self.body is not None:
            parts += [
                f"{provenance(results / self.source)} Data: [{self.source}]({self.source}).",
                self.body(results),
            ]
        note = results / "notes" / f"{self.name}.md"
        if note.exists():
            parts.append(note.read_text(encoding="utf-8").strip())
        return "\n\n".join(parts)


def provenance(path: Path) -> str:
    """Dates, machines and versions of the rows of a file, separated by semicolons."""
    rows = read_cells(path)
    dates, machines, versions = (sorted(set(rows[column])) for column in ("date", "machine", "versions"))
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{days}; {'; '.join(machines)}; {'; '.join(versions)}."


def _gradients(results: Path) -> str:
    gradients.draw(read_table(results / "gradients.csv"), results / "gradients.png")
    return "![errors and smoothness against conditioning](gradients.png)"


def _speed(results: Path) -> str:
    rows = read_table(results / "speed.csv")
    speed.draw(rows, results / "speed.png")
    return f"{speed.table(rows)}\n\n![milliseconds of every layer](speed.png)"


def _gpu(results: Path) -> str:
    folder = results / "gpu"
    rows = read_table(folder / "speed.csv")
    speed.draw(rows, folder / "speed.png")
    steps = training_step.table(read_table(folder / "step.csv"))
    return f"{speed.table(rows)}\n\n![milliseconds of every layer on a GPU](gpu/speed.png)\n\n{steps}"


def _step(results: Path) -> str:
    return training_step.table(read_table(results / "step.csv"))


def _memory(results: Path) -> str:
    rows = read_table(results / "memory.csv")
    memory.draw(rows, results / "memory.png")
    return f"{memory.table(rows)}\n\n![MiB that a training step adds to the model](memory.png)"


SECTIONS = (
    Section(
        "experiment",
        "Pooling heads trained on the Grocery Store photographs",
        "python -m eval experiment --data-dir GROCERY          # all stages; can be interrupted and started again\n"
        "python -m eval experiment --data-dir GROCERY --stage 2 --heads average isqrt svdpade-hybrid --seeds 3 4\n"
        "python -m eval experiment --data-dir GROCERY --stage 10 --heads isqrt-conv isqrt-linear",
        experiment_report.section,
    ),
    Section("gradients", "Errors of the gradients", "python -m eval gradients", _gradients),
    Section(
        "speed",
        "Speed and memory of the layers",
        "# CHECKOUTS holds DifferentiableSVD and fast-MPN-COV\n"
        "python -m eval speed --threads 2 --upstream CHECKOUTS --precision float32 bfloat16 "
        "--compiled isqrt svdpade polar",
        _speed,
    ),
    Section(
        "step",
        "Time of a training step",
        "python -m eval speed --step resnet50 --methods isqrt polar svdpade --batch 8 --repeats 5 --threads 2",
        _step,
    ),
    Section(
        "gpu/speed",
        "Speed on a GPU",
        "SETTINGS='--device cuda --batch 128 --repeats 5 --threads 4 --results eval/results/gpu'\n"
        "python -m eval speed $SETTINGS --maps 7 --compiled svdpade isqrt polar \\\n"
        "    --methods isqrt polar svdpade svdtaylor svdtrunc svdnewton svd svdlyap rsqrt cov\n"
        "python -m eval speed $SETTINGS --step resnet50 --amp --methods isqrt polar svdpade cov",
        _gpu,
    ),
    Section("memory", "Memory of a training step", "python -m eval memory", _memory),
    Section(
        "probe",
        "A classifier on frozen features",
        "# LITE0 holds the ImageNet weights of timm's tf_efficientnet_lite0; --val-split test measures the test part\n"
        "timm-gcp probe --dataset grocery --data-dir GROCERY --val-split val --model tf_efficientnet_lite0 \\\n"
        "    --checkpoint LITE0 --compare --channels-last -j 1 --output probe/grocery\n"
        "timm-gcp probe --dataset list --data-dir CARS --val-split val --model tf_efficientnet_lite0 \\\n"
        "    --checkpoint LITE0 --compare --channels-last -j 1 --output probe/cars\n"
        "python -m eval probe --name grocery --cache probe/grocery --dataset grocery --data-dir GROCERY \\\n"
        "    --val-split val --model tf_efficientnet_lite0 --checkpoint LITE0 -j 1\n"
        "python -m eval probe --name cars --cache probe/cars --dataset list --data-dir CARS \\\n"
        "    --val-split val --model tf_efficientnet_lite0 --checkpoint LITE0 -j 1",
        probe.section,
    ),
    Section(
        "probe_images",
        "A probe with few training images",
        "SETTINGS='--val-split test --model tf_efficientnet_lite0 --checkpoint LITE0 --channels-last -j 1'\n"
        "python -m eval probe_images --name grocery --cache probe/grocery --dataset grocery --data-dir GROCERY \\\n"
        "    $SETTINGS\n"
        "python -m eval probe_images --name cars --cache probe/cars --dataset list --data-dir CARS $SETTINGS\n"
        "python -m eval probe_images --name cars --cache probe/cars448 --dataset list --data-dir CARS $SETTINGS \\\n"
        "    --img-size 448",
        probe_images.section,
    ),
    Section(
        "embedding",
        "Vectors of images",
        "python -m eval embedding GROCERY --dataset grocery --model tf_efficientnet_lite0 --checkpoint LITE0 -j 1",
        embedding.section,
    ),
    Section(
        "finetune",
        "Fine-tuning a pretrained backbone",
        "# LITE0 holds the ImageNet weights of timm's tf_efficientnet_lite0\n"
        "python -m eval finetune --cars CARS --grocery GROCERY --weights LITE0 --device cuda --jobs 8 --workers 2",
        finetune_report.section,
    ),
    Section(
        "refit",
        "A classifier fitted anew to a fine-tuned network",
        "python -m eval refit --cars CARS --grocery GROCERY --work runs/finetune",
        refit.section,
    ),
    Section(
        "two_stages",
        "Fine-tuning in two stages",
        "SETTINGS='--dataset list --data-dir COARSE --val-split val --img-size 112 --crop-pct 0.95 -b 32 --opt sgd\n"
        "    --weight-decay 1e-4 --clip-grad 5 --sched cosine --sched-on-updates --warmup-epochs 0 --min-lr 1e-5\n"
        "    --scale 0.35 1.0 --color-jitter 0.2 --smoothing 0.1 --device cpu --channels-last -j 1 --output runs'\n"
        "timm-gcp train $SETTINGS --model test_resnet_svdpade.grocery --pretrained --train-only head --no-hybrid \\\n"
        "    --lr 0.1 --epochs 4 --seed 0 --experiment head\n"
        "timm-gcp train $SETTINGS --model local-dir:runs/head/model --no-hybrid \\\n"
        "    --lr 0.02 --epochs 6 --seed 0 --experiment all\n"
        "timm-gcp validate --dataset list --data-dir COARSE --split test --model local-dir:runs/all/model",
    ),
    Section(
        "orthogonality",
        "Nearest orthogonal gradient and optimal learning rate",
        "# OPTIONS is nothing, --orthogonal-gradient, --optimal-lr, or both\n"
        "timm-gcp train --dataset grocery --data-dir GROCERY --val-split val --model test_resnet_svdpade \\\n"
        "    --last-stride 1 --img-size 112 --crop-pct 0.95 -b 32 -vb 128 --clip-grad 5 --epochs 5 \\\n"
        "    --warmup-epochs 1 --lr 0.1 --warmup-lr 1e-3 --opt sgd --momentum 0.9 --weight-decay 1e-4 \\\n"
        "    --sched cosine --sched-on-updates --min-lr 1e-5 --scale 0.35 1 --color-jitter 0 --seed 0 \\\n"
        "    --device cpu --channels-last -j 0 --no-prefetcher --no-check-images --monitor-every 10 \\\n"
        "    --output runs --experiment NAME OPTIONS\n"
        "python -m eval conditioning runs/*\n"
        "timm-gcp validate --dataset grocery --data-dir GROCERY --split test --checkpoint runs/NAME/last.pth.tar",
    ),
    Section(
        "families",
        "Other backbone families on the Grocery Store photographs",
        "timm-gcp train --dataset grocery --data-dir GROCERY --val-split val --model MODEL --img-size 128 -b 32 \\\n"
        "    --opt adamw --weight-decay 0.05 --lr 1e-3 --epochs 8 --warmup-epochs 1 --device cpu -j 1",
    ),
)


def main(argv: list[str]) -> None:
    """Runs the command ``report``."""
    parser = argparse.ArgumentParser(prog="python -m eval report", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=path_object, default=RESULTS, help="folder of the results (%(default)s)")
    args = parser.parse_args(argv)
    out = args.results / "README.md"
    content = page(args.results)
    save_text(out, content)
    print(out)


def page(results: Path) -> str:
    """The page as Markdown; writes the plots into the folder. A section whose file is missing is left out.

    Args:
        results: folder of the CSV files.

    Raises:
        GCPError: the folder has no results at all.
    """
    there = [section for section in SECTIONS if (results / section.source).exists()]
    if not there:
        raise GCPError(f"{results} holds no results: measure something first (python -m eval --help).")
    head = (
        "# Measurements\n\n"
        "Generated by `python -m eval report` from the CSV files in this folder. Each section starts with the command "
        "that made its measurements, and each row of a file has date, machine and versions. A difference is called "
        "*higher* or *lower* if its 95 % confidence interval excludes zero, otherwise *not significant*. Over seeds or "
        "draws the interval is Student's t; over test images it is that of two independent proportions."
    )
    if first := gains.table(results):
        head += f"\n\n## Where covariance pooling is worth it\n\n{first}"
        if (note := results / "notes" / "gains.md").exists():
            head += f"\n\n{note.read_text(encoding='utf-8').strip()}"
    return "\n\n".join([head, *(section.text(results) for section in there), _paper()]) + "\n"


def _paper() -> str:
    """What the paper measured, beside our measurements and apart from them."""
    return (
        "## Results of the paper\n\n"
        f"Not measurements of this project: the numbers are from the [poster of the paper]({paper_results.SOURCE}). "
        "Its networks, images and splits are others than ours, so they cannot be compared with the tables above.\n\n"
        f"{paper_results.IMAGENET_CAPTION}:\n\n"
        f"{paper_results.imagenet_table()}\n\n"
        f"{paper_results.FINE_GRAINED_CAPTION}:\n\n"
        f"{paper_results.fine_grained_table()}"
    )
