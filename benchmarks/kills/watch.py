"""What is in a folder, and what of it is still being written."""

import os
import re
from pathlib import Path

TEMPORARY = re.compile(r"\.partial$|^\.tmp")
"""Names of files that are still being written: ours, and those of safetensors, which writes beside them first."""
Look = dict[str, tuple[int, int, int]]
"""Of each path what changes when it is written: inode, size (-1: a folder) and time."""


def look(folder: Path) -> Look:
    """Every file in a folder, with what changes when it is written, and the folders in it."""
    found, folders = Look(), [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        found[entry.path] = entry.inode(), -1, 0
                        continue
                    try:
                        seen = entry.stat()
                    except FileNotFoundError:
                        continue
                    found[entry.path] = seen.st_ino, seen.st_size, seen.st_mtime_ns
        except FileNotFoundError:
            continue
    return found


def unfinished(now: Look, before: Look) -> list[str]:
    """Files that are being written: temporary ones, and such as are empty. Locks hold nothing, and do not count."""
    return [path for path, seen in now.items() if before.get(path) != seen and _is_unfinished(path, seen[1])]


def _is_unfinished(path: str, size: int) -> bool:
    name = os.path.basename(path)
    return bool(TEMPORARY.search(name)) or (size == 0 and not name.startswith(".lock"))
