"""``timm-gcp push``: puts a trained model on the Hugging Face Hub, with its card and a Space that runs it."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import GCPError
from ..files import check_output_folder
from ..models.folder import loading_code
from ..models.named import model_folder
from ..sharing import Staged, check_login, check_repo_id, push, stage, write
from .option_types import file_path
from .options import add_debug
from .parser import Parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp push``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: bad input, or the Hub refuses; a refused push leaves the repository as it was.
    """
    args = parse_push_args(argv)
    staged = stage(args.run, args.to, args.license, space=args.space)
    if args.out:
        write(staged, Path(args.out))
        print(f"Nothing is sent; the files are in {args.out}.")
        if staged.space is not None:
            print("Try the Space, in its folder: MODEL=local-dir:../model python app.py")
        return 0
    _push(staged, public=args.public)
    return 0


def _push(staged: Staged, *, public: bool) -> None:
    pushed = push(staged, public=public)
    for kind, each in pushed.items():
        made = f"commit {each.revision[:12]}" if each.changed else "it holds all of this already; no commit is made"
        print(f"{kind.capitalize()}, {'private' if each.private else 'public'}: {each.url} ({made})")
    if public and any(each.private for each in pushed.values()):
        print("What was private before stays so; make it public in its settings on the Hub.")
    if "space" in pushed and pushed["model"].private:
        print("The Space needs a secret HF_TOKEN in its settings, a token that may read the private model.")
    print(f"import timm, timm_gcp; {loading_code(staged.architecture, f'hf-hub:{staged.repo}')}")


def push_parser() -> Parser:
    """The parser of ``timm-gcp push``."""
    parser = Parser(
        prog="timm-gcp push",
        usage="%(prog)s RUN --to USER/NAME --license ID [options]",
        description="Put a trained model on the Hugging Face Hub in one commit: weights, configuration with the class "
        "names, a card with licence and accuracy, and the training curves. A new repository is private.",
    )
    parser.add_argument(
        "run", type=file_path, metavar="RUN", help="run folder of timm-gcp train or probe, or a model folder"
    )
    parser.add_argument("--to", default="", metavar="USER/NAME", help="repository, of yours or of an organisation")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="licence of the weights, as the Hub names it: apache-2.0, cc-by-nc-4.0, other, … (default: that of the "
        "folder, if it has one)",
    )
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument(
        "--space", action="store_true", help="also make a Space USER/NAME: a Gradio app that runs the model"
    )
    parser.add_argument(
        "--out",
        type=file_path,
        default="",
        metavar="DIR",
        help="send nothing; write the files into DIR/model and DIR/space",
    )
    add_debug(parser)
    return parser


def parse_push_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp push``.

    Raises:
        GCPError: as ``parse_train_args``, or there is no token.
    """
    args: argparse.Namespace = push_parser().parse_args(argv)
    if not re.fullmatch(r"[^/]+/[^/]+", args.to):
        raise GCPError("Give the repository by --to USER/NAME, such as --to jane/birds.")
    check_repo_id(args.to, "--to")
    if args.license is not None:
        args.license = args.license.lower()
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", args.license):
            raise GCPError(
                f"--license {args.license!r} is not an identifier of the Hub's; give one such as apache-2.0, cc-by-4.0 "
                "or other."
            )
    if args.out:
        check_output_folder(args.out, "--out")
        if (Path(args.out) / "model").resolve() == Path(model_folder(args.run)).resolve():
            raise GCPError(f"--out {args.out} would replace the model folder that is read; choose another.")
    else:
        check_login()
    return args
