"""What file descriptors stand for: struct file, by kind; see read(2), write(2), poll(2).

A file keeps its bytes in Python; nothing here touches a file of the host. `changes` counts what
poll would have woken somebody for, so that edge-triggered epoll knows news from old readiness.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final

from emulator.linux.errno import Errno

S_IFIFO: Final = 0o010000
S_IFCHR: Final = 0o020000
S_IFDIR: Final = 0o040000
S_IFREG: Final = 0o100000

O_NONBLOCK: Final = 0o4000


class Poll(IntFlag):
    """Events of poll(2) and epoll(7)."""

    IN = 0x1
    OUT = 0x4
    ERR = 0x8
    HUP = 0x10


class WouldBlock(Exception):  # noqa: N818  # the kernel's word, EWOULDBLOCK
    """Nothing can be read or written now."""


class FileError(Exception):
    """A call fails with this number."""

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno.name)
        self.errno = errno


@dataclass
class OpenFile:
    """An open file. `flags` are those of open(2) that fcntl(F_GETFL) shows."""

    mode: int  # type and permissions, as in struct stat
    flags: int = 0
    changes: int = 0
    references: int = 0  # file descriptors
    inode: int = 0  # of what has a path

    def read(self, count: int) -> bytes:
        """At most `count` bytes, none at the end. Raises WouldBlock or FileError."""
        del count
        raise FileError(Errno.EBADF)

    def write(self, data: bytes) -> int:
        """Takes bytes; how many. Raises WouldBlock or FileError."""
        del data
        raise FileError(Errno.EBADF)

    def poll(self) -> Poll:
        """What would not block."""
        return Poll.IN | Poll.OUT

    def size(self) -> int:
        """In bytes, for struct stat."""
        return 0

    @property
    def pollable(self) -> bool:
        """Whether epoll takes it: regular files and /dev/null have no poll function."""
        return True

    def closed(self) -> None:
        """The last descriptor is gone."""


@dataclass
class Input(OpenFile):
    """Read-only bytes: standard input, or a file that was handed in."""

    data: bytes = b""
    position: int = 0

    def read(self, count: int) -> bytes:
        """From the position on."""
        found = self.data[self.position : self.position + count]
        self.position += len(found)
        return found

    def size(self) -> int:
        """All of it; 0 for what is no regular file."""
        return len(self.data) if self.mode & S_IFREG else 0

    @property
    def pollable(self) -> bool:
        """Not a regular file."""
        return not self.mode & S_IFREG

    def poll(self) -> Poll:
        """Always readable."""
        return Poll.IN


@dataclass
class Directory(OpenFile):
    """A directory; `position` counts the entries that have been read."""

    path: str = "/"
    position: int = 0

    def read(self, count: int) -> bytes:
        """What is in it, getdents64 tells."""
        del count
        raise FileError(Errno.EISDIR)

    @property
    def pollable(self) -> bool:
        """Never."""
        return False


@dataclass
class Null(OpenFile):
    """/dev/null."""

    def read(self, count: int) -> bytes:
        """Nothing."""
        del count
        return b""

    def write(self, data: bytes) -> int:
        """All of it, to nowhere."""
        return len(data)

    @property
    def pollable(self) -> bool:
        """Never."""
        return False


@dataclass
class Output(OpenFile):
    """Standard output or standard error: where the bytes go is Process.output's business."""

    fd: int = 1

    def poll(self) -> Poll:
        """Always writable."""
        return Poll.OUT


PIPE_SIZE: Final = 65536


@dataclass
class Pipe:
    """What the two ends of a pipe share."""

    data: bytearray = field(default_factory=bytearray)
    reader: ReadEnd | None = None
    writer: WriteEnd | None = None


@dataclass
class ReadEnd(OpenFile):
    """The end of a pipe that is read."""

    pipe: Pipe = field(default_factory=Pipe)

    def read(self, count: int) -> bytes:
        """What is there; none when the other end is closed."""
        data = self.pipe.data
        if not data and self.pipe.writer is not None:
            raise WouldBlock
        found = bytes(data[:count])
        del data[:count]
        if found and self.pipe.writer is not None:
            self.pipe.writer.changes += 1
        return found

    def poll(self) -> Poll:
        """Readable with bytes; hung up without a writer."""
        hung = Poll.HUP if self.pipe.writer is None else Poll(0)
        return hung | (Poll.IN if self.pipe.data else Poll(0))

    def closed(self) -> None:
        """The writer gets EPIPE from now on."""
        self.pipe.reader = None
        if self.pipe.writer is not None:
            self.pipe.writer.changes += 1


@dataclass
class WriteEnd(OpenFile):
    """The end of a pipe that is written."""

    pipe: Pipe = field(default_factory=Pipe)

    def write(self, data: bytes) -> int:
        """As much as there is room for; up to 4096 bytes all or nothing (PIPE_BUF)."""
        if self.pipe.reader is None:
            raise FileError(Errno.EPIPE)
        room = PIPE_SIZE - len(self.pipe.data)
        if room < min(len(data), 4096) or not room:
            raise WouldBlock
        taken = data[:room]
        self.pipe.data += taken
        self.pipe.reader.changes += 1
        return len(taken)

    def poll(self) -> Poll:
        """Writable with room for PIPE_BUF bytes; in error without a reader."""
        error = Poll.ERR if self.pipe.reader is None else Poll(0)
        return error | (Poll.OUT if PIPE_SIZE - len(self.pipe.data) >= 4096 else Poll(0))

    def closed(self) -> None:
        """The reader sees the end."""
        self.pipe.writer = None
        if self.pipe.reader is not None:
            self.pipe.reader.changes += 1


EFD_SEMAPHORE: Final = 1
_EVENTFD_MOST: Final = 2**64 - 2


@dataclass
class EventFd(OpenFile):
    """A counter: eventfd(2)."""

    count: int = 0
    semaphore: bool = False

    def read(self, count: int) -> bytes:
        """The counter, which goes back to 0; of a semaphore 1."""
        if count < 8:
            raise FileError(Errno.EINVAL)
        if not self.count:
            raise WouldBlock
        taken = 1 if self.semaphore else self.count
        self.count -= taken
        self.changes += 1
        return taken.to_bytes(8, "little")

    def write(self, data: bytes) -> int:
        """Adds to the counter."""
        value = int.from_bytes(data[:8], "little")
        if len(data) < 8 or value == 2**64 - 1:
            raise FileError(Errno.EINVAL)
        if self.count + value > _EVENTFD_MOST:
            raise WouldBlock
        self.count += value
        self.changes += 1
        return 8

    def poll(self) -> Poll:
        """Readable above 0, writable while 1 can be added."""
        readable = Poll.IN if self.count else Poll(0)
        return readable | (Poll.OUT if self.count < _EVENTFD_MOST else Poll(0))


@dataclass
class Interest:
    """One line of an epoll set."""

    file: OpenFile
    events: int
    data: int
    seen: int = -1  # `changes` when it was reported last, for EPOLLET
    armed: bool = True  # for EPOLLONESHOT


EPOLLONESHOT: Final = 1 << 30
EPOLLET: Final = 1 << 31


@dataclass
class EventPoll(OpenFile):
    """An epoll set: epoll(7)."""

    interests: dict[int, Interest] = field(default_factory=dict)

    def ready(self, most: int) -> list[tuple[int, int]]:
        """(events, data) of what is ready, at most so many; they count as reported."""
        found: list[tuple[int, int]] = []
        for interest in self.interests.values():
            if len(found) == most:
                break
            news = int(interest.file.poll()) & (interest.events | Poll.ERR | Poll.HUP)
            if not news or not interest.armed:
                continue
            if interest.events & EPOLLET:
                if interest.seen == interest.file.changes:
                    continue
                interest.seen = interest.file.changes
            if interest.events & EPOLLONESHOT:
                interest.armed = False
            found.append((news, interest.data))
        return found

    def poll(self) -> Poll:
        """Readable while something in it is ready."""
        for interest in self.interests.values():
            if int(interest.file.poll()) & (interest.events | Poll.ERR | Poll.HUP):
                return Poll.IN
        return Poll(0)
