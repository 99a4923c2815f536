"""Lists how timm's own scripts read an image folder differently from ``timm-gcp train``."""

import os
from collections import Counter
from typing import Any

from PIL import Image
from timm.data.readers import get_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder

from ..text import some_of, some_quoted
from .folder_scan import natural_order, scan_folder

__all__ = ["timm_differences"]

_ORIENTATION = 0x0112  # tag of EXIF
_LOOKED_AT = 64  # at most so many images are opened for their orientation


def timm_differences(dataset: Any) -> list[str]:
    """Lists what timm reads differently in an image folder, one sentence per difference.

    Args:
        dataset: of timm's ``create_dataset``; the list is empty for one that does not read image folders.
    """
    reader = getattr(dataset, "reader", None)
    if not isinstance(reader, ReaderImageFolder):
        return []
    root, read = str(reader.root), {path for path, _ in reader.samples}
    scan = scan_folder(root)
    said = []
    known = get_img_extensions(as_set=True)
    missed = Counter(end for path, _ in scan.images if (end := os.path.splitext(path)[1].lower()) not in known)
    if missed:
        kinds = some_of([f"{count} {end}" for end, count in missed.most_common()])
        said.append(f"timm does not read these images in {root}: {kinds}; timm-gcp train does.")
    top, leaf = (sorted(scan.classes(kind), key=natural_order) for kind in ("top", "leaf"))
    if top != leaf:
        said.append(
            f"timm takes the innermost folders of {root} as classes ({some_quoted(leaf, 3)}); timm-gcp train takes the "
            f"first level ({some_quoted(top, 3)}) unless --class-from leaf is given."
        )
    looked_at = sorted(read)[:: max(1, len(read) // _LOOKED_AT)]
    turned = sum(_is_turned(path) for path in looked_at)
    if turned:
        said.append(
            f"timm does not turn images by their EXIF orientation, and {turned} of {len(looked_at)} that were "
            f"looked at in {root} need it; timm-gcp turns them unless --ignore-exif-orientation is given."
        )
    return said


def _is_turned(path: str) -> bool:
    try:
        with Image.open(path) as image:
            return image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # timm's script reports an unreadable image itself
        return False
