"""Measures time and memory of every method, forward and backward, beside lower bounds measured in the same run.

The lower bounds ("floors"): one batched eigendecomposition of the smaller Gram matrix of the features (float64, as in
the SVD family); the matrix products that every method needs (Gram matrix, output, gradient of the features; float32); a
copy of the features and of the output in either direction. All layers are timed in turn, round after round, so that
other load on the machine slows all of them alike. Times are medians; their ratios are more reliable than the times.

``--upstream DIR`` also times the published layers, from the user's checkouts. ``--precision float32`` adds the methods
in another precision of their spectral part, for which some of them have another algorithm. ``--compiled svdpade`` adds
a method under ``torch.compile``. ``--step BACKBONE`` times training steps instead (`eval.training_step`).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from timm_gcp import METHODS, pool_features
from timm_gcp.commands.option_types import path_object
from timm_gcp.plots import new_figure, save_figure
from timm_gcp.text import markdown_table

from . import training_step
from .record import RESULTS, provenance, read_table, write_table
from .training_step import synchronize
from .upstream_layers import LAYERS, load

Layer = Callable[[Tensor], Tensor]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def main(argv: list[str]) -> None:
    """Runs the command ``speed``."""
    parser = argparse.ArgumentParser(prog="python -m eval speed", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, metavar="METHOD", default=tuple(METHODS), help="methods to time (all)"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[16], help="images per batch (16)")
    parser.add_argument("--channels", type=int, nargs="+", default=[256], help="channels of the features (256)")
    parser.add_argument("--maps", type=int, nargs="+", default=[7, 14], help="side of the feature map (7 and 14)")
    parser.add_argument(
        "--dtype", choices=DTYPES, nargs="+", default=["float32"], help="precision of the features (float32)"
    )
    parser.add_argument(
        "--precision", choices=DTYPES, nargs="+", default=[], help="also time methods in these, where they can"
    )
    parser.add_argument(
        "--compiled", nargs="+", choices=METHODS, metavar="METHOD", default=[], help="also time these compiled"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (%(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of timing (%(default)s)")
    parser.add_argument(
        "--upstream", type=path_object, metavar="DIR", help="folder with checkouts of the two repositories"
    )
    parser.add_argument("--step", metavar="BACKBONE", help="time training steps of this backbone instead")
    parser.add_argument("--img-size", type=int, default=224, help="image size of training steps (%(default)s)")
    parser.add_argument("--amp", action="store_true", help="run training steps under bfloat16 autocast")
    parser.add_argument("--results", type=path_object, default=RESULTS, help="folder of the results (%(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    args.results.mkdir(parents=True, exist_ok=True)
    if args.step:
        write_table(args.results / "step.csv", training_step.time_steps(args))
        print(training_step.table(read_table(args.results / "step.csv")))
        return
    rows: list[dict[str, Any]] = []
    for batch, channels, side, dtype in product(args.batch, args.channels, args.maps, args.dtype):
        rows += layers(args, batch, channels, side, dtype)
        write_table(args.results / "speed.csv", rows)
    measured = read_table(args.results / "speed.csv")
    draw(measured, args.results / "speed.png")
    print(table(measured))


def layers(args: argparse.Namespace, batch: int, channels: int, side: int, dtype: str) -> list[dict[str, Any]]:
    """Times every layer on features of one shape.

    Args:
        args: the command's options.
        batch: images.
        channels: of the features.
        side: height and width of the feature map.
        dtype: a key of `DTYPES`.

    Returns:
        One row per layer, for ``speed.csv``.
    """
    # ReLU of correlated channels, as after a reduction: the largest rank that the map allows, unequal eigenvalues.
    mixing = torch.randn(channels, channels) * torch.logspace(0, -2, channels)
    x = (mixing @ torch.randn(batch, channels, side * side)).relu().unflatten(-1, (side, side))
    x = x.to(args.device, DTYPES[dtype])
    chosen: dict[str, tuple[str, Layer]] = {}
    for name, run in floors(channels, side).items():
        chosen[name] = ("floor", run)
    for method in args.methods:
        chosen[method] = ("ours", partial(_ours, method=method))
        for name in args.precision:
            if (precision := DTYPES[name]) in METHODS[method].dtypes and precision != METHODS[method].dtype:
                chosen[f"{method}, {name}"] = ("ours", partial(_ours, method=method, dtype=precision))
    torch.compiler.reset()  # kernels of other shapes would count against its limit
    for method in args.compiled:
        chosen[f"{method}, compiled"] = ("ours", torch.compile(partial(_ours, method=method), dynamic=False))
    if args.upstream:
        chosen |= {layer.name: ("published", run) for layer, run in load(args.upstream, args.device, channels)}
    times = measure({name: run for name, (_, run) in chosen.items()}, x, args.repeats, f"{channels}×{side}×{side}")
    floor = {name: sum(times[name]) for name, (kind, _) in chosen.items() if kind == "floor"}
    shape = dict(batch=batch, channels=channels, map=side, dtype=dtype, device=args.device, threads=args.threads)
    rows = []
    for name, (kind, run) in chosen.items():
        forward, backward = times[name]
        rows.append(
            {
                **dict(kind=kind, layer=name, **shape),
                **dict(forward_ms=f"{forward:.4f}", backward_ms=f"{backward:.4f}", ms=f"{forward + backward:.4f}"),
                **{f"times_{one}": f"{(forward + backward) / value:.2f}" for one, value in floor.items()},
                "extra_mib": f"{extra_memory(run, x) / 2**20:.4f}",
                **provenance(),
            }
        )
    return rows


def _ours(x: Tensor, method: str, dtype: torch.dtype | None = None) -> Tensor:
    return pool_features(x.flatten(2), method, dtype=dtype)


def floors(channels: int, side: int) -> dict[str, Layer]:
    """The lower bounds: functions of the feature map, which include what the backward pass needs.

    Args:
        channels: of the features.
        side: height and width of the feature map.
    """

    def eigh(x: Tensor) -> Tensor:
        f = x.detach().flatten(2).double()
        return torch.linalg.eigh(f.mT @ f if side * side < channels else f @ f.mT)[0].sum()

    def products(x: Tensor) -> Tensor:
        f = x.detach().flatten(2)
        small = f.mT @ f if side * side < channels else f @ f.mT
        g = f @ f.mT
        return (g @ f).sum() + small.sum()

    def copy(x: Tensor) -> Tensor:
        f = x.detach()
        out = f.new_empty(f.shape[0], channels * (channels + 1) // 2)
        return f.clone().flatten()[0] + f.clone().flatten()[0] + out.clone().flatten()[0] * 0

    return {"eigh": eigh, "products": products, "copy": copy}


def measure(chosen: dict[str, Layer], x: Tensor, repeats: int, title: str) -> dict[str, tuple[float, float]]:
    """Times layers in turn, after one round of warm-up.

    Args:
        chosen: name → layer.
        x: features ``[B, C, H, W]``.
        repeats: rounds that are counted.
        title: of the progress bar.

    Returns:
        Name → medians of forward and backward time, in milliseconds.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    device = x.device.type
    for number in tqdm(range(repeats + 1), desc=title, disable=None):
        for name, run in chosen.items():
            given = x.clone().requires_grad_()
            synchronize(device)
            start = time.perf_counter()
            out = run(given)
            synchronize(device)
            middle = time.perf_counter()
            if out.requires_grad:
                out.backward(torch.ones_like(out))
                synchronize(device)
            if number:
                times[name].append((1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)))
    return {
        name: (statistics.median(f), statistics.median(b))
        for name, own in times.items()
        for f, b in [zip(*own, strict=True)]
    }


def extra_memory(run: Layer, x: Tensor) -> int:
    """Largest number of bytes that forward and backward allocate on top of the input.

    Args:
        run: the layer.
        x: features ``[B, C, H, W]``.
    """
    given = x.clone().requires_grad_()

    def once() -> None:
        out = run(given)
        if out.requires_grad:
            out.backward(torch.ones_like(out))

    if x.device.type != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once()
        return torch.cuda.max_memory_allocated() - before
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the profiler records only its own thread
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        once()
    torch.set_num_threads(threads)
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return max(accumulate(size for _, size in sorted(sizes, key=lambda pair: pair[0])), default=0)


SHAPE = ["batch", "channels", "map", "dtype", "device", "threads"]
COLUMNS = {
    "forward_ms": "forward ms",
    "backward_ms": "backward ms",
    "ms": "both",
    "times_eigh": "relative to eigh",
    "times_products": "relative to products",
    "extra_mib": "extra MiB",
}


def table(rows: pd.DataFrame) -> str:
    """Markdown: one table per shape, and the speed against the published layers where those were timed."""
    parts = []
    for (batch, channels, side, dtype, device, threads), own in rows.groupby(SHAPE, sort=False):
        parts.append(f"Batch {batch}, {channels} channels, {side}×{side} maps, {dtype}, {device}, {threads} threads:")
        kinds = own[["layer", "kind"]].itertuples(index=False, name=None)
        names = [f"`{layer}`" if kind == "ours" else f"{layer} ({kind})" for layer, kind in kinds]
        numbers = own[list(COLUMNS)].map("{:.2f}".format).values
        lines = ((name, *cells) for name, cells in zip(names, numbers, strict=True))
        parts.append(markdown_table(("layer", *COLUMNS.values()), lines))
        if against := comparison(own):
            parts.append(markdown_table(("", "speed-up", "memory relative to the published layer"), against))
    return "\n\n".join(parts)


def comparison(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """One row for each of our methods whose published layer was timed in the same run.

    Args:
        rows: the layers of one shape.

    Returns:
        The pair, the speed-up, and the memory relative to the published layer.
    """
    by_layer = rows.set_index("layer")
    lines = []
    for layer in LAYERS:
        for ours in layer.ours:
            if layer.name in by_layer.index and ours in by_layer.index:
                theirs, mine = by_layer.loc[layer.name], by_layer.loc[ours]
                faster, memory = theirs["ms"] / mine["ms"], mine["extra_mib"] / theirs["extra_mib"]
                lines.append((f"`{ours}` against {layer.name}", f"{faster:.1f}×", f"{memory:.2f}"))
    return lines


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Writes a figure of forward and backward time, one plot per shape."""
    shapes = rows.groupby(SHAPE, sort=False)
    figure = new_figure(figsize=(6.4 * shapes.ngroups, 0.9 + 0.27 * shapes.size().max()), layout="constrained")
    panels = figure.subplots(1, shapes.ngroups, squeeze=False)[0]
    colours = {"ours": "C0", "published": "C1", "floor": "0.5"}
    for axes, ((batch, channels, side, dtype, *_), own) in zip(panels, shapes, strict=True):
        own = own.sort_values("ms", ascending=False, kind="stable")
        bars = axes.barh(own["layer"], own["ms"], color=own["kind"].map(colours))
        axes.margins(y=0.01)
        axes.bar_label(bars, [f"{ms:.3g}" for ms in own["ms"]], padding=3, fontsize=8)
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_xlabel("ms, forward and backward")
        axes.set_title(f"batch {batch}, {channels} channels, {side}×{side} map, {dtype}", fontsize=9)
    from matplotlib.patches import Patch  # after new_figure: it imports matplotlib under any backend

    handles = [Patch(color=colour, label=kind) for kind, colour in colours.items()]
    panels[0].legend(handles=handles, loc="upper right", fontsize=8)
    save_figure(figure, path, dpi=110)
