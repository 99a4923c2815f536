"""The grid of the tokens of an image."""

from ..errors import GCPError

__all__ = ["grid_of"]


def grid_of(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns of the patches of an image, whose shape is that of the image.

    Args:
        tokens: number of patches, N.
        size: height and width of the image.

    Returns:
        h and w with h · w = N and h / w nearest to the ratio of the image.

    Raises:
        GCPError: the tokens are no such grid of square patches.
    """
    height, width = size
    rows = round((tokens * height / width) ** 0.5)
    if rows < 1 or tokens % rows or abs(rows * width - tokens // rows * height) > max(size):
        raise GCPError(
            f"The {tokens} tokens of an image of {height}x{width} pixels are no grid of square patches, so they have "
            "no places in the image; explain a model whose tokens are patches."
        )
    return rows, tokens // rows
