"""JPEG files with several labels each, and the CSV files that list them."""

import numpy as np
from PIL import Image

CLASSES = ("red", "green", "striped")


def write_multi_label(folder, numbers=(("train", 24), ("val", 12), ("test", 12))):
    """Images whose channels are bright or dark, striped or not, each independently of the others.

    Returns:
        The folder; every eighth image has no label.
    """
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    for split, number in numbers:
        lines = ["image,labels"]
        for index in range(number):
            present = [bool(index >> bit & 1) for bit in range(len(CLASSES))]
            pixels = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
            for channel in range(2):
                pixels[..., channel] += np.uint8(150 * present[channel])
            if present[2]:
                pixels[::4] = 255
            name = f"photos/{split}-{index}.jpg"
            Image.fromarray(pixels).save(folder / name, quality=95)
            lines.append(f"{name},{';'.join(name for name, here in zip(CLASSES, present, strict=True) if here)}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder
