"""A training checkpoint, of ours, of timm's ``train.py`` or of another program, as a model folder."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..errors import GCPError
from ..files import sha256_of
from ..models.folder import architecture, save_folder
from ..models.named import model_from_checkpoint
from ..text import first_line

__all__ = ["convert_trained"]


def convert_trained(args: argparse.Namespace, file: Path, names: Sequence[str] | None) -> None:
    """Writes the model folder of ``timm-gcp convert`` for a checkpoint in timm's own layout.

    Args:
        args: of the command.
        file: the checkpoint.
        names: of the classes, in the order of the logits; None takes those in the checkpoint.

    Raises:
        GCPError: the checkpoint does not fit, the number of names is another one, or the folder would load as another
            network; there is no folder then.
    """
    size = (args.img_size, args.img_size) if args.img_size else None
    model: Any = model_from_checkpoint(file, args.model, last_stride=args.last_stride, image_size=size).eval()
    if names is not None and len(names) != model.num_classes:
        raise GCPError(f"{args.class_names} has {len(names)} classes, and {file} {model.num_classes}.")
    config = model.pretrained_cfg
    names = names or config.get("label_names")
    channels = config["input_size"][0]
    data_config = {"crop_pct": args.crop_pct, "input_size": (channels, *size) if size else None}
    name = architecture(model)
    digest = sha256_of(file)
    if not digest.startswith(args.sha256.lower()):
        raise GCPError(f"{file} has the SHA-256 {digest}, not {args.sha256}; download it again.")
    origin = (
        f"Converted by timm-gcp from the training checkpoint `{file.name}`, SHA-256 `{digest}`. Not evaluated here."
    )
    out = Path(args.out)
    save_folder(model, out, class_names=names, data_config=data_config, origin=origin)
    _check(model, out, file)
    print(f"{file}: {name}, {model.num_classes} classes, {'with' if names else 'without'} names.")
    if not names:
        print("Its classes have numbers alone: --class-names FILE or DIR names them.")
    print(f"{out}: timm-gcp validate --model {out} evaluates it.")


@torch.no_grad()
def _check(model: Any, out: Path, file: Path) -> None:
    """Removes a folder that does not load as the model that was saved."""
    image = torch.randn(1, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    try:
        again: nn.Module = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
        why = "" if torch.allclose(again(image), model(image), rtol=1e-3, atol=1e-4) else "it gives other logits"
    except Exception as error:  # timm and torch raise all kinds
        why = first_line(error)
    if why:
        shutil.rmtree(out)
        raise GCPError(
            f"timm cannot build the network of {file} from a folder ({why}); use the checkpoint itself by --checkpoint."
        )
