"""The paths that the guest sees: the files that it was handed, /dev/null, and their directories.

Lookup as path_resolution(7) has it. Nothing can be changed, and no path is a link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.linux.errno import Errno
from emulator.linux.open_file import S_IFCHR, S_IFDIR, S_IFREG, FileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIRST_INODE: Final = 4096  # those of pipes and the like are below


@dataclass(frozen=True, slots=True)
class Inode:
    """What is at a path: type and permissions as in struct stat, and what a file holds."""

    path: str
    mode: int
    number: int
    data: bytes = b""

    @property
    def is_directory(self) -> bool:
        """Whether other paths may begin with its own."""
        return bool(self.mode & S_IFDIR)


class Tree:
    """All of them. Raises ValueError where a file would lie in a file."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        contents = {_normal(path): data for path, data in (files or {}).items()}
        modes = dict.fromkeys(contents, S_IFREG | 0o444) | {"/dev/null": S_IFCHR | 0o666}
        for path in tuple(modes):
            for directory in _above(path):
                if directory in modes and not modes[directory] & S_IFDIR:
                    raise ValueError(f"{directory} is a file, and {path} would lie in it")
                modes[directory] = S_IFDIR | 0o555
        if not modes["/"] & S_IFDIR:
            raise ValueError("/ is a directory")
        self._inodes = {
            path: Inode(path, modes[path], FIRST_INODE + index, contents.get(path, b""))
            for index, path in enumerate(sorted(modes))
        }

    def lookup(self, start: str, path: str) -> Inode:
        """What a path leads to from a directory; FileError ENOENT or ENOTDIR."""
        if not path:
            raise FileError(Errno.ENOENT)
        inode = self._at("/" if path[0] == "/" else start)
        for name in path.split("/"):
            if not inode.is_directory:
                raise FileError(Errno.ENOTDIR)
            inode = self._at(f"{inode.path}/{name}")
        return inode

    def entries(self, directory: str) -> list[tuple[str, Inode]]:
        """What readdir(3) lists, by name."""
        inside = [
            (path.rpartition("/")[2], inode)
            for path, inode in self._inodes.items()
            if path != "/" and next(iter(_above(path))) == directory
        ]
        return [(".", self._at(directory)), ("..", self._at(f"{directory}/..")), *inside]

    def _at(self, path: str) -> Inode:
        found = self._inodes.get(_normal(path))
        if found is None:
            raise FileError(Errno.ENOENT)
        return found


def _normal(path: str) -> str:
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            names = names[:-1]
        elif name not in ("", "."):
            names.append(name)
    return "/" + "/".join(names)


def _above(path: str) -> Iterable[str]:
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path
