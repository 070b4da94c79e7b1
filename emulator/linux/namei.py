"""Lookup of paths, and what makes, changes and removes them: fs/namei.c, and fs/open.c for some.

See mkdir(2), unlink(2), rename(2), symlink(2), link(2), chdir(2), chmod(2), truncate(2). The file
system is read-only: what is there cannot be changed, and nothing can be made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.linux.errno import Errno
from emulator.linux.open_file import Directory, FileError
from emulator.linux.uaccess import get_string

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread
    from emulator.linux.tree import Inode

PATH_MAX: Final = 4096
AT_FDCWD: Final = -100 & 0xFFFF_FFFF


def path_at(process: Process, dfd: int, pathname: int) -> Inode:
    """What a path leads to, from the directory that `dfd` stands for; FileError.

    A path that begins with / asks for no directory, and an empty one leads nowhere.
    """
    path = get_string(process.memory, pathname, PATH_MAX).decode("utf-8", "surrogateescape")
    start = process.cwd
    if path[:1] not in ("", "/") and dfd & 0xFFFF_FFFF != AT_FDCWD:
        directory = process.file(dfd)
        if not isinstance(directory, Directory):
            raise FileError(Errno.ENOTDIR)
        start = directory.path
    return process.tree.lookup(start, path)


def _make(process: Process, dfd: int, pathname: int) -> int:
    try:
        path_at(process, dfd, pathname)
    except FileError as error:
        return -Errno.EROFS if error.errno is Errno.ENOENT else -error.errno
    return -Errno.EEXIST


def _change(process: Process, dfd: int, pathname: int) -> int:
    path_at(process, dfd, pathname)
    return -Errno.EROFS


def mkdirat(process: Process, thread: Thread, dfd: int, pathname: int, _mode: int) -> int:
    """EROFS, or EEXIST."""
    del thread
    return _make(process, dfd, pathname)


def mkdir(process: Process, thread: Thread, pathname: int, mode: int) -> int:
    """As mkdirat, from the working directory."""
    return mkdirat(process, thread, AT_FDCWD, pathname, mode)


def symlinkat(process: Process, thread: Thread, _: int, dfd: int, linkpath: int) -> int:
    """EROFS, or EEXIST."""
    del thread
    return _make(process, dfd, linkpath)


def symlink(process: Process, thread: Thread, target: int, linkpath: int) -> int:
    """As symlinkat, from the working directory."""
    return symlinkat(process, thread, target, AT_FDCWD, linkpath)


def unlinkat(process: Process, thread: Thread, dfd: int, pathname: int, _flags: int) -> int:
    """ENOENT, or EROFS; of directories too."""
    del thread
    return _change(process, dfd, pathname)


def unlink(process: Process, thread: Thread, pathname: int) -> int:
    """As unlinkat, from the working directory."""
    return unlinkat(process, thread, AT_FDCWD, pathname, 0)


def rmdir(process: Process, thread: Thread, pathname: int) -> int:
    """ENOENT, ENOTDIR, or EROFS."""
    del thread
    found = path_at(process, AT_FDCWD, pathname)
    return -Errno.EROFS if found.is_directory else -Errno.ENOTDIR


def renameat(process: Process, thread: Thread, dfd: int, oldpath: int, _dfd: int, _new: int) -> int:
    """ENOENT, or EROFS."""
    del thread
    return _change(process, dfd, oldpath)


def renameat2(
    process: Process, thread: Thread, dfd: int, oldpath: int, newdfd: int, new: int, _flags: int
) -> int:
    """As renameat."""
    return renameat(process, thread, dfd, oldpath, newdfd, new)


def rename(process: Process, thread: Thread, oldpath: int, new: int) -> int:
    """As renameat, from the working directory."""
    return renameat(process, thread, AT_FDCWD, oldpath, AT_FDCWD, new)


def linkat(
    process: Process, thread: Thread, dfd: int, oldpath: int, _dfd: int, _new: int, _flags: int
) -> int:
    """ENOENT, or EROFS."""
    del thread
    return _change(process, dfd, oldpath)


def link(process: Process, thread: Thread, oldpath: int, new: int) -> int:
    """As linkat, from the working directory."""
    return linkat(process, thread, AT_FDCWD, oldpath, AT_FDCWD, new, 0)


def truncate(process: Process, thread: Thread, path: int, _: int) -> int:
    """ENOENT, or EROFS."""
    del thread
    return _change(process, AT_FDCWD, path)


def fchmodat(process: Process, thread: Thread, dfd: int, pathname: int, _mode: int) -> int:
    """ENOENT, or EROFS."""
    del thread
    return _change(process, dfd, pathname)


def chmod(process: Process, thread: Thread, pathname: int, mode: int) -> int:
    """As fchmodat, from the working directory."""
    return fchmodat(process, thread, AT_FDCWD, pathname, mode)


def chdir(process: Process, thread: Thread, path: int) -> int:
    """Paths that do not begin with / begin there from now on."""
    del thread
    found = path_at(process, AT_FDCWD, path)
    if not found.is_directory:
        return -Errno.ENOTDIR
    process.cwd = found.path
    return 0
