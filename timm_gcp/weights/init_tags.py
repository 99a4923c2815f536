"""The tags of the plain backbones' weights: ``init`` for timm's default tag, ``init-<tag>`` for each tag of timm."""

__all__ = ["INIT", "init_tag", "is_init", "plain_tag"]

INIT = "init"
"""The tag of the weights that timm takes by default. A hyphen and one of timm's tags name the others."""


def init_tag(tag: str) -> str:
    """The tag under which a registered name has the weights of a tag of the plain backbone.

    Args:
        tag: of timm; '' for timm's default one.
    """
    return f"{INIT}-{tag}" if tag else INIT


def is_init(tag: str | None) -> bool:
    """Whether a tag means weights of the plain backbone, under a fresh head. No other tag may be named like that."""
    return tag is not None and (tag == INIT or tag.startswith(f"{INIT}-"))


def plain_tag(tag: str) -> str:
    """The tag of timm that an ``init`` tag stands for; '' for the default one."""
    return tag.removeprefix(INIT).removeprefix("-")
