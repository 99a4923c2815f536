"""timm's mixing of images in loader processes, which can be switched off while they run."""

from multiprocessing.sharedctypes import RawValue
from typing import Any

from timm.data import FastCollateMixup

__all__ = ["WorkerMixup"]


class WorkerMixup(FastCollateMixup):
    """timm's mixing collation, which can be switched off also in processes that run already."""

    def __init__(self, **settings: Any) -> None:
        self._enabled = RawValue("b", 1)
        super().__init__(**settings)

    @property
    def mixup_enabled(self) -> bool:
        """Whether images are mixed, in all processes."""
        return bool(self._enabled.value)

    @mixup_enabled.setter
    def mixup_enabled(self, value: bool) -> None:
        self._enabled.value = value
