"""``timm-gcp list``: lists backbones and methods, or shows what is known of one of them."""

import fnmatch
import time
from collections.abc import Container, Sequence
from typing import Any

import timm
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import GCPError
from ..method import Method, name_of_dtype
from ..methods import METHODS
from ..models import ensure_registered
from ..models.cfgs import check_tag
from ..models.create import create_on_meta
from ..models.names import endings, split_name
from ..moment_pooling import GROUPS, MOMENT_POOL, WIDTH
from ..text import nearest
from ..weights.init_tags import init_tag, is_init
from .glossary import GLOSSARY
from .list_weights import DEFAULT_METHOD, count_init, find_weights, weights_of_models
from .options import add_debug
from .parser import Parser

__all__ = ["main"]

_MOMENT_PROBING = {
    "output": "cross-covariances of neighbouring groups of channels, compressed by two convolutions",
    "source": "Gao et al., Tuning Pre-trained Model via Moment Probing, ICCV 2023, section 3.2",
    "options": f"reduce={WIDTH} channels in groups={GROUPS}, first_order",
    "models": f"<backbone>_{MOMENT_POOL}, such as vit_base_patch16_224_{MOMENT_POOL}, without the hybrid protocol",
}
"""What is shown of the one head that is no method."""
_TIMED_BATCH = 8
_TIMED_SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp list``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: nothing has this name.
    """
    parser = Parser(
        prog="timm-gcp list",
        description="List the registered backbones and the methods, or show what is known of one: a model "
        "(resnet50_svdpade), a backbone (resnet50), or a method (svdpade). A pattern with a dot lists pretrained "
        "weights.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default="*",
        help="a name, a pattern of models ('*_polar') or of weights ('*.init-*dinov3*'), or 'glossary' for the words "
        "of the log",
    )
    parser.add_argument("--time", action="store_true", help="also measure the forward pass of a model on this machine")
    add_debug(parser)
    args = parser.parse_args(argv)
    console = Console()
    if args.name == "glossary":
        print(GLOSSARY)
    elif args.name == MOMENT_POOL:
        _show_facts(console, MOMENT_POOL, _MOMENT_PROBING)
    elif args.name in METHODS:
        _show_method(console, METHODS[args.name])
    elif any(character in args.name for character in "*?["):
        if args.time:
            raise GCPError("--time measures one model; give its name, such as resnet50_svdpade.")
        (_show_weights if "." in args.name else _show_matches)(console, args.name)
    else:
        _show_model(console, args.name, args.time)
    return 0


def _registered() -> dict[str, list[str]]:
    """Methods by backbone, of all models that are registered."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        backbone, method, _ = split_name(name)
        if method and timm.is_model(backbone):
            found.setdefault(backbone, []).append(method)
    return found


def _show_matches(console: Console, pattern: str) -> None:
    models = [
        (backbone, method)
        for backbone, methods in _registered().items()
        for method in methods
        if fnmatch.fnmatch(f"{backbone}_{method}", pattern) or fnmatch.fnmatch(backbone, pattern)
    ]
    if not models:
        raise GCPError(f"No registered model fits '{pattern}'{_near(pattern.strip('*'))}")
    methods = {method for _, method in models}
    console.print("A model is named <backbone>_<method>, such as resnet50_svdpade.\n", markup=False)
    console.print(
        "Backbones, each with every method below; in brackets the number of pretrained weights of timm that it has:",
        style="bold",
    )
    one_each = dict(models)  # every method of a backbone has the same
    shown = ", ".join(f"{backbone}({count_init(f'{backbone}_{method}')})" for backbone, method in one_each.items())
    console.print(shown + "\n", markup=False, highlight=False)
    console.print(_methods(methods))
    console.print()
    console.print(
        "timm-gcp list NAME shows one backbone with its weights, one model or one method; timm-gcp list "
        "'*.init-*dinov3*' finds weights by their tag. Any other backbone of timm works as well.",
        markup=False,
    )


def _show_weights(console: Console, pattern: str) -> None:
    weights = find_weights(pattern)
    if not weights:
        raise GCPError(
            f"No pretrained weights fit '{pattern}'; timm-gcp list '{pattern.partition('.')[0]}' lists models."
        )
    console.print("Weights under .init are those of timm's backbone, under a fresh head of any method.\n", markup=False)
    _show_facts(console, f"{len(weights)} pretrained weights", weights)


def _methods(names: Container[str]) -> Table:
    table = Table(title="Methods", title_justify="left", box=box.SIMPLE, show_edge=False, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("output", overflow="fold")
    table.add_column("arguments", overflow="fold")
    for row in METHODS.values():
        if row.name in names:
            table.add_row(row.name, row.forward, _arguments(row))
    if MOMENT_POOL in names:
        table.add_row(MOMENT_POOL, _MOMENT_PROBING["output"], "")
    return table


def _arguments(row: Method) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in row.defaults.items())


def _show_method(console: Console, row: Method) -> None:
    _show_facts(
        console,
        row.name,
        {
            "output": row.forward,
            "gradient": row.backward,
            "arguments": "; ".join(f"{arg.name}={arg.default:g} ({arg.description})" for arg in row.arguments)
            or "none",
            "precision": ", ".join(
                f"{name_of_dtype(dtype)}{' (default)' if dtype == row.dtype else ''}" for dtype in row.dtypes
            ),
            "source": row.reference,
            "models": f"<backbone>_{row.name}, such as resnet50_{row.name}",
        },
    )


def _show_model(console: Console, name: str, timed: bool) -> None:
    backbone, method, tag = split_name(name)
    if not timm.is_model(backbone):
        backbone, method = name.partition(".")[0], ""
    if not timm.is_model(backbone):
        raise GCPError(f"There is no model, backbone or method '{name}'{_near(name)}")
    shown = f"{backbone}_{method or DEFAULT_METHOD}"
    ensure_registered(shown)
    if tag and not method and not is_init(tag):
        tag = init_tag(tag)
    check_tag(shown, tag)
    model: Any = create_on_meta(f"{shown}.{tag}" if tag else shown)
    methods = [f"{backbone}_{one}" for one in endings()]
    facts = _facts_of(model, backbone, method)
    if not method:
        facts["models"] = ", ".join(methods)
    if timed:
        facts["forward"] = _measured(shown, model.pretrained_cfg["input_size"])
    _show_facts(console, name, facts)
    tables = weights_of_models([shown] if method else methods, shown, only=tag)
    for title, weights in tables:
        _show_facts(console, title, weights)
    if not tables:
        console.print("There are no pretrained weights of it.")


def _facts_of(model: Any, backbone: str, method: str) -> dict[str, str]:
    return {
        "what": _what(backbone, method),
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M for {model.num_classes} classes",
        "covariance": f"{model.global_pool.channels} channels, {model.global_pool.out_features:,} numbers",
        "input": " × ".join(map(str, model.pretrained_cfg["input_size"])),
    }


def _what(backbone: str, method: str) -> str:
    if method == MOMENT_POOL:
        return f"{backbone} with Moment Probing: {_MOMENT_PROBING['output']}"
    return f"{backbone} with covariance pooling" + (f": {METHODS[method].forward}" if method else "")


@torch.inference_mode()
def _measured(name: str, input_size: Sequence[int]) -> str:
    """The rate of the forward pass: the best of a few seconds, random weights."""
    model = timm.create_model(name).eval()
    images = torch.randn(_TIMED_BATCH, *input_size)
    best, began = float("inf"), time.monotonic()
    while best == float("inf") or time.monotonic() - began < _TIMED_SECONDS:
        start = time.perf_counter()
        model(images)
        best = min(best, time.perf_counter() - start)
    return (
        f"{_TIMED_BATCH / best:.1f} images/s (measured now: cpu, {torch.get_num_threads()} threads, batch "
        f"{_TIMED_BATCH}, float32)"
    )


def _show_facts(console: Console, title: str, facts: dict[str, str]) -> None:
    table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, text in facts.items():
        table.add_row(key, text)
    console.print(table, highlight=False)
    console.print()


def _near(name: str) -> str:
    registered = _registered()
    names = [
        *endings(),
        *registered,
        *(f"{backbone}_{one}" for backbone, methods in registered.items() for one in methods),
    ]
    return nearest(name, names)
