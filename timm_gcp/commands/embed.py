"""``timm-gcp embed``: a short vector for each image, near-duplicates, neighbours and likely label errors."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..embedding.embed import Embedding, embed
from ..embedding.neighbours import near_duplicates, nearest
from ..embedding.options import COMPACT, EmbeddingOptions
from ..embedding.pages import EmbeddingPages
from ..embedding.vector_file import check_vector_file, save_vectors
from ..errors import GCPError
from ..models.named import load_model
from ..tasks import SINGLE_LABEL
from .option_types import COUNT, Number, file_path
from .options import (
    add_backbone,
    add_data_folder,
    add_data_set,
    add_debug,
    add_device,
    add_loading,
    model_choice,
    options_of,
)
from .parser import Parser
from .results_folder import check_results_folder
from .value_checks import check_backbone

__all__ = ["main"]

_NEIGHBOURS = 20  # of which the pages show some, and among which near-duplicates are looked for


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``timm-gcp embed``.

    Args:
        argv: arguments; None takes those of the process.

    Returns:
        Exit status 0.

    Raises:
        GCPError: bad input, before any image passes the backbone.
    """
    args = parse_embed_args(argv)
    options = options_of(EmbeddingOptions, args)
    model = load_model(model_choice(args, method=None))
    if args.cache:
        found = embed(model, options, Path(args.cache))
        _write(found, args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = embed(model, options, Path(folder))
        _write(found, args)
    return 0


def _write(found: Embedding, args: argparse.Namespace) -> None:
    save_vectors(found, args.out)
    count, width = found.vectors.shape
    print(f"{count} vectors of length {width}: {args.out}")
    if not args.report:
        return
    pages = EmbeddingPages(found, Path(args.report))
    neighbours = nearest(found.vectors, _NEIGHBOURS)
    groups = near_duplicates(neighbours, args.similarity)
    groups.sort(key=lambda group: len(found.splits_of(group.images)) < 2)
    print(f"{len(groups)} groups of near-duplicates: {pages.write_neighbours(neighbours, groups, args.similarity)}")
    if across := sum(len(found.splits_of(group.images)) > 1 for group in groups):
        print(f"In several splits: {across} of them. If they show the same scene, the accuracy there is too high.")
    if options_of(EmbeddingOptions, args).task is not SINGLE_LABEL:
        print("Labels that are likely to be wrong are looked for only where an image has one label.")
    if found.labels is not None and len(found.labels.unique()) > 1:
        errors = found.label_errors()
        print(f"{len(errors)} labels to look at: {pages.write_label_errors(errors)}")
        if found.single:
            print(f"Not judged, since they are the only images of their class: {found.single}.")


def embed_parser() -> Parser:
    """The parser of ``timm-gcp embed``."""
    defaults = EmbeddingOptions()
    parser = Parser(
        prog="timm-gcp embed",
        usage="%(prog)s DIR --model NAME --out FILE [options]",
        description="Write a vector of unit length for each image, made of the covariance of a frozen backbone's "
        "features; with --report, also pages of nearest neighbours, near-duplicates and labels that are likely to be "
        "wrong.",
    )
    group = parser.add_argument_group("Data")
    add_data_folder(group)
    add_data_set(group)
    group.add_argument(
        "--splits",
        nargs="+",
        default=[],
        metavar="NAME",
        help="splits of the data set, embedded together (default: those that the folder has, or else the folder "
        "itself: its class folders, or all images in it and below where some lie in the folder itself; "
        "with --dataset, train)",
    )
    add_backbone(parser)
    group = parser.add_argument_group("Vectors")
    group.add_argument(
        "--compact",
        default=defaults.compact,
        choices=COMPACT,
        help="count sketch of the covariance's root, or its principal components over the images",
    )
    group.add_argument(
        "--size", type=COUNT, metavar="N", help="length of the vectors (default: 1024 for a sketch, 256 for pca)"
    )
    group.add_argument(
        "--components",
        type=COUNT,
        metavar="R",
        help="principal directions (default: 256, or all where there are fewer)",
    )
    group.add_argument("--method", metavar="NAME", help=f"method of the covariance's root (default: {defaults.method})")
    group = parser.add_argument_group("Output")
    group.add_argument(
        "--out", type=file_path, default="", metavar="FILE", help="vectors, as .npz or, with pyarrow, .parquet"
    )
    group.add_argument("--report", type=file_path, default="", metavar="DIR", help="write the pages into this folder")
    group.add_argument(
        "--similarity",
        type=Number(least=-1, most=1),
        default=0.8,
        metavar="C",
        help="cosine from which two images are near-duplicates",
    )
    group.add_argument(
        "--cache",
        type=file_path,
        default="",
        metavar="DIR",
        help="keep the features in this folder, for the next command; that of timm-gcp probe is OUTPUT/cache",
    )
    group = parser.add_argument_group("Device and loading")
    group.add_argument(
        "-b", "--batch-size", type=COUNT, default=defaults.batch_size, metavar="N", help="images per batch"
    )
    add_device(group)
    add_loading(group)
    add_debug(parser)
    return parser


def parse_embed_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of ``timm-gcp embed``.

    Raises:
        GCPError: as ``parse_train_args``.
    """
    args: argparse.Namespace = embed_parser().parse_args(argv)
    check_backbone(args, EmbeddingOptions.method)
    if not args.out:
        raise GCPError("Give the file of the vectors by --out FILE, such as --out vectors.npz.")
    check_vector_file(args.out, "--out")
    if args.report:
        check_results_folder(args.report, "--report", "pages")
    return args
