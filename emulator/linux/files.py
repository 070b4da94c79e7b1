"""System calls on file descriptors: open.c, read_write.c, fcntl.c, pipe.c, eventfd.c of fs/.

See open(2), read(2), write(2), fcntl(2), fstat(2), pipe(2), eventfd(2). The guest sees the files
that it was handed (Process.paths), /dev/null, and nothing else: every other path is ENOENT, and
what would write to a path EROFS.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from emulator.linux.errno import Errno
from emulator.linux.open_file import (
    EFD_SEMAPHORE,
    O_NONBLOCK,
    S_IFCHR,
    S_IFIFO,
    S_IFREG,
    EventFd,
    FileError,
    Input,
    Null,
    OpenFile,
    Output,
    Pipe,
    ReadEnd,
    WouldBlock,
    WriteEnd,
)
from emulator.linux.poll import block, wake_pollers
from emulator.linux.process import MOST_FILES
from emulator.linux.uaccess import check_writable, copy_from_user, copy_to_user, get_string

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread

MAX_RW_COUNT: Final = 0x7FFF_F000
PATH_MAX: Final = 4096

O_ACCMODE: Final = 3
O_CREAT: Final = 0o100
O_TRUNC: Final = 0o1000
O_DIRECTORY: Final = 0o200000
O_CLOEXEC: Final = 0o2000000

F_DUPFD: Final = 0
F_GETFD: Final = 1
F_SETFD: Final = 2
F_GETFL: Final = 3
F_SETFL: Final = 4
F_DUPFD_CLOEXEC: Final = 1030

_STAT: Final = struct.Struct("<QQQIIIIQqqqqqqqqq3q")  # struct stat of x86-64, 144 bytes
SYS_READ, SYS_WRITE, SYS_WRITEV = 0, 1, 20
IOV_MAX: Final = 1024


def _file(process: Process, fd: int) -> OpenFile:
    found = process.files.get(fd & 0xFFFF_FFFF)
    if found is None:
        raise FileError(Errno.EBADF)
    return found


def read(process: Process, thread: Thread, fd: int, buf: int, count: int) -> int | None:
    """Waits for data, unless O_NONBLOCK is set."""
    file = _file(process, fd)
    count = min(count, MAX_RW_COUNT)
    check_writable(process.memory, buf, min(count, 1))
    try:
        data = file.read(count)
    except WouldBlock:
        return block(thread, file, "read", SYS_READ)
    copy_to_user(process.memory, buf, data)
    wake_pollers(process, thread)
    return len(data)


def pread64(process: Process, thread: Thread, fd: int, buf: int, count: int, pos: int) -> int:
    """Reads at a position of a regular file."""
    del thread
    file = _file(process, fd)
    if not isinstance(file, Input) or not file.mode & S_IFREG:
        return -Errno.ESPIPE
    if pos >> 63:
        return -Errno.EINVAL
    data = file.data[pos : pos + min(count, MAX_RW_COUNT)]
    copy_to_user(process.memory, buf, data)
    return len(data)


def _write(process: Process, thread: Thread, fd: int, data: bytes, number: int) -> int | None:
    file = _file(process, fd)
    if isinstance(file, Output):
        process.write_out(file.fd, data)
        return len(data)
    try:
        written = file.write(data)
    except WouldBlock:
        return block(thread, file, "write", number)
    wake_pollers(process, thread)
    return written


def write(process: Process, thread: Thread, fd: int, buf: int, count: int) -> int | None:
    """To standard output and error through Process.write_out, which may set a limit."""
    data = copy_from_user(process.memory, buf, min(count, _room(process, _file(process, fd))))
    return _write(process, thread, fd, data, SYS_WRITE)


def writev(process: Process, thread: Thread, fd: int, vec: int, vlen: int) -> int | None:
    """The pieces as one."""
    room = _room(process, _file(process, fd))
    if vlen > IOV_MAX:
        return -Errno.EINVAL
    data = bytearray()
    for base, length in struct.iter_unpack("<QQ", copy_from_user(process.memory, vec, 16 * vlen)):
        data += copy_from_user(process.memory, base, min(length, room - len(data)))
    return _write(process, thread, fd, bytes(data), SYS_WRITEV)


def _room(process: Process, file: OpenFile) -> int:
    """How much of a write is taken at once: of standard output, enough to be beyond its limit."""
    if isinstance(file, Output) and process.output_limit is not None:
        return min(MAX_RW_COUNT, process.output_limit - len(process.output[file.fd]) + 1)
    return MAX_RW_COUNT


def _open(process: Process, path: bytes, flags: int) -> int:
    if not path:
        return -Errno.ENOENT
    text = path.decode("utf-8", "surrogateescape")
    writes = flags & O_ACCMODE or flags & (O_CREAT | O_TRUNC)
    file: OpenFile
    if text == "/dev/null":
        file = Null(S_IFCHR | 0o666)
    elif text in process.paths:
        if writes:
            return -Errno.EROFS
        file = Input(S_IFREG | 0o444, data=process.paths[text])
    else:
        return -Errno.EROFS if flags & O_CREAT else -Errno.ENOENT
    if flags & O_DIRECTORY:
        return -Errno.ENOTDIR
    file.flags = flags & ~(O_CLOEXEC | O_CREAT | O_TRUNC)
    return process.install(file)


def open(process: Process, thread: Thread, filename: int, flags: int, _: int) -> int:  # noqa: A001
    """A path that was handed in, for reading; else ENOENT, or EROFS where it would be made."""
    del thread
    return _open(process, get_string(process.memory, filename, PATH_MAX), flags)


def openat(process: Process, thread: Thread, _: int, filename: int, flags: int, _mode: int) -> int:
    """As open: there are no directories to start from."""
    del thread
    return _open(process, get_string(process.memory, filename, PATH_MAX), flags)


def close(process: Process, thread: Thread, fd: int) -> int:
    """The descriptor is free; the last one of a pipe's end tells the other."""
    file = _file(process, fd)
    del process.files[fd & 0xFFFF_FFFF]
    file.references -= 1
    if not file.references:
        file.closed()
        for other in process.files.values():
            interests = getattr(other, "interests", {})
            for key in [key for key, interest in interests.items() if interest.file is file]:
                del interests[key]
        wake_pollers(process, thread)
    return 0


def fcntl(process: Process, thread: Thread, fd: int, cmd: int, arg: int) -> int:
    """Copies, and the flags that can be read and set."""
    del thread
    file = _file(process, fd)
    command = cmd & 0xFFFF_FFFF
    if command in (F_DUPFD, F_DUPFD_CLOEXEC):
        return process.install(file, arg & 0xFFFF_FFFF)
    if command == F_GETFD:
        return 0
    if command == F_SETFD:
        return 0
    if command == F_GETFL:
        return file.flags
    if command == F_SETFL:
        file.flags = file.flags & ~O_NONBLOCK | arg & O_NONBLOCK
        return 0
    return -Errno.EINVAL


def dup3(process: Process, thread: Thread, oldfd: int, newfd: int, flags: int) -> int:
    """The new descriptor stands for the old one's file, whatever it stood for."""
    file = _file(process, oldfd)
    new = newfd & 0xFFFF_FFFF
    if new == oldfd & 0xFFFF_FFFF or flags & ~O_CLOEXEC:
        return -Errno.EINVAL
    if new >= MOST_FILES:
        return -Errno.EBADF
    if new in process.files:
        close(process, thread, new)
    file.references += 1
    process.files[new] = file
    return new


def lseek(process: Process, thread: Thread, fd: int, offset: int, whence: int) -> int:
    """The position of a regular file."""
    del thread
    file = _file(process, fd)
    if not isinstance(file, Input) or not file.mode & S_IFREG:
        return -Errno.ESPIPE
    start = {0: 0, 1: file.position, 2: len(file.data)}.get(whence & 0xFFFF_FFFF)
    signed = offset - (offset >> 63 << 64)
    if start is None or start + signed < 0:
        return -Errno.EINVAL
    file.position = start + signed
    return file.position


def _stat(process: Process, mode: int, size: int, inode: int) -> bytes:
    owner = (process.uid, process.uid)
    blocks = -(-size // 512)
    return _STAT.pack(1, inode, 1, mode, *owner, 0, 0, size, 4096, blocks, *(0,) * 9)


def fstat(process: Process, thread: Thread, fd: int, statbuf: int) -> int:
    """Type, permissions and size; times are zero."""
    del thread
    file = _file(process, fd)
    copy_to_user(process.memory, statbuf, _stat(process, file.mode, file.size(), fd + 1))
    return 0


def newfstatat(
    process: Process, thread: Thread, dfd: int, filename: int, statbuf: int, flag: int
) -> int:
    """As fstat, of a path; with AT_EMPTY_PATH of the descriptor."""
    path = get_string(process.memory, filename, PATH_MAX).decode("utf-8", "surrogateescape")
    if not path and flag & 0x1000:
        return fstat(process, thread, dfd, statbuf)
    if path == "/dev/null":
        found = _stat(process, S_IFCHR | 0o666, 0, 2)
    elif path in process.paths:
        found = _stat(process, S_IFREG | 0o444, len(process.paths[path]), 3)
    else:
        return -Errno.ENOENT
    copy_to_user(process.memory, statbuf, found)
    return 0


def readlinkat(
    process: Process, thread: Thread, _: int, pathname: int, _buf: int, _size: int
) -> int:
    """No path is a link."""
    del thread
    path = get_string(process.memory, pathname, PATH_MAX).decode("utf-8", "surrogateescape")
    return -Errno.EINVAL if path in process.paths else -Errno.ENOENT


def access(process: Process, thread: Thread, filename: int, mode: int) -> int:
    """What was handed in may be read."""
    del thread
    path = get_string(process.memory, filename, PATH_MAX).decode("utf-8", "surrogateescape")
    if path not in process.paths:
        return -Errno.ENOENT
    return -Errno.EROFS if mode & 2 else 0


def faccessat(process: Process, thread: Thread, _: int, filename: int, mode: int) -> int:
    """As access."""
    return access(process, thread, filename, mode)


def getcwd(process: Process, thread: Thread, buf: int, size: int) -> int:
    """The root directory."""
    del thread
    if size < 2:
        return -Errno.ERANGE
    copy_to_user(process.memory, buf, b"/\0")
    return 2


def ioctl(process: Process, thread: Thread, fd: int, _cmd: int) -> int:
    """Nothing is a terminal or a device."""
    del thread
    _file(process, fd)
    return -Errno.ENOTTY


def pipe2(process: Process, thread: Thread, fildes: int, flags: int) -> int:
    """Two descriptors: what is written to the second is read from the first."""
    del thread
    if flags & ~(O_NONBLOCK | O_CLOEXEC):
        return -Errno.EINVAL
    pipe = Pipe()
    flags &= O_NONBLOCK
    pipe.reader = ReadEnd(S_IFIFO | 0o600, flags, pipe=pipe)
    pipe.writer = WriteEnd(S_IFIFO | 0o600, flags | 1, pipe=pipe)
    ends = process.install(pipe.reader), process.install(pipe.writer)
    copy_to_user(process.memory, fildes, struct.pack("<II", *ends))
    return 0


def pipe(process: Process, thread: Thread, fildes: int) -> int:
    """As pipe2 without flags."""
    return pipe2(process, thread, fildes, 0)


def eventfd2(process: Process, thread: Thread, initval: int, flags: int) -> int:
    """A counter that can be waited for."""
    del thread
    if flags & ~(O_NONBLOCK | O_CLOEXEC | EFD_SEMAPHORE):
        return -Errno.EINVAL
    count = initval & 0xFFFF_FFFF
    file = EventFd(0o600, flags & O_NONBLOCK | 2, count=count)
    file.semaphore = bool(flags & EFD_SEMAPHORE)
    return process.install(file)
