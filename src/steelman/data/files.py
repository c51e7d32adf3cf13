"""Finding the files of a data set: in the user's folders first, then by download."""

import gzip
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SECONDS = 5.0
"""How long a server may be silent: a machine without a network should learn so at once."""


@dataclass(frozen=True)
class Remote:
    """A file that can be had from the network.

    name  under which it is kept
    md5   as its authors or torchvision publish it; checked after a download, not on what the user put here
    urls  where it lies, tried in order
    also  other names under which its content may be here, such as unpacked; looked for first
    """

    name: str
    md5: str
    urls: tuple[str, ...]
    also: tuple[str, ...] = ()


def folders(folder: Path | None) -> list[Path]:
    """Where data sets are looked for, first to last: `folder`, STEELMAN_DATA, the user's cache."""
    import pooch

    named = [folder, os.environ.get("STEELMAN_DATA")]
    return list(dict.fromkeys([*(Path(each).expanduser() for each in named if each), Path(pooch.os_cache("steelman"))]))


def locate(wanted: Sequence[Remote], inside: Sequence[str], folder: Path | None) -> list[Path]:
    """A local path for each wanted file, all from one folder; downloaded if there is no such folder.

    inside  the names under which this data set's own folder may lie in a data folder, ours first. A data folder that
            has such a name itself is searched too

    Raises:
        FileNotFoundError: not here and not to be had; names the files, where they come from, and where to put them.
    """
    bases = folders(folder)
    for base in bases:
        for sub in map(Path, inside):
            named = base.absolute().parts[-len(sub.parts) :] == sub.parts if sub.parts else False
            for home in (base / sub, base) if named else (base / sub,):
                found = [_first(home, (*file.also, file.name)) for file in wanted]
                here = [path for path in found if path is not None]
                if len(here) == len(wanted):
                    return here
    home = bases[0] / inside[0]
    return [_download(file, home, wanted, bases) for file in wanted]


def find(name: str, folder: Path | None) -> Path:
    """The user's own file or folder: an absolute path, or one in the working directory or in a data folder.

    Raises:
        FileNotFoundError: there is none; says where it was looked for.
    """
    places = [Path(name).expanduser(), *(base / name for base in folders(folder))]
    for path in places:
        if path.exists():
            return path
    raise FileNotFoundError(f"no {name}; looked for {', '.join(str(place.absolute()) for place in places)}")


def unpacked(file: Path) -> bytes:
    """The content of a file, without gzip if its name says so.

    Raises:
        ValueError: the gzip stream is truncated or fails its checksum.
    """
    content = file.read_bytes()
    if file.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is truncated or corrupt ({error}); fetch it again") from error


def _first(home: Path, names: Sequence[str]) -> Path | None:
    return next((home / name for name in names if (home / name).exists()), None)


def _download(file: Remote, home: Path, wanted: Sequence[Remote], bases: Sequence[Path]) -> Path:
    if (home / file.name).exists():  # one of several was here already
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
        home.rmdir()  # pooch made it; a folder with something in it stays
    raise FileNotFoundError(
        f"missing: {', '.join(each.name for each in wanted if not (home / each.name).exists())}\n"
        f"looked in {', '.join(str(base) for base in bases)}\nand the download failed:\n"
        + "\n".join(problems)
        + f"\nTo go on, fetch the files elsewhere and put them into {home}; or name the folder that holds them "
        "with --data-dir or the environment variable STEELMAN_DATA"
    )
