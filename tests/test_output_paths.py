"""Output paths that are links, pipes or devices. No test writes to a device of the system's own."""

import json
import os
import stat

import pytest
from PIL import Image

from timm_gcp import plots
from timm_gcp.__main__ import main
from timm_gcp.errors import GCPError
from timm_gcp.files import (
    check_output,
    check_output_folder,
    is_stream,
    put_in_place,
    save_atomically,
    save_text,
)
from timm_gcp.models.folder import save_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="devices, pipes and links of POSIX")


@pytest.fixture
def fifo(tmp_path):
    """A named pipe, and a function that waits for what its reader has read.

    The reader's end is opened here and kept open, so that the teardown does not depend on when a thread runs.
    """
    path = tmp_path / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read():
        os.set_blocking(end, True)
        with os.fdopen(os.dup(end), encoding="utf-8") as file:
            return file.read()

    yield path, read
    os.close(end)


@pytest.fixture
def null(tmp_path):
    """A scratch node like /dev/null."""
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    return path


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_text_goes_straight_to_a_pipe(fifo):
    path, read = fifo
    save_text(path, "κ\n")
    assert read() == "κ\n"
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_text_goes_straight_to_a_device(null):
    assert is_stream(null)
    check_output(null)
    save_text(null, "nothing")
    assert stat.S_ISCHR(null.stat().st_mode)


def test_binary_formats_refuse_devices_and_pipes(null, fifo, picture):
    for path in (null, fifo[0]):
        for write in (
            lambda path=path: save_atomically(path, lambda file: file.write(b"x")),
            lambda path=path: check_output(path, "--out", binary=True),
            lambda path=path: plots.save_figure(plots.new_figure(), path),
            lambda path=path: put_in_place(picture, path),
        ):
            with pytest.raises(GCPError, match="device or a pipe"):
                write()
        with pytest.raises(GCPError, match="device or a pipe"):
            check_output_folder(path)
        assert not path.is_file()
    assert picture.is_file()


@pytest.mark.parametrize("dangling", [False, True])
def test_links_are_followed(tmp_path, dangling):
    (tmp_path / "far").mkdir()
    target, link, second = tmp_path / "far" / "t.csv", tmp_path / "a.csv", tmp_path / "b.csv"
    if not dangling:
        target.write_text("old")
    link.symlink_to("far/t.csv")
    second.symlink_to(link)
    save_text(second, "new")
    assert target.read_text() == "new"
    assert link.is_symlink()
    assert second.is_symlink()
    (tmp_path / "whole").write_text("other")
    put_in_place(tmp_path / "whole", link)
    assert target.read_text() == "other"
    assert link.is_symlink()
    assert sorted(file.name for file in (tmp_path / "far").iterdir()) == ["t.csv"]


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for act in (lambda: check_output(tmp_path / "a", "--csv"), lambda: save_text(tmp_path / "a", "x")):
        with pytest.raises(GCPError, match="cannot be used"):
            act()


def test_the_cache_of_the_hub_is_refused(tmp_path):
    blobs = tmp_path / "hub" / "models--timm--resnet18" / "blobs"
    snapshot = blobs.parent / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "abc").write_text("downloaded")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    (tmp_path / "mine.json").symlink_to(snapshot / "config.json")
    (tmp_path / "folder").symlink_to(snapshot)
    for place in (tmp_path / "mine.json", snapshot / "config.json", snapshot / "new.csv"):
        for act in (check_output, lambda place: save_text(place, "x")):
            with pytest.raises(GCPError, match="cache of the Hugging Face Hub"):
                act(place)
    with pytest.raises(GCPError, match="cache of the Hugging Face Hub"):
        check_output_folder(tmp_path / "folder" / "run")
    assert (blobs / "abc").read_text() == "downloaded"


def test_dev_stdout_appends_to_what_was_printed(tmp_path, capfd):
    print("first")
    save_text("/dev/stdout", "second\n")
    save_text("/dev/fd/1", "third\n")
    assert capfd.readouterr().out == "first\nsecond\nthird\n"


def test_places_under_files_and_long_names(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(GCPError, match="is a file, not a folder"):
        check_output(tmp_path / "file" / "r.csv", "--csv")
    with pytest.raises(GCPError, match="is a file, not a folder"):
        check_output_folder(tmp_path / "file" / "runs", "--output")
    with pytest.raises(GCPError, match="is a file; name a folder"):
        check_output_folder(tmp_path / "file", "--output")
    with pytest.raises(GCPError, match="too long"):
        check_output(tmp_path / ("n" * 300), "--csv")
    name = "n" * 255  # the longest that a file can have; its temporary file has to fit as well
    save_text(tmp_path / name, "x")
    assert (tmp_path / name).read_text() == "x"


def test_predict_into_a_pipe_a_link_and_a_new_folder(fifo, picture, tmp_path):
    path, read = fifo
    assert main(["predict", str(picture), "--csv", str(path)]) == 0
    assert read().startswith("image,class_1,probability_1")
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    assert main(["predict", str(picture), "--csv", str(tmp_path / "link.csv")]) == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_text().startswith("image,")
    assert main(["predict", str(picture), "--csv", str(tmp_path / "new" / "deep" / "p.csv")]) == 0
    assert (tmp_path / "new" / "deep" / "p.csv").is_file()


@pytest.mark.parametrize("argv", [["train", "--output"], ["demo", "--output"], ["export", "test_resnet", "--out"]])
def test_commands_refuse_a_device_at_the_door(argv, null, capsys):
    assert main([*argv, str(null)]) == 2
    assert "device or a pipe" in capsys.readouterr().err
    assert stat.S_ISCHR(null.stat().st_mode)


def test_validate_into_a_device_and_a_pipe(null, fifo, images, capsys):
    common = ["validate", "--data-dir", str(images), "-m", "test_resnet", "--num-classes", "3", "-j", "0"]
    common += ["--checkpoint", str(images.parent / "w.safetensors")]
    _weights(images.parent / "w.safetensors")
    assert main([*common, "--results-file", str(null)]) == 0
    assert stat.S_ISCHR(null.stat().st_mode)
    path, read = fifo
    assert main([*common, "--results-file", str(path)]) == 0
    assert len(read().splitlines()) == 2
    json_file = images.parent / "far" / "r.json"
    assert main([*common, "--results-file", str(json_file)]) == 0
    assert json.loads(json_file.read_text())["count"] == 36


def _weights(path):
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), path)


def test_a_linked_model_folder_keeps_its_link(tmp_path):
    import timm

    model = timm.create_model("test_resnet", num_classes=3)
    (tmp_path / "far").mkdir()
    (tmp_path / "model").symlink_to("far")
    assert save_folder(model, tmp_path / "model") == tmp_path / "model"
    assert (tmp_path / "model").is_symlink()
    assert (tmp_path / "far" / "config.json").is_file()
