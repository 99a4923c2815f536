"""Which files count as images, their orientation, and conversion of every mode without lost values."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from timm_gcp.commands.predict import main as predict
from timm_gcp.data import UnreadableImageError, create_dataset, find_images, image_extensions, open_image
from timm_gcp.data.image_mode import convert_image
from timm_gcp.errors import GCPError

ORIENTATION = 0x0112
RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)


def upright() -> Image.Image:
    """Wider than high, red at the left end, blue at the right."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16, 0], pixels[:, 16:, 2] = 255, 255
    pixels[:4, :, 1] = 255  # and a green edge on top, so that a mirror image differs
    return Image.fromarray(pixels)


def save_turned(path: Path, orientation: int) -> Path:
    """Saves ``upright`` as a camera does that is held another way: pixels turned, the tag tells how."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = upright() if orientation == 1 else upright().transpose(back[orientation])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_photographs_stand_upright(tmp_path, orientation, ending):
    file = save_turned(tmp_path / "train" / "a" / f"x.{ending}", orientation)
    expected = np.asarray(upright(), float)
    first, _ = create_dataset("", tmp_path, "train")[0]
    for image in (first, open_image(file, "RGB")):
        assert image.size == (32, 16)
        assert np.abs(np.asarray(image, float) - expected).mean() < 12  # chroma subsampling of JPEG
    first, _ = create_dataset("", tmp_path, "train", orient=False)[0]
    for left in (first, open_image(file, "RGB", orient=False)):
        assert left.size == Image.open(file).size
        assert np.array_equal(np.asarray(left), np.asarray(Image.open(file).convert("RGB")))


def test_damaged_exif_leaves_the_pixels(tmp_path, caplog):
    file = tmp_path / "a.jpg"
    upright().save(file, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12")
    assert open_image(file, "RGB").size == (32, 16)


def test_predict_turns_photographs(tmp_path, capsys):
    folder = tmp_path / "upright"
    folder.mkdir()
    plain = save_turned(folder / "x.png", 1)
    turned = save_turned(tmp_path / "turned" / "x.png", 6)

    def row(*argv):
        assert predict([*map(str, argv), "--csv", "-", "--top", "2"]) == 0
        return capsys.readouterr().out.splitlines()[1].split(",", 1)[1]

    assert row(plain) == row(turned)
    assert row(plain) != row(turned, "--ignore-exif-orientation")


@pytest.mark.slow
def test_onnx_file_tells_the_orientation(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from timm_gcp.commands.export import main as export

    turned = save_turned(tmp_path / "x.jpg", 6)
    for options, said in (([], "applied"), (["--ignore-exif-orientation"], "ignored")):
        out = tmp_path / f"{said}.onnx"
        argv = ["test_resnet_svdpade.grocery", "--out", str(out), "--images", str(turned), "--img-size", "64"]
        assert export([*argv, *options]) == 0
        entries = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
        assert entries["exif_orientation"] == said
        assert json.loads(entries["input_size"]) == [3, 64, 64]


ENDINGS = ["jpg", "jpeg", "JPG", "jfif", "png", "webp", "bmp", "gif", "tif", "TIFF", "ppm", "pgm", "tga", "ico", "mpo"]
if features.check("avif"):
    ENDINGS.append("avif")


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_pillow_opens_counts(tmp_path, ending):
    file = tmp_path / "train" / "a" / f"x.{ending}"
    file.parent.mkdir(parents=True)
    upright().resize((32, 32)).convert("L" if ending == "pgm" else "RGB").save(file)
    assert len(create_dataset("", tmp_path, "train")) == 1
    assert find_images(tmp_path) == [file]
    assert open_image(file, "RGB").size == (32, 32)


def test_extensions_follow_the_plugins(monkeypatch):
    image_extensions.cache_clear()
    monkeypatch.setattr(Image, "EXTENSION", {**Image.EXTENSION, ".heic": "HEIF"})
    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN, "HEIF": None})
    try:
        assert ".heic" in image_extensions()
    finally:
        image_extensions.cache_clear()
    assert not image_extensions() & {".pdf", ".eps", ".mpg", ".h5", ".txt", ".csv", ".mp4"}


def test_what_is_not_read_is_counted_and_named(tmp_path, caplog, monkeypatch):
    for name in ("a.jpg", "b.webp", "deep/c.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        upright().save(tmp_path / name)
    for name in ("d.heic", "e.heic", "notes.txt", "._a.jpg", "raw"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr("timm_gcp.data.image_files.image_extensions", lambda: frozenset({".jpg", ".webp", ".bmp"}))
    with caplog.at_level(logging.WARNING):
        assert [file.name for file in find_images(tmp_path)] == ["a.jpg", "b.webp", "c.bmp"]
    assert "5 files are not read as images: 2 .heic (pip install pillow-heif)" in caplog.text
    assert "1 .txt" in caplog.text
    assert "1 hidden" in caplog.text
    assert "1 without an extension" in caplog.text
    for file in tmp_path.rglob("*"):
        if file.suffix in (".jpg", ".webp", ".bmp"):
            file.unlink()
    with pytest.raises(GCPError, match=r"no images in it \(2 .heic"):
        find_images(tmp_path)


def deep(kind: str) -> Image.Image:
    """The ramp 0 to 255 in another mode's range."""
    if kind.startswith("I;16"):
        order = ">u2" if kind == "I;16B" else "<u2"
        return Image.frombytes(kind, RAMP.shape, (RAMP.astype(np.uint16) * 257).astype(order).tobytes())
    if kind == "F":
        return Image.fromarray((RAMP / 255).astype(np.float32))
    if kind == "F 0 to 255":
        return Image.fromarray(RAMP.astype(np.float32))
    if kind == "I":
        return Image.fromarray(RAMP.astype(np.int32))
    return Image.fromarray(RAMP).convert(kind)


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "F", "F 0 to 255", "I", "L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_values_survive_the_conversion(kind, mode):
    result = np.asarray(convert_image(deep(kind), mode))
    assert np.array_equal(result if mode == "L" else result[..., 1], RAMP)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bit_files(tmp_path, ending):
    file = tmp_path / "train" / "a" / f"x.{ending}"
    file.parent.mkdir(parents=True)
    deep("I;16").save(file)
    image, _ = create_dataset("", tmp_path, "train")[0]
    assert np.array_equal(np.asarray(image)[..., 0], RAMP)


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 300.0], [0.0, float("nan")]])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_without_a_range_are_refused(tmp_path, values, kind):
    if kind is np.int32 and np.isnan(values).any():
        pytest.skip("no such integer")
    file = tmp_path / "x.tif"
    Image.fromarray(np.array([values], dtype=kind)).save(file)
    with pytest.raises(UnreadableImageError, match="has no range of its own: scale them"):
        open_image(file, "RGB")


def transparent(kind: str, path: Path) -> Path:
    """Black under full transparency at the left, opaque red (or grey) at the right."""
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (4, 0, 8, 4))
    if kind == "palette":
        indexed = Image.new("P", (8, 4), 0)
        indexed.putpalette([0, 0, 0, 200, 0, 0])
        indexed.paste(1, (4, 0, 8, 4))
        indexed.save(path, transparency=0)
    elif kind == "palette of bytes":
        indexed = Image.new("P", (8, 4), 0)
        indexed.putpalette([0, 0, 0, 200, 0, 0])
        indexed.paste(1, (4, 0, 8, 4))
        indexed.save(path, transparency=bytes([0, 255]))
    elif kind == "colour key":
        image.convert("RGB").save(path, transparency=(0, 0, 0))
    else:
        image.convert(kind).save(path)
    return path


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "palette of bytes", "colour key"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.filterwarnings("error")
def test_transparency_shows_white(tmp_path, kind, mode):
    image = open_image(transparent(kind, tmp_path / "x.png"), mode)
    assert image.mode == mode
    pixels = np.asarray(image).reshape(4, 8, -1)
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:, 0] == np.asarray(Image.new("RGB", (1, 1), (200, 0, 0)).convert(mode)).flat[0]).all() or (
        kind == "LA" and (pixels[:, 4:] == 60).all()
    )


def test_other_modes_are_pillow_s():
    cmyk = upright().convert("CMYK")
    assert np.array_equal(np.asarray(convert_image(cmyk, "RGB")), np.asarray(cmyk.convert("RGB")))
    assert convert_image(deep("I;16"), "I").mode == "I"
    assert convert_image(deep("RGBA"), "RGBA").mode == "RGBA"


def test_linked_folders_are_read_and_hidden_ones_are_not(tmp_path, caplog):
    folder, other = tmp_path / "photographs", tmp_path / "elsewhere"
    for file in (folder / "a.jpg", folder / ".thumbs" / "b.jpg", other / "deep" / "c.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        upright().save(file)
    (folder / "more").symlink_to(other)
    (other / "deep" / "back").symlink_to(folder)
    (folder / "back").symlink_to(folder)
    with caplog.at_level(logging.WARNING):
        assert [str(file.relative_to(folder)) for file in find_images(folder)] == ["a.jpg", "more/deep/c.jpg"]
    assert "1 file is not read as images: 1 hidden" in caplog.text
