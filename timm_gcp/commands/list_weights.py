"""What ``timm-gcp list`` says about pretrained weights: those of a model, those that fit a pattern, their number."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

from ..models.names import split_name
from ..weights.init_tags import INIT, init_tag, is_init, plain_tag

__all__ = ["DEFAULT_METHOD", "count_init", "find_weights", "weights_of_models"]

DEFAULT_METHOD = "svdpade"
"""The method whose names stand for a backbone, where none is given."""


def count_init(model: str) -> int:
    """How many pretrained weights of the plain backbone a registered name can start from.

    Args:
        model: ``<backbone>_<method>``.
    """
    return sum(tag != INIT for tag in _weights_of(model) if is_init(tag))


def weights_of_models(models: Sequence[str], shown: str, only: str = "") -> list[tuple[str, dict[str, str]]]:
    """The weights of some models of a backbone, as titles and facts by name.

    Args:
        models: ``<backbone>_<method>``.
        shown: the one whose ``init`` tags are named; every method has the same.
        only: the one tag of ``shown`` to name; '' for all.

    Returns:
        Title and facts of each table; none where there are no weights.
    """
    init = {tag: cfg for tag, cfg in _weights_of(shown).items() if is_init(tag)}
    if only:
        cfg = _weights_of(shown)[only]
        return [("Pretrained weights", {f"{shown}.{only}": _described(cfg)})]
    first = {
        f"{model}.{tag}": _described(cfg)
        for model in models
        for tag, cfg in _weights_of(model).items()
        if not is_init(tag)
    }
    if INIT in init:
        first[f"{shown}.{INIT}"] = _described(init[INIT], _default_of(init))
    others = {plain_tag(tag): _short(cfg) for tag, cfg in init.items() if tag != INIT}
    found = [("Pretrained weights", first)] if first else []
    if others:
        found.append((f"Weights of the plain backbone, each as {shown}.{init_tag('<tag>')}", others))
    return found


def find_weights(pattern: str) -> dict[str, str]:
    """The weights whose name fits a pattern. Those of a plain backbone, which all methods share, are named once.

    Args:
        pattern: such as ``'*.init-*dinov3*'``, for ``<backbone>_<method>.<tag>`` or ``<backbone>.<tag>``.

    Returns:
        Size and licence by name.
    """
    found: dict[tuple[str, str], str] = {}
    for name in timm.list_pretrained():
        backbone, method, tag = split_name(name)
        if not method or not any(
            fnmatch.fnmatch(f"{start}.{tag}", pattern) for start in (f"{backbone}_{method}", backbone)
        ):
            continue
        key = (backbone, tag if is_init(tag) else name)
        if key not in found or method == DEFAULT_METHOD:
            found[key] = name
    return {name: _short(get_pretrained_cfg(name)) for name in found.values()}


def _weights_of(model: str) -> dict[str, Any]:
    """The cfgs of a registered name that name weights, by tag."""
    cfgs = get_arch_pretrained_cfgs(model).items()
    return {name.partition(".")[2]: cfg for name, cfg in cfgs if cfg.has_weights}


def _default_of(init: Mapping[str, Any]) -> str:
    """The ``init-<tag>`` that ``init`` stands for, in brackets."""
    other = next((tag for tag in init if tag != INIT), "")  # timm's default one is the first
    return f" ({other})" if other else ""


def _short(cfg: Any) -> str:
    size = "×".join(map(str, cfg.input_size[1:]))
    return f"{size} px, {f'licence {cfg.license}' if cfg.license else 'licence not stated'}"


def _described(cfg: Any, other: str = "") -> str:
    """What is known of a tag, in a sentence."""
    if is_init(cfg.tag):
        default = "timm's default weights" if cfg.tag == INIT else "timm's own weights"
        return f"{default} of the backbone{other} under a fresh head, {_short(cfg)}"
    return f"{cfg.description} {cfg.num_classes} classes, {_short(cfg)}"
