"""Data sets: image folders, list files, synthetic textures, and everything that timm reads."""

from .factory import create_dataset
from .image_list import ReaderImageList
from .strict import StrictImageDataset, UnreadableImageError, check_images
from .textures import TextureDataset, write_textures

__all__ = [
    "ReaderImageList",
    "StrictImageDataset",
    "TextureDataset",
    "UnreadableImageError",
    "check_images",
    "create_dataset",
    "write_textures",
]
