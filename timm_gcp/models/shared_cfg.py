"""A pretrained cfg that the names of all methods share, until one of them is asked for."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from timm.models import PretrainedCfg

__all__ = ["SharedCfg"]


@dataclass
class SharedCfg:
    """A cfg of timm for one more name, without a copy of its entries.

    timm makes a cfg for each name and tag that it registers, by ``dataclasses.replace``, whose time grows with the
    number of fields. Importing the package registers more than ten thousand: with three fields instead of all of a
    ``PretrainedCfg`` this takes a tenth of the time. What ``timm.models.get_pretrained_cfg`` returns is a copy, and the
    copy is a whole ``PretrainedCfg``.

    Attributes:
        shared: the entries, but for the following two.
        architecture: the registered name.
        tag: the tag of its weights.
    """

    shared: PretrainedCfg
    architecture: str | None = None
    tag: str | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look for them in objects that have no attributes yet
            raise AttributeError(name)
        return getattr(self.shared, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> PretrainedCfg:
        return replace(deepcopy(self.shared, memo), architecture=self.architecture, tag=self.tag)

    def to_dict(self, remove_source: bool = False, remove_null: bool = True) -> dict[str, Any]:
        """The entries, as ``PretrainedCfg.to_dict`` gives them."""
        return deepcopy(self).to_dict(remove_source, remove_null)
