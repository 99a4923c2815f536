"""Data sets: image folders, image lists, fine-grained benchmarks, synthetic textures, and those that timm reads."""

from .factory import create_dataset
from .fine_grained import FINE_GRAINED, FineGrained, FineGrainedReader
from .folder_scan import CLASS_FROM, find_images
from .holdout import check_apart, divide, split_to_divide, split_to_evaluate
from .image_check import check_images
from .image_dataset import StrictImageDataset
from .image_files import UnreadableImageError, image_extensions, open_image
from .image_list import ReaderImageList
from .multi_label import MultiLabelReader
from .textures import TextureDataset, write_textures

__all__ = [
    "CLASS_FROM",
    "FINE_GRAINED",
    "FineGrained",
    "FineGrainedReader",
    "MultiLabelReader",
    "ReaderImageList",
    "StrictImageDataset",
    "TextureDataset",
    "UnreadableImageError",
    "check_apart",
    "check_images",
    "create_dataset",
    "divide",
    "find_images",
    "image_extensions",
    "open_image",
    "split_to_divide",
    "split_to_evaluate",
    "write_textures",
]
