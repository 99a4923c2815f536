"""Data sets: image folders, list files, the fine-grained benchmarks, synthetic textures, and all that timm reads."""

from .factory import create_dataset
from .fine_grained import FINE_GRAINED, FineGrained, FineGrainedReader
from .image_list import ReaderImageList
from .strict import StrictImageDataset, UnreadableImageError, check_images
from .textures import TextureDataset, write_textures

__all__ = [
    "FINE_GRAINED",
    "FineGrained",
    "FineGrainedReader",
    "ReaderImageList",
    "StrictImageDataset",
    "TextureDataset",
    "UnreadableImageError",
    "check_images",
    "create_dataset",
    "write_textures",
]
