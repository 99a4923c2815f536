"""The command ``timm-gcp``; also ``python -m timm_gcp``."""

import importlib
import sys
import warnings
from collections.abc import Sequence

from timm_gcp.error_handler import exit_status
from timm_gcp.output import lenient_output, lost
from timm_gcp.startup import raise_on_interrupt

COMMANDS = {
    "demo": "fit a probe and train tiny models on synthetic textures, in about a minute",
    "doctor": "look at a data set before training: counts, damage, duplicates, suggestions",
    "train": "train a model on your images, with the hybrid protocol",
    "probe": "fit a classifier with covariance features to a frozen backbone, in minutes",
    "validate": "evaluate a model, a checkpoint, a model folder or a Hub model",
    "compare": "compare runs in one page, with paired tests",
    "predict": "print the most probable classes of images",
    "embed": "write a vector for each image; near-duplicates, neighbours, likely label errors",
    "export": "write a model as an ONNX file, checked against the model",
    "convert": "write a published checkpoint as a timm model folder",
    "push": "put a trained model on the Hugging Face Hub, with its card and a Space that runs it",
    "wrap": "run timm's own train.py, validate.py, ... with our models and the hybrid protocol",
    "list": "list backbones and methods, or show what is known of one",
}
WRITES_FOLDERS = ("compare", "demo", "embed", "push", "train", "probe", "wrap")
"""Commands whose results are files, here or on the Hub: what they print may be lost without loss."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command. Its output is lenient: printing never ends it.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status: 0, 2 for bad input (one sentence on stderr) or results that could not be printed, 1 for an error
        of a library that is unexpected (one sentence, too), 130 when interrupted.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    with lenient_output() as output:
        status = _main(argv)
        if reason := lost(output):
            print(f"timm-gcp: error: Standard output could not be written ({reason}).", file=sys.stderr)
            status = status or (0 if argv[:1] and argv[0] in WRITES_FOLDERS else 2)
    return status


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] in ("--version", "-V", "version"):
        from timm_gcp.version import __version__

        print(f"timm-gcp {__version__}")
        return 0
    return exit_status("timm-gcp", argv, lambda: _run(argv[0], argv[1:]))


def _usage() -> str:
    lines = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return f"usage: timm-gcp COMMAND ...\n\nGlobal covariance pooling for timm.\n\n{lines}\n\ntimm-gcp COMMAND --help"


def _run(command: str, argv: list[str]) -> int | None:
    if command not in COMMANDS:
        from timm_gcp.errors import GCPError
        from timm_gcp.text import nearest

        raise GCPError(f"Unknown command '{command}'; there are {', '.join(COMMANDS)}{nearest(command, COMMANDS)}")
    module = importlib.import_module(f"timm_gcp.commands.{command}")
    raise_on_interrupt()
    # torch repeats it for every loader on a machine with fewer cores than --workers.
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
    return module.main(argv)


if __name__ == "__main__":
    sys.exit(main())
