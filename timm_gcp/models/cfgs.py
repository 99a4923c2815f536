"""The pretrained cfgs of the registered names, from the manifest of checkpoints and timm's cfg of the backbone."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs
from timm.models._pretrained import DefaultCfg

from ..errors import GCPError
from ..text import nearest, some_of
from ..weights.init_tags import INIT, init_tag, is_init, plain_tag
from ..weights.manifest import Checkpoint, read_manifest
from .names import split_name
from .shared_cfg import SharedCfg
from .stride import keeps_stride_one

__all__ = ["check_tag", "checkpoint_of", "default_cfgs_of", "names_with_weights", "plain_cfg_of"]

_CHECKPOINTS = read_manifest()
_LICENSED_FIRST = sorted(_CHECKPOINTS.values(), key=lambda row: row.licence is None)


def default_cfgs_of(backbone: str, methods: Iterable[str]) -> dict[str, DefaultCfg]:
    """timm's ``default_cfgs`` of ``<backbone>_<method>`` for some methods.

    The tags of a name are those of the manifest, after '' where none of them has a licence, then ``init`` for the plain
    backbone's default weights and ``init-<tag>`` for those of each tag of timm.

    Args:
        backbone: a timm model's name.
        methods: names of ``METHODS``.
    """
    plain = _plain_cfgs(backbone)
    bare = _without_weights(_without_provenance(backbone, next(iter(plain.values()), PretrainedCfg())))
    init = _init_cfgs(backbone, plain)
    # Most names have no checkpoint, and share one object: importing the package makes thousands of names.
    shared = _default_cfg({"": bare, **init})
    names = [f"{backbone}_{method}" for method in methods]
    rows: dict[str, dict[str, PretrainedCfg]] = {}
    for row in _LICENSED_FIRST:
        if row.architecture in names:
            # Weights without a licence have to be asked for by their tag: they are never the default.
            start = {} if row.licence else {"": bare}
            rows.setdefault(row.architecture, start)[row.tag] = _cfg_of(row, bare)
    return {name: _default_cfg({**rows[name], **init}) if name in rows else shared for name in names}


def check_tag(name: str, tag: str) -> None:
    """Checks that a registered name, of timm or ours, has a tag.

    Args:
        name: without its tag.
        tag: of its weights; '' for the default ones.

    Raises:
        GCPError: the name has no such tag; the message names some that it has, or near matches.
    """
    tags = [full.partition(".")[2] for full in get_arch_pretrained_cfgs(name)]
    if not tag or tag in tags:
        return
    what = f"{name} has no weights tagged '{tag}'"
    if (init := init_tag(tag)) in tags:
        raise GCPError(f"{what}; the plain backbone's weights of that tag are named {name}.{init}.")
    if is_init(tag) and plain_tag(tag) in filter(None, tags):
        raise GCPError(f"{what}; these are named {name}.{plain_tag(tag)}, since the name has no covariance pool.")
    raise GCPError(f"{what}; {_tags_there(tags)}{nearest(tag, tags)}")


def _tags_there(tags: Iterable[str]) -> str:
    named = sorted(tag for tag in tags if tag == INIT or (tag and not is_init(tag)))
    init = sum(is_init(tag) for tag in tags) - 1
    more = f" (and init-<tag> for {init} tags of the plain backbone)" if init > 1 else ""
    return f"it has {some_of(named, 8)}{more}" if named else "it has none; leave the tag out"


def plain_cfg_of(backbone: str, cfg: PretrainedCfg, overlay: Mapping[str, Any]) -> PretrainedCfg | None:
    """The cfg by which timm loads the weights of an ``init`` tag into the plain backbone; None for other weights.

    Args:
        backbone: a timm model's name.
        cfg: what ``timm.models.resolve_pretrained_cfg`` returned for ``<backbone>_<method>``.
        overlay: the ``pretrained_cfg_overlay`` that is in it.
    """
    # A saved model keeps its cfg's tag, but its weights are its own.
    if not is_init(cfg.tag) or cfg.source is not None:
        return None
    plain = _plain_cfgs(backbone)
    own = plain.get(plain_tag(cfg.tag or "") or next(iter(plain), ""))
    # The registered cfg has the number of classes of the fresh head. timm needs that of the weights, to know whether
    # their classifier fits.
    return cfg if own is None or "num_classes" in overlay else replace(cfg, num_classes=own.num_classes)


def checkpoint_of(name: str, cfg: PretrainedCfg) -> Checkpoint | None:
    """The row of the manifest that a cfg was made from; None if the cfg names other weights.

    Args:
        name: ``<backbone>_<method>``.
        cfg: what ``timm.models.resolve_pretrained_cfg`` returned for it.
    """
    row = _CHECKPOINTS.get(f"{name}.{cfg.tag}")
    if row is None or cfg.source is not None or cfg.state_dict:
        return None
    return row if (cfg.file, cfg.hf_hub_id, cfg.url) == _places(row) else None


def names_with_weights(backbone: str, licensed: bool = True) -> list[str]:
    """The names with tag, ``<backbone>_<method>.<tag>``, of a backbone's checkpoints in the manifest.

    Args:
        backbone: a timm model's name.
        licensed: those with a licence, or those without.
    """
    return [
        name
        for name, row in _CHECKPOINTS.items()
        if split_name(name).backbone == backbone and bool(row.licence) == licensed
    ]


def _plain_cfgs(backbone: str) -> dict[str, PretrainedCfg]:
    """The cfgs of a timm model by tag, the default one first."""
    return {name.partition(".")[2]: cfg for name, cfg in get_arch_pretrained_cfgs(backbone).items()}


def _init_cfgs(backbone: str, plain: Mapping[str, PretrainedCfg]) -> dict[str, PretrainedCfg]:
    """The cfgs of the plain backbone's weights by ``init`` tag, the default one first."""
    found = {
        init_tag(tag): _with_hub_id(backbone, _without_provenance(backbone, cfg))
        for tag, cfg in plain.items()
        if cfg.has_weights
    }
    default = init_tag(next(iter(plain), ""))
    return {INIT: found[default], **found} if default in found else found


def _default_cfg(cfgs: dict[str, PretrainedCfg]) -> DefaultCfg:
    shared: Any = {tag: SharedCfg(cfg) for tag, cfg in cfgs.items()}
    return DefaultCfg(tags=deque(cfgs), cfgs=shared)


def _without_provenance(backbone: str, cfg: PretrainedCfg) -> PretrainedCfg:
    """The plain backbone's cfg without what belongs to its weights: test-time settings, and where they come from."""
    sixteenth = tuple(-(-side // 16) for side in cfg.input_size[1:])
    return replace(
        cfg,
        source=None,
        num_classes=1000,
        pool_size=sixteenth if keeps_stride_one(backbone) else cfg.pool_size,
        test_input_size=None,
        test_pool_size=None,
        test_crop_pct=None,
        description=None,
        notes=None,
    )


def _without_weights(cfg: PretrainedCfg) -> PretrainedCfg:
    return replace(
        cfg,
        url=None,
        file=None,
        state_dict=None,
        hf_hub_id=None,
        hf_hub_filename=None,
        custom_load=False,
        label_offset=None,
        license=None,
        origin_url=None,
        paper_name=None,
        paper_ids=None,
    )


def _with_hub_id(backbone: str, cfg: PretrainedCfg) -> PretrainedCfg:
    # timm completes a Hub id that ends in '/' with the registering model's name: here that has to be the backbone's.
    if cfg.hf_hub_id and cfg.hf_hub_id.endswith("/"):
        tag = f".{cfg.tag}" if cfg.tag else ""
        cfg = replace(cfg, hf_hub_id=f"{cfg.hf_hub_id}{backbone}{tag}")
    return cfg


def _cfg_of(row: Checkpoint, bare: PretrainedCfg) -> PretrainedCfg:
    # timm lists the names whose cfg has a source; the file itself comes from ``weights.resolve``.
    file, hub, url = _places(row)
    return replace(
        bare,
        file=file,
        hf_hub_id=hub,
        url=url,
        num_classes=row.num_classes,
        input_size=row.input_size,
        interpolation=row.interpolation,
        crop_pct=row.crop_pct,
        mean=row.mean,
        std=row.std,
        label_names=row.label_names,
        license=row.licence,
        origin_url=row.origin_url,
        description=row.description,
    )


def _places(row: Checkpoint) -> tuple[str | None, str | None, str | None]:
    """``file``, ``hf_hub_id`` and ``url`` of a row's cfg."""
    return row.package, row.hub, row.upstream.source if row.upstream else None
