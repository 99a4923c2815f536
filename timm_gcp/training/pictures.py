"""Image files that a user names, one by one or as folders of them."""

from pathlib import Path

from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions

from ..data import UnreadableImageError
from ..errors import GCPError
from ..text import first_line

__all__ = ["find_pictures", "open_picture"]


def find_pictures(path: Path) -> list[Path]:
    """The images in a folder and the folders in it, sorted; anything that is no folder is taken as an image.

    Args:
        path: a file or a folder.

    Raises:
        GCPError: a folder without images.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in get_img_extensions())
    if not found:
        raise GCPError(f"{path} has no images in it; name another folder.")
    return found


def open_picture(file: Path, mode: str) -> Image.Image:
    """A decoded image.

    Args:
        file: the image.
        mode: of PIL, such as RGB.

    Raises:
        UnreadableImageError: there is no such file, or it cannot be decoded.
    """
    try:
        with Image.open(file) as image:
            return image.convert(mode)
    except Exception as error:  # decoders raise OSError, but also SyntaxError, ValueError, struct.error, ...
        raise UnreadableImageError(f"{file} cannot be read ({first_line(error)}); name others.") from error
