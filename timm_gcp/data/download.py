"""Downloads data sets: by torchvision, or from an archive that is extracted completely or not at all."""

import os
import shutil
import socket
import tarfile
from pathlib import Path
from typing import Any

from torchvision.datasets.utils import check_integrity

from ..errors import GCPError
from ..text import one_line
from ..weights.download import TIMEOUT, download


def fetch_with_torchvision(kind: Any, folder: Path, what: str, remedy: str) -> None:
    """Downloads a data set by torchvision.

    Args:
        kind: torchvision's class of the data set.
        folder: the folder to make, under the name that torchvision gives it.
        what: what messages call the data set.
        remedy: what to do if it cannot be had: the end of a sentence, without its full stop.

    Raises:
        GCPError: the download fails, or the archive is damaged.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none and would wait forever
    try:
        kind(str(folder.parent), download=True)
    except Exception as error:  # errors of the network, of the archive and of torchvision
        raise GCPError(
            f"{what} cannot be downloaded ({one_line(error)}): remove what has arrived in {str(folder.parent)!r} and "
            f"try again, or {remedy}."
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def fetch_archive(url: str, md5: str, folder: Path, what: str, remedy: str) -> None:
    """Downloads a .tgz archive, resuming a partial download, and extracts the folder in it beside the archive.

    Args:
        url: its address.
        md5: its MD5 in hexadecimal.
        folder: the folder to make, under the name that it has in the archive.
        what: what messages call the data set.
        remedy: what to do if it cannot be had: the end of a sentence, without its full stop.

    Raises:
        GCPError: the download fails (see ``weights.download``), the MD5 differs, or the archive cannot be extracted.
    """
    archive = folder.parent / url.rpartition("/")[2]
    if folder.exists():
        raise GCPError(f"{str(folder)!r} is there but incomplete: remove the folder and try again.")
    download(url, archive, what=what, remedy=remedy)
    if not check_integrity(archive, md5):
        archive.unlink()
        raise GCPError(f"{what} arrived damaged (the MD5 of {archive.name} is not {md5}): try again, or {remedy}.")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(archive) as tar:
            _extract(tar, part)
        os.replace(part / folder.name, folder)
    except (OSError, tarfile.TarError) as error:
        raise GCPError(
            f"{str(archive)!r} cannot be extracted ({one_line(error)}): make room on the disk and try again, "
            f"or {remedy}."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Extracts an archive; a member that leads out of the folder is an error.

    Raises:
        TarError: there is such a member, or the archive is damaged.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    # Python before 3.10.12 and 3.11.4 has no filters.
    for member in archive.getmembers():
        inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not (inside and (member.isfile() or member.isdir())):
            raise tarfile.TarError(f"{member.name} is no file or folder inside the archive")
    archive.extractall(folder)
