"""Finds the files of a data set: in the user's folders first, then by download."""

import gzip
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelman.extras import require
from steelman.files import refuse_bomb

_SECONDS = 5.0
"""Timeout of a server: without a network, the error should come at once."""


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded.

    name  of the local file
    md5   as its authors or torchvision publish it; checked after a download, not on the user's own files
    urls  tried in order
    also  other names of local files with its content, such as unpacked; searched first
    """

    name: str
    md5: str
    urls: tuple[str, ...]
    also: tuple[str, ...] = ()


def folders(folder: Path | None) -> list[Path]:
    """The folders in which data sets are searched, first to last: `folder`, STEELMAN_DATA, the user's cache."""
    require("a data folder", "pooch")
    import pooch

    named = [folder, os.environ.get("STEELMAN_DATA")]
    return list(dict.fromkeys([*(Path(each).expanduser() for each in named if each), Path(pooch.os_cache("steelman"))]))


def locate(wanted: Sequence[Remote], inside: Sequence[str], folder: Path | None) -> list[Path]:
    """A local path for each wanted file, all from one folder; downloaded if there is no such folder.

    inside  names of this data set's own folder in a data folder, ours first. A data folder that has such a name itself
            is searched too

    Raises:
        FileNotFoundError: neither here nor downloaded; names the files, their addresses, and where to put them.
    """
    bases = folders(folder)
    for base in bases:
        for sub in map(Path, inside):
            named = base.absolute().parts[-len(sub.parts) :] == sub.parts if sub.parts else False
            for home in (base / sub, base) if named else (base / sub,):
                names = [(*file.also, file.name) for file in wanted]
                paths = [[home / name for name in each if (home / name).exists()] for each in names]
                if all(paths):
                    return [first for first, *_ in paths]
    home = bases[0] / inside[0]
    return [_download(file, home, wanted, bases) for file in wanted]


def find(name: str, folder: Path | None) -> Path:
    """The user's own file or folder: an absolute path, or one in the working directory or in a data folder.

    Raises:
        FileNotFoundError: there is none; names the places that were searched.
    """
    places = [Path(name).expanduser(), *(base / name for base in folders(folder))]
    for path in places:
        if path.exists():
            return path
    raise FileNotFoundError(f"no {name}; looked for {', '.join(str(place.absolute()) for place in places)}")


def opened(file: Path) -> io.BufferedIOBase:
    """A file's content as a stream, unpacked if its name ends in .gz."""
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def exactly(stream: io.BufferedIOBase, count: int, stored: int) -> bytearray:
    """The rest of a stream, which has to be `count` bytes; no more are read.

    stored  size of the file on disk

    Raises:
        ValueError: there are fewer or more, or a file of that size cannot hold so many.
    """
    refuse_bomb(count, stored)
    content = bytearray()
    while piece := stream.read(min(count + 1 - len(content), _PIECE)):
        content += piece
    if len(content) != count:
        raise ValueError(
            f"{count:,} bytes should follow, and there are {'more' if len(content) > count else len(content)}"
        )
    return content


_PIECE = 2**24


class Bounded:
    """A stream that raises ValueError where it has more than `most` bytes."""

    def __init__(self, stream: io.BufferedIOBase, most: int) -> None:
        self.stream, self.most, self.seen = stream, most, 0

    def read(self, count: int) -> bytes:
        piece = self.stream.read(count)
        self.seen += len(piece)
        if self.seen > self.most:
            raise ValueError(f"it unpacks to more than {self.most:,} bytes")
        return piece


def _download(file: Remote, home: Path, wanted: Sequence[Remote], bases: Sequence[Path]) -> Path:
    if (home / file.name).exists():  # one of several was already here
        return home / file.name
    import pooch

    problems = []
    for url in file.urls:
        fetch: Any = pooch.HTTPDownloader(timeout=_SECONDS)
        try:
            return Path(pooch.retrieve(url, f"md5:{file.md5}", file.name, home, downloader=fetch))
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
            problems.append(f"  {url}\n    {type(error).__name__}: {str(error)[:200]}")
    with suppress(OSError):
        home.rmdir()  # pooch made it; one that is not empty stays
    raise FileNotFoundError(
        f"missing: {', '.join(each.name for each in wanted if not (home / each.name).exists())}\n"
        f"looked in {', '.join(str(base) for base in bases)}\nand the download failed:\n"
        + "\n".join(problems)
        + f"\nTo go on, fetch the files elsewhere and put them into {home}; or name the folder that holds them "
        "with --data-dir or the environment variable STEELMAN_DATA"
    )
