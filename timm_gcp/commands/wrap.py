"""``timm-gcp wrap``: runs an unmodified script of timm's with our models and the hybrid protocol.

Under ``torchrun --nproc-per-node N -m timm_gcp wrap train.py -- ...`` it trains on several devices.
"""

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import timm

from ..errors import GCPError
from ..text import one_line
from ..timm_scripts.hooks import ScriptHooks
from ..timm_scripts.source import SCRIPTS, find_script
from .option_types import file_path
from .options import add_debug, add_hybrid_arguments
from .parser import Parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp wrap``.

    Args:
        argv: our options, the script, and after ``--`` the script's arguments; None takes those of the process.

    Returns:
        Exit status 0; a script that exits with another one raises ``SystemExit``, as it does by itself.

    Raises:
        GCPError: the script cannot be had or cannot be wrapped, or bad arguments of the protocol.
    """
    wanted, arguments = _parse(sys.argv[1:] if argv is None else list(argv))
    path = find_script(wanted.script, wanted.timm_scripts)
    hooks = ScriptHooks()
    with patch.object(sys, "argv", [str(path), *arguments]), hooks.installed(), _loaded(path) as script:
        trains = _check_shape(script, path)
        hooks.extend(script.parser, add_hybrid_arguments if trains else None)
        script.main()
    if trains and not hooks.scheduled:
        raise GCPError(
            f"{path.name} never called create_scheduler_v2, so it ran without the hybrid protocol; use the train.py of "
            f"timm {timm.__version__}, or timm-gcp train."
        )
    return 0


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog="timm-gcp wrap",
        usage="%(prog)s [-h] [--timm-scripts WHERE] [--debug] SCRIPT -- ARGUMENTS",
        description="Run a script of timm's, as it is, with the models of timm_gcp registered; train.py gets the "
        "hybrid protocol and its options. SCRIPT --help shows them all.",
    )
    parser.add_argument(
        "script",
        type=file_path,
        metavar="SCRIPT",
        help=f"path of the script, or one of {', '.join(SCRIPTS)} (also without .py)",
    )
    parser.add_argument(
        "--timm-scripts",
        type=file_path,
        metavar="WHERE",
        help="where a SCRIPT without a path comes from: a folder, a version of timm, or 'auto': the folder that the "
        "environment variable TIMM_SCRIPTS names, or an editable installation of timm, or else the tag of the "
        "installed version, which is downloaded once (default: this folder, then auto)",
    )
    add_debug(parser)
    if "--" in argv:
        at = argv.index("--")
        return parser.parse_args(argv[:at]), argv[at + 1 :]
    parser.add_argument("arguments", metavar="ARGUMENTS", nargs=argparse.REMAINDER, help="the script's own arguments")
    wanted = parser.parse_args(argv)
    return wanted, wanted.arguments


@contextlib.contextmanager
def _loaded(path: Path) -> Iterator[ModuleType]:
    """The script as a module of its own name, which data-loading processes can import."""
    name, folder = path.stem, str(path.resolve().parent)
    spec: Any = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise GCPError(f"{path} is not a Python script.")
    script = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = script
    # Last, not first: beside the script there may be a timm of another version.
    sys.path.append(folder)
    try:
        _execute(spec, script, path)
        yield script
    finally:
        sys.path.remove(folder)
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


def _execute(spec: Any, script: ModuleType, path: Path) -> None:
    other = f"use the script of the tag v{timm.__version__}"
    try:
        # Running a script leaves no bytecode beside it.
        with patch.object(sys, "dont_write_bytecode", True):
            spec.loader.exec_module(script)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "timm").startswith("timm"):
            raise GCPError(f"{path.name} needs the package {error.name}; install it.") from error
        raise GCPError(
            f"{path.name} asks for what timm {timm.__version__} does not have ({one_line(error)}); {other}."
        ) from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise GCPError(f"{path.name} is not a Python script ({one_line(error)}); {other}.") from error


def _check_shape(script: Any, path: Path) -> bool:
    """Whether the script trains.

    Raises:
        GCPError: it lacks what the wrapping takes hold of.
    """
    missing = [
        what
        for there, what in (
            (isinstance(getattr(script, "parser", None), argparse.ArgumentParser), "an argument parser named 'parser'"),
            (callable(getattr(script, "main", None)), "a function main()"),
            (
                path.stem != "train" or hasattr(script, "create_scheduler_v2"),
                "the name create_scheduler_v2, taken from timm.scheduler",
            ),
        )
        if not there
    ]
    if missing:
        raise GCPError(
            f"{path.name} has not the shape of timm's scripts: it lacks {' and '.join(missing)}; use the script of the "
            f"tag v{timm.__version__}, or a command of our own such as timm-gcp train."
        )
    return hasattr(script, "create_scheduler_v2")
