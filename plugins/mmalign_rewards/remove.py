"""Delete a folder that a hostile program filled: `why = remove_folder(path)` never raises.

It goes down and up by descriptors, one open at a time: nests may be deeper than a path can be long, and nothing recurs.
Folders that cannot be read are opened up first. Links are removed, not followed.
"""

import os
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_folder(folder: Path) -> str:
    """Why something of it is still there, or an empty text."""
    problems: list[str] = []
    try:
        current = _open(str(folder), None)
    except OSError as error:
        return str(error)
    # The folders from `folder` down to `current`: the name of each in the one above, and its subfolders still to go.
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
    """Unlink all that is no folder; the names of those that are."""
    subfolders = []
    try:
        os.fchmod(folder, stat.S_IRWXU)
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        problems.append(str(error))
        return []
    for entry in found:
        try:
            if entry.is_dir(follow_symlinks=False):
                subfolders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
        except OSError as error:
            problems.append(str(error))
    return subfolders
