"""The perceptual hash: what it tolerates, and the search for near hashes against a comparison of all pairs."""

import io

import numpy as np
from PIL import Image

from timm_gcp.diagnosis.perceptual_hash import SIDE, near_pairs, perceptual_hash


def hash_of(image):
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return perceptual_hash(np.asarray(small, dtype=np.float64))


def picture(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)


def bits(a, b):
    return (a ^ b).bit_count()


def test_compression_size_and_brightness_change_few_bits():
    for seed in range(10):
        image = picture(seed)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=40)
        changed = [Image.open(buffer), image.resize((160, 120)), image.point(lambda value: 0.8 * value + 20)]
        assert max(bits(hash_of(image), hash_of(each)) for each in changed) <= 4
        assert min(bits(hash_of(image), hash_of(picture(other))) for other in range(100, 130)) > 10


def test_near_pairs_are_those_of_all_comparisons():
    rng = np.random.default_rng(0)
    hashes = [int.from_bytes(rng.bytes(8), "big") for _ in range(40)]
    for source in range(20):
        flipped = hashes[source]
        for bit in rng.choice(64, size=source % 8, replace=False).tolist():
            flipped ^= 1 << bit
        hashes.append(flipped)
    expected = [
        (i, j, bits(hashes[i], hashes[j]))
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if bits(hashes[i], hashes[j]) <= 4
    ]
    assert near_pairs(hashes, 4) == expected
    assert len(expected) >= 10
