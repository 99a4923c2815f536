"""Converts decoded images to the mode that a model takes, such as RGB, without losing range or transparency.

``Image.convert`` clips 16-bit and floating-point values at 255 and drops transparency. The rules here:

===================  ===================================================================================
mode                 rule
===================  ===================================================================================
I;16 (any order)     0 to 65535 becomes 0 to 255
I                    as I;16 in PNG and PPM files; other files: values from 0 to 255 stay, others are refused
F                    0 to 1 becomes 0 to 255; values from 0 to 255 stay; others are refused
LA, PA, RGBA, ...    transparent pixels are composited on white, also those of palettes and of colour keys
others               ``Image.convert``
===================  ===================================================================================
"""

import numpy as np
from PIL import Image

__all__ = ["convert_image"]

_DEEP = ("I", "F")  # besides I;16 in either byte order
_SIXTEEN_BIT = ("PNG", "PPM")  # formats whose mode I is 16 bits wide


def convert_image(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image by the table above.

    Args:
        image: a decoded image of any mode.
        mode: of PIL; for deep modes and those with transparency this is ``Image.convert``.

    Returns:
        The image in that mode.

    Raises:
        ValueError: the values have no known range, or PIL has no such conversion.
    """
    if _is_deep(mode) or mode.endswith("A"):
        return image.convert(mode)
    if _is_deep(image.mode):
        image = _to_8_bits(image)
    elif image.mode.endswith("A") or "transparency" in image.info:
        image = _over_white(image)
    return image.convert(mode)


def _is_deep(mode: str) -> bool:
    return mode in _DEEP or mode.startswith("I;16")


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BIT):
        values = values / 257  # 65535 / 255
    elif not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise ValueError(
            f"its values reach from {values.min():g} to {values.max():g}, and mode {image.mode} has no range of its "
            "own: scale them to 0 to 255"
        )
    elif image.mode == "F" and values.max() <= 1:
        values = values * 255
    return Image.fromarray(values.round().astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    layers = image.convert("RGBA")
    if layers.getchannel("A").getextrema()[0] == 255:  # nothing is transparent: keep the colours unchanged
        return layers.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
