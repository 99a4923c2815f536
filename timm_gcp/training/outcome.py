"""What a finished run leaves behind: the best model, evaluated under the final method, and pictures of the course."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError

from ..errors import GCPError
from ..files import save_text
from ..pooling import find_pools
from ..text import one_line
from ..version import __version__
from ..weights.file import load_weights, weights_of
from ..weights.folder import save_folder
from .checkpoint import load_training_checkpoint
from .curves import draw_curves
from .engine import evaluate
from .inputs import evaluation_loader
from .loading import set_method
from .run import Run


def finish(run: Run) -> None:
    """Evaluates the best model under the final method, and writes what a run leaves behind."""
    if run.monitor is not None:
        run.monitor.close()
    args, model = run.args, run.plain
    best = run.folder / "model_best.pth.tar"
    path = next((p for p in (best, run.folder / "last.pth.tar") if p.is_file()), Path(args.resume))
    checkpoint = load_training_checkpoint(path)
    load_weights(model, weights_of(checkpoint, path, use_ema=run.ema is not None), path)
    if run.final_method:
        set_method(model, run.final_method)
    metrics: dict[str, float] = {}
    if run.eval_dataset is not None:
        batch = args.validation_batch_size or args.batch_size
        metrics = evaluate(
            model,
            evaluation_loader(args, run.eval_dataset, run.data_config, run.device, batch),
            device=run.device,
            autocast=run.autocast,
            channels_last=args.channels_last,
            tta=args.tta,
            description="evaluating the best model",
        )
    result = {
        **{key: metrics.get(key) for key in ("top1", "top5", "loss", "count")},
        "method": run.final_method,
        "epoch": checkpoint["epoch"],
        "epochs": run.epochs,
        "switched_at": run.schedule.switched_at if run.schedule else None,
        "model": args.model,
        "split": args.val_split,
        "tta": args.tta,
        "seed": args.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "skipped_updates": sum(int(row.get("skipped") or 0) for row in run.rows),
        "eigensolver_fallbacks": sum(int(row.get("fallbacks") or 0) for row in run.rows),
        "wall_seconds": round(run.seconds, 1),
        "command": run.command,
        "versions": {
            "timm_gcp": __version__,
            "timm": timm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    save_text(run.folder / "result.json", json.dumps(result, indent=2) + "\n")
    draw_curves(run.folder / "summary.csv", run.folder / "curves.png")
    run.progress.say(_outcome(run, result))


def _outcome(run: Run, result: Mapping[str, Any]) -> str:
    """Saves the model folder, and says what came out."""
    args, model = run.args, run.plain
    text = f"Best epoch {result['epoch']}"
    if result["top1"] is not None:
        text += f": top-1 {result['top1']:.2f}, top-5 {result['top5']:.2f}, loss {result['loss']:.4f}"
    if result["tta"] and result["top1"] is not None:
        text += f" with --tta {result['tta']}"
    if result["method"]:
        text += f" under {result['method']}"
    if args.last_stride == 1 and not find_pools(model):
        # timm itself cannot build this network: a folder would load as another one.
        return f"{text}. No model folder: timm has no undilated stride 1 for {args.model}; use the checkpoint."
    shown = {
        key: result[key] for key in ("top1", "top5", "loss", "tta", "method", "epoch") if result[key] not in (None, "")
    }
    try:
        folder = save_folder(
            model,
            run.folder / "model",
            class_names=run.class_names,
            metrics=shown,
            data_config=run.data_config,
            model_args=args.model_kwargs or {},
        )
    except (OSError, SafetensorError) as error:
        raise GCPError(
            f"Cannot write the model folder {run.folder / 'model'} ({one_line(error)}): make room there; training is "
            "done, so --resume auto only writes it again."
        ) from error
    return f"{text}. Model folder: timm.create_model('local-dir:{folder}', pretrained=True)"
