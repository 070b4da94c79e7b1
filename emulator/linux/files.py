"""System calls on file descriptors: open.c, read_write.c, fcntl.c, pipe.c, eventfd.c of fs/.

See open(2), read(2), write(2), fcntl(2), pipe(2), eventfd(2). The guest sees what is in
Process.tree and nothing else: every other path is ENOENT, and what would write to a path EROFS.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from emulator.linux.errno import Errno
from emulator.linux.namei import AT_FDCWD, path_at
from emulator.linux.open_file import (
    EFD_SEMAPHORE,
    O_NONBLOCK,
    S_IFIFO,
    S_IFREG,
    Directory,
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
from emulator.linux.uaccess import check_writable, copy_from_user, copy_to_user

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.linux.threads import Thread

SEEK_MAX: Final = 4
MAX_RW_COUNT: Final = 0x7FFF_F000
O_ACCMODE: Final = 3
O_CREAT: Final = 0o100
O_TRUNC: Final = 0o1000
O_DIRECTORY: Final = 0o200000
O_TMPFILE: Final = 0o20000000
O_CLOEXEC: Final = 0o2000000

F_DUPFD: Final = 0
F_GETFD: Final = 1
F_SETFD: Final = 2
F_GETFL: Final = 3
F_SETFL: Final = 4
F_DUPFD_CLOEXEC: Final = 1030

SYS_READ, SYS_WRITE, SYS_WRITEV = 0, 1, 20
IOV_MAX: Final = 1024


def read(process: Process, thread: Thread, fd: int, buf: int, count: int) -> int | None:
    """Waits for data, unless O_NONBLOCK is set."""
    file = process.file(fd)
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
    """Reads at a position of a regular file; of /dev/null, nothing."""
    del thread
    file = process.file(fd)
    if isinstance(file, Null):
        return -Errno.EINVAL if pos >> 63 else 0
    if not isinstance(file, Input) or not file.mode & S_IFREG:
        return -Errno.ESPIPE
    if pos >> 63:
        return -Errno.EINVAL
    data = file.data[pos : pos + min(count, MAX_RW_COUNT)]
    copy_to_user(process.memory, buf, data)
    return len(data)


def _write(process: Process, thread: Thread, fd: int, data: bytes, number: int) -> int | None:
    file = process.file(fd)
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
    data = copy_from_user(process.memory, buf, min(count, _room(process, process.file(fd))))
    return _write(process, thread, fd, data, SYS_WRITE)


def writev(process: Process, thread: Thread, fd: int, vec: int, vlen: int) -> int | None:
    """The pieces as one."""
    room = _room(process, process.file(fd))
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


def openat(
    process: Process, thread: Thread, dfd: int, filename: int, flags: int, _mode: int
) -> int:
    """What is in the tree, for reading; else ENOENT, or EROFS where it would be made."""
    del thread
    writes = flags & O_ACCMODE or flags & (O_CREAT | O_TRUNC)
    try:
        inode = path_at(process, dfd, filename)
    except FileError as error:
        if error.errno is Errno.ENOENT and flags & O_CREAT:
            return -Errno.EROFS
        raise
    file: OpenFile
    if inode.is_directory:
        if flags & O_TMPFILE:
            return -Errno.EROFS
        if writes:
            return -Errno.EISDIR
        file = Directory(inode.mode, path=inode.path)
    elif flags & O_DIRECTORY:
        return -Errno.ENOTDIR
    elif inode.mode & S_IFREG:
        if writes:
            return -Errno.EROFS
        file = Input(inode.mode, data=inode.data)
    else:
        file = Null(inode.mode)
    file.inode = inode.number
    file.flags = flags & ~(O_CLOEXEC | O_CREAT | O_TRUNC)
    return process.install(file)


def open(process: Process, thread: Thread, filename: int, flags: int, mode: int) -> int:  # noqa: A001
    """As openat, from the working directory."""
    return openat(process, thread, AT_FDCWD, filename, flags, mode)


def close(process: Process, thread: Thread, fd: int) -> int:
    """The descriptor is free; the last one of a pipe's end tells the other."""
    file = process.file(fd)
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
    file = process.file(fd)
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
    file = process.file(oldfd)
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
    """The position of a regular file, or of a directory among its entries; /dev/null's is 0."""
    del thread
    file = process.file(fd)
    if isinstance(file, Null):
        # drivers/char/mem.c: null_lseek, whatever it is asked that fs/read_write.c lets through.
        return 0 if whence & 0xFFFF_FFFF <= SEEK_MAX else -Errno.EINVAL
    if isinstance(file, Directory) and offset >> 63 == whence & 0xFFFF_FFFF == 0:
        file.position = offset
        return offset
    if not isinstance(file, Input) or not file.mode & S_IFREG:
        return -Errno.ESPIPE
    start = {0: 0, 1: file.position, 2: len(file.data)}.get(whence & 0xFFFF_FFFF)
    signed = offset - (offset >> 63 << 64)
    if start is None or start + signed < 0:
        return -Errno.EINVAL
    file.position = start + signed
    return file.position


def ioctl(process: Process, thread: Thread, fd: int, _cmd: int) -> int:
    """Nothing is a terminal or a device."""
    del thread
    process.file(fd)
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
