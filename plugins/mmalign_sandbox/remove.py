"""Deletes a folder that a hostile program filled: `why = remove_folder(path)` never raises.

It walks by file descriptors, one open at a time, and does not recurse, because folders may be nested deeper than a path
can be long. Folders that cannot be read are made readable first. Links are removed, not followed.
"""

import os
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_folder(folder: Path) -> str:
    """Returns why something of the folder remains, or an empty text."""
    problems: list[str] = []
    try:
        current = _open(str(folder), None)
    except OSError as error:
        return str(error)
    # The folders from `folder` down to `current`: each with its name in the one above and its remaining subfolders.
    way = [("", _empty(current, problems))]
    try:
        while way:
            name, subfolders = way[-1]
            if subfolders:
                below = subfolders.pop()
                try:
                    inside = _open(below, current)
                except OSError as error:
                    problems.append(str(error))
                    continue
                os.close(current)
                current = inside
                way.append((below, _empty(current, problems)))
                continue
            way.pop()
            if way:
                above = os.open("..", _FOLDER, dir_fd=current)
                os.close(current)
                current = above
                try:
                    os.rmdir(name, dir_fd=current)
                except OSError as error:
                    problems.append(str(error))
        os.rmdir(folder)
    except OSError as error:
        problems.append(str(error))
    finally:
        os.close(current)
    return problems[0] if problems else ""


def _open(name: str, above: int | None) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except PermissionError:
        os.chmod(name, stat.S_IRWXU, dir_fd=above)
        return os.open(name, _FOLDER, dir_fd=above)


def _empty(folder: int, problems: list[str]) -> list[str]:
    """Unlink all that is not a folder; returns the names of the subfolders."""
    subfolders = []
    try:
        os.fchmod(folder, stat.S_IRWXU)
        with os.scandir(folder) as entries:
            items = list(entries)
    except OSError as error:
        problems.append(str(error))
        return []
    for entry in items:
        try:
            if entry.is_dir(follow_symlinks=False):
                subfolders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
        except OSError as error:
            problems.append(str(error))
    return subfolders
