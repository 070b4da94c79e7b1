"""System calls that make, change and remove paths: fs/namei.c, and fs/open.c for some.

See mkdir(2), unlink(2), rename(2), symlink(2), link(2), chdir(2), chmod(2), truncate(2). The file
system is read-only: what is there cannot be changed, and nothing can be made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.linux.errno import Errno
from emulator.linux.uaccess import get_string

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread

PATH_MAX: Final = 4096


def _is_there(process: Process, pathname: int) -> bool:
    path = get_string(process.memory, pathname, PATH_MAX).decode("utf-8", "surrogateescape")
    return path in process.paths or path == "/dev/null"


def _make(process: Process, pathname: int) -> int:
    return -Errno.EEXIST if _is_there(process, pathname) else -Errno.EROFS


def _change(process: Process, pathname: int) -> int:
    return -Errno.EROFS if _is_there(process, pathname) else -Errno.ENOENT


def mkdir(process: Process, thread: Thread, pathname: int, _mode: int) -> int:
    """EROFS, or EEXIST."""
    del thread
    return _make(process, pathname)


def mkdirat(process: Process, thread: Thread, _: int, pathname: int, mode: int) -> int:
    """As mkdir: there are no directories to start from."""
    return mkdir(process, thread, pathname, mode)


def symlink(process: Process, thread: Thread, _: int, linkpath: int) -> int:
    """EROFS, or EEXIST."""
    del thread
    return _make(process, linkpath)


def symlinkat(process: Process, thread: Thread, target: int, _: int, linkpath: int) -> int:
    """As symlink."""
    return symlink(process, thread, target, linkpath)


def unlink(process: Process, thread: Thread, pathname: int) -> int:
    """ENOENT, or EROFS."""
    del thread
    return _change(process, pathname)


def unlinkat(process: Process, thread: Thread, _: int, pathname: int, _flags: int) -> int:
    """As unlink, of directories too."""
    return unlink(process, thread, pathname)


def rmdir(process: Process, thread: Thread, pathname: int) -> int:
    """ENOENT, or ENOTDIR: what is there is a file."""
    del thread
    return -Errno.ENOTDIR if _is_there(process, pathname) else -Errno.ENOENT


def rename(process: Process, thread: Thread, oldpath: int, _: int) -> int:
    """ENOENT, or EROFS."""
    del thread
    return _change(process, oldpath)


def renameat(process: Process, thread: Thread, _: int, oldpath: int, _new: int, new: int) -> int:
    """As rename."""
    return rename(process, thread, oldpath, new)


def renameat2(
    process: Process, thread: Thread, _: int, oldpath: int, _new: int, new: int, _flags: int
) -> int:
    """As rename."""
    return rename(process, thread, oldpath, new)


def link(process: Process, thread: Thread, oldpath: int, _: int) -> int:
    """ENOENT, or EROFS."""
    del thread
    return _change(process, oldpath)


def linkat(
    process: Process, thread: Thread, _: int, oldpath: int, _new: int, new: int, _flags: int
) -> int:
    """As link."""
    return link(process, thread, oldpath, new)


def truncate(process: Process, thread: Thread, path: int, _: int) -> int:
    """ENOENT, or EROFS."""
    del thread
    return _change(process, path)


def chmod(process: Process, thread: Thread, pathname: int, _mode: int) -> int:
    """ENOENT, or EROFS."""
    del thread
    return _change(process, pathname)


def fchmodat(process: Process, thread: Thread, _: int, pathname: int, mode: int) -> int:
    """As chmod."""
    return chmod(process, thread, pathname, mode)


def chdir(process: Process, thread: Thread, path: int) -> int:
    """To the root directory, which is where everybody is; else ENOENT, or ENOTDIR."""
    del thread
    if get_string(process.memory, path, PATH_MAX) == b"/":
        return 0
    return -Errno.ENOTDIR if _is_there(process, path) else -Errno.ENOENT
