"""The pretrained cfgs of the registered names, from the manifest of checkpoints and timm's cfg of the backbone."""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from timm.models import PretrainedCfg, get_pretrained_cfg
from timm.models._pretrained import DefaultCfg

from ..weights.manifest import Checkpoint, read_manifest
from .names import split_name
from .stride import keeps_stride_one

__all__ = ["checkpoint_of", "default_cfgs_of", "names_with_weights"]

_CHECKPOINTS = read_manifest()


def default_cfgs_of(backbone: str, methods: Iterable[str]) -> dict[str, DefaultCfg]:
    """timm's ``default_cfgs`` of ``<backbone>_<method>`` for some methods.

    The tags of a name are those of the manifest, or '' where there are none, then ``init`` where timm has weights of
    the plain backbone.

    Args:
        backbone: a timm model's name.
        methods: names of ``METHODS``.
    """
    plain = get_pretrained_cfg(backbone) or PretrainedCfg()
    shape = _without_provenance(backbone, plain)
    bare = _without_weights(shape)
    init = _with_hub_id(backbone, shape) if plain.has_weights else None
    found = {}
    for method in methods:
        name = f"{backbone}_{method}"
        cfgs = {row.tag: _cfg_of(row, bare) for row in _CHECKPOINTS.values() if row.architecture == name} or {"": bare}
        if init is not None:
            cfgs["init"] = init
        found[name] = DefaultCfg(tags=deque(cfgs), cfgs=cfgs)
    return found


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


def names_with_weights(backbone: str) -> list[str]:
    """The names with tag, ``<backbone>_<method>.<tag>``, of a backbone's checkpoints in the manifest."""
    return [name for name in _CHECKPOINTS if split_name(name).backbone == backbone]


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
