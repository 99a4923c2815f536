"""A folder of images with everything that a diagnosis looks for."""

import shutil

import numpy as np
from PIL import Image

from tests.support.tools import write_images


def write_troubled(folder):
    """Image folders of three classes with damaged, suspicious and repeated files."""
    write_images(folder, per_class=9)
    train, validation = folder / "train", folder / "validation"
    whole = (train / "coarse" / "0.jpg").read_bytes()
    (train / "coarse" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "coarse" / "text.jpg").write_text("no image")
    Image.new("RGB", (48, 40), "white").save(train / "coarse" / "blank.jpg")
    Image.open(train / "coarse" / "1.jpg").save(train / "coarse" / "really.png", format="JPEG", quality=30)
    shutil.copy(train / "coarse" / "2.jpg", validation / "coarse" / "leak.jpg")
    shutil.copy(train / "coarse" / "3.jpg", train / "fine" / "copy <i>.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(train / "fine" / "4.jpg").rotate(90, expand=True).save(train / "fine" / "turned.jpg", exif=turned)
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((60, 50))
    noise.convert("CMYK").save(train / "fine" / "cmyk.jpg")
    noise.transpose(Image.Transpose.ROTATE_180).convert("L").save(train / "fine" / "grey.jpg")
    noise.rotate(30).crop((0, 0, 10, 50)).save(train / "fine" / "narrow.png")
    (train / "fine" / "notes.txt").write_text("not an image")
    return folder
