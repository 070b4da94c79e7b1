"""System calls that tell of files and paths: fs/stat.c, fs/readdir.c, and access of fs/open.c.

See stat(2), access(2), readlink(2), getdents64(2), getcwd(3). Times are zero.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from emulator.linux.errno import Errno
from emulator.linux.namei import AT_FDCWD, path_at
from emulator.linux.open_file import S_IFCHR, Directory
from emulator.linux.uaccess import copy_to_user, get_string

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread

AT_EMPTY_PATH: Final = 0x1000
X_OK: Final = 1
W_OK: Final = 2
TYPE_SHIFT: Final = 12  # from a mode to what getdents64 gives as d_type

_STAT: Final = struct.Struct("<QQQIIIIQqqqqqqqqq3q")  # struct stat of x86-64, 144 bytes
_DIRENT: Final = struct.Struct("<QqHB")  # struct linux_dirent64, up to its name


def _stat(process: Process, mode: int, size: int, inode: int) -> bytes:
    owner = (process.uid, process.uid)
    blocks = -(-size // 512)
    return _STAT.pack(1, inode, 1, mode, *owner, 0, 0, size, 4096, blocks, *(0,) * 9)


def fstat(process: Process, thread: Thread, fd: int, statbuf: int) -> int:
    """Type, permissions and size."""
    del thread
    file = process.file(fd)
    inode = file.inode or fd + 1
    copy_to_user(process.memory, statbuf, _stat(process, file.mode, file.size(), inode))
    return 0


def newfstatat(
    process: Process, thread: Thread, dfd: int, filename: int, statbuf: int, flag: int
) -> int:
    """As fstat, of a path; with AT_EMPTY_PATH of the descriptor."""
    if flag & AT_EMPTY_PATH and not get_string(process.memory, filename, 1):
        return fstat(process, thread, dfd, statbuf)
    inode = path_at(process, dfd, filename)
    found = _stat(process, inode.mode, len(inode.data), inode.number)
    copy_to_user(process.memory, statbuf, found)
    return 0


def stat(process: Process, thread: Thread, filename: int, statbuf: int) -> int:
    """As newfstatat, from the working directory."""
    return newfstatat(process, thread, AT_FDCWD, filename, statbuf, 0)


def lstat(process: Process, thread: Thread, filename: int, statbuf: int) -> int:
    """As stat: no path is a link."""
    return newfstatat(process, thread, AT_FDCWD, filename, statbuf, 0)


def getdents64(process: Process, thread: Thread, fd: int, dirent: int, count: int) -> int:
    """As many of the entries that are left as there is room for."""
    del thread
    directory = process.file(fd)
    if not isinstance(directory, Directory):
        return -Errno.ENOTDIR
    found = bytearray()
    left = process.tree.entries(directory.path)[directory.position :]
    for name, inode in left:
        text = name.encode("utf-8", "surrogateescape") + b"\0"
        size = -(-(_DIRENT.size + len(text)) // 8) * 8
        if len(found) + size > count:
            break
        directory.position += 1
        kind = inode.mode >> TYPE_SHIFT
        head = _DIRENT.pack(inode.number, directory.position, size, kind)
        found += (head + text).ljust(size, b"\0")
    if left and not found:
        return -Errno.EINVAL
    copy_to_user(process.memory, dirent, found)
    return len(found)


def readlinkat(
    process: Process, thread: Thread, dfd: int, pathname: int, _buf: int, _size: int
) -> int:
    """No path is a link."""
    del thread
    path_at(process, dfd, pathname)
    return -Errno.EINVAL


def faccessat(process: Process, thread: Thread, dfd: int, filename: int, mode: int) -> int:
    """Files may be read, directories searched, and /dev/null be written to."""
    del thread
    inode = path_at(process, dfd, filename)
    if mode & W_OK and not inode.mode & S_IFCHR:
        return -Errno.EROFS
    return 0 if not mode & X_OK or inode.is_directory else -Errno.EACCES


def access(process: Process, thread: Thread, filename: int, mode: int) -> int:
    """As faccessat, from the working directory."""
    return faccessat(process, thread, AT_FDCWD, filename, mode)


def getcwd(process: Process, thread: Thread, buf: int, size: int) -> int:
    """The working directory's path, and a zero byte."""
    del thread
    path = process.cwd.encode("utf-8", "surrogateescape") + b"\0"
    if size < len(path):
        return -Errno.ERANGE
    copy_to_user(process.memory, buf, path)
    return len(path)
