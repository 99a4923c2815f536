"""Rows of ``experiment.csv`` for tests."""

from eval import experiment_settings as settings


def row_of(head, rate, fold, top1, epochs, count=500, backbone=settings.BACKBONE):
    key = dict(zip(settings.KEY, (backbone, head, f"{rate:g}", 0, epochs, fold), strict=True))
    return {**key, "train_top1": 95, "eval_top1": 50, "held_top1": top1, "held_count": count}
