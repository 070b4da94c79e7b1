"""What the guest sees of the outside: nothing, whatever it tries; and the host sees nothing of it.

Errors are those of the manual pages (open(2), kill(2), mmap(2) …), by the host's own numbers. What
Python does on the guest's behalf is heard of by an audit hook (PEP 578): files, sockets, processes.
"""

from __future__ import annotations

import struct
import sys
from errno import (
    EACCES,
    EAGAIN,
    EBADF,
    EEXIST,
    EFAULT,
    EINVAL,
    EISDIR,
    ENOENT,
    ENOMEM,
    ENOSYS,
    ENOTDIR,
    EPERM,
    ERANGE,
    EROFS,
    ESRCH,
)
from typing import TYPE_CHECKING

import pytest
from small_computer import assemble, computer, start

from emulator.fault import GuestStopped
from emulator.linux import clone, mm
from emulator.linux.syscalls import TABLE
from emulator.linux.tree import Tree
from emulator.memory import Prot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emulator.machine import Machine

DATA = 0x2000_0000_0000
RESULTS = 0x2100_0000_0000
CODE = 0x80_0000
PAGE = 4096
OPEN, OPENAT, ACCESS, STATAT, READLINKAT, FACCESSAT = 2, 257, 21, 262, 267, 269
READ, WRITE, WRITEV, DUP3, LSEEK, GETDENTS, GETCWD, CHDIR = 0, 1, 20, 292, 8, 217, 79, 80
MMAP, MPROTECT, MUNMAP, MINCORE, BRK = 9, 10, 11, 27, 12
KILL, TKILL, TGKILL, PRLIMIT, AFFINITY, CLONE = 62, 200, 234, 302, 204, 56
O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE = 1, 2, 0o100, 0o1000, 0o20200000
O_DIRECTORY = 0o200000
AT_FDCWD = -100
PRIVATE, FIXED, NOREPLACE = 0x22, 0x10, 0x100000
RW, RX = 3, 5
GIVEN = "/given"

# Whatever of Python's own doings reaches the host outside of this process.
OUTSIDE = ("open", "socket.", "subprocess.", "os.", "shutil.", "tempfile.", "pty.", "winreg.")
_heard: list[str] | None = None


def _hear(event: str, _arguments: object) -> None:
    if _heard is not None and event.startswith(OUTSIDE):
        _heard.append(event)


sys.addaudithook(_hear)


def heard(machine: Machine) -> list[str]:
    """What Python did on the host while the machine ran to its end."""
    global _heard  # noqa: PLW0603  # a hook cannot be taken back
    _heard = []
    try:
        assert machine.run() == 0
    finally:
        found, _heard = _heard, None
    return found


def asking(
    calls: list[tuple[int, ...]],
    texts: Mapping[int, str | bytes],
    files: Mapping[str, bytes] = {GIVEN: b"content"},  # never changed
) -> Machine:
    """A machine that makes these calls; texts by offset in a page of data."""
    code = ""
    for index, (number, *arguments) in enumerate(calls):
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments, strict=False):
            code += f"movabs {name}, {value % 2**64};"
        code += f"mov eax, {number}; syscall; mov [r15 + {8 * index}], rax;"
    machine = computer({})
    for address, size, prot in (
        (DATA, PAGE, Prot.RW),
        (RESULTS, 4 * PAGE, Prot.RW),
        (CODE, 16 * PAGE, Prot.RX),
    ):
        machine.cpu.attach(machine.memory.map("test", address, size, prot))
    for offset, text in texts.items():
        data = text.encode() + b"\0" if isinstance(text, str) else text
        machine.memory.write(DATA + offset, data)
    machine.memory.write(CODE, assemble(code + "xor edi, edi; mov eax, 231; syscall", CODE))
    machine.linux.tree = Tree(files)
    machine.linux.memory_limit = 64 << 20
    machine.linux.output_limit = 1 << 20
    machine.linux.enosys = True
    start(machine, CODE, R15=RESULTS)
    return machine


def results(machine: Machine, count: int) -> list[int]:
    return list(struct.unpack(f"<{count}q", machine.memory.read(RESULTS, 8 * count)))


def outcome(calls: list[tuple[int, ...]], texts: dict[int, str | bytes] | None = None) -> list[int]:
    machine = asking(calls, texts or {})
    assert heard(machine) == []
    return results(machine, len(calls))


def test_no_path_of_the_host_exists() -> None:
    paths = (
        "/etc/passwd", "/proc/self/maps", "/proc/1/environ", "/dev/mem", "/sys/kernel",
        "../../etc/passwd", "//etc/passwd", "/dev/../etc/passwd", sys.executable,
        "/dev/stdout", "/dev/fd/1", "/proc/self/exe", "",
    )  # fmt: skip
    for path in paths:
        found = outcome(
            [
                (OPEN, DATA, 0, 0),
                (OPENAT, AT_FDCWD, DATA, 0, 0),
                (OPENAT, AT_FDCWD, DATA, O_RDWR, 0),
                (OPEN, DATA, O_TMPFILE | O_RDWR, 0o600),
                (ACCESS, DATA, 0),
                (FACCESSAT, AT_FDCWD, DATA, 0),
                (STATAT, AT_FDCWD, DATA, DATA + 2048, 0),
                (READLINKAT, AT_FDCWD, DATA, DATA + 2048, 100),
            ],
            {0: path},
        )
        assert found == [-ENOENT] * 8, path


def entries(data: bytes) -> dict[str, int]:
    """Names and types of struct linux_dirent64: d_ino, d_off, d_reclen, d_type, d_name."""
    found = {}
    while data:
        size, kind = struct.unpack_from("<HB", data, 16)
        found[data[19:size].partition(b"\0")[0].decode()] = kind
        data = data[size:]
    return found


def test_directories_hold_what_was_handed_in_and_nothing_else() -> None:
    """getdents64(2): DT_DIR is 4, DT_REG 8, DT_CHR 2; too little room is EINVAL."""
    files = {GIVEN: b"content", "/a//b/../c/one": b"1", "/a/c/two": b"22"}
    expected = {
        "/": {".": 4, "..": 4, "a": 4, "dev": 4, "given": 8},
        "a/.././a/c/": {".": 4, "..": 4, "one": 8, "two": 8},
        "dev": {".": 4, "..": 4, "null": 2},
    }
    for path, inside in expected.items():
        calls = [(OPEN, DATA, O_DIRECTORY, 0), (GETDENTS, 3, DATA + 64, 8)]
        calls += [(GETDENTS, 3, DATA + 64 + 512 * index, 56) for index in range(4)]
        calls += [(READ, 3, DATA + 2048, 8), (LSEEK, 3, 0, 0), (GETDENTS, 3, DATA + 3072, 1024)]
        machine = asking(calls, {0: path}, files)
        assert heard(machine) == []
        fd, too_little, *parts, read, start, whole = results(machine, len(calls))
        assert (fd, too_little, read, start) == (3, -EINVAL, -EISDIR, 0)
        assert parts[3] == 0
        pieces = [machine.memory.read(DATA + 64 + 512 * i, parts[i]) for i in range(3)]
        assert b"".join(pieces) == machine.memory.read(DATA + 3072, whole)
        assert entries(b"".join(pieces)) == inside


def test_paths_are_looked_up_as_path_resolution_has_it() -> None:
    """From the root, the working directory (chdir), or a directory that is open."""
    texts = {0: "/a/b", 64: "../b/./one", 128: "one/", 192: "/a/b/one/..", 256: "one", 320: "/a"}
    calls = [
        (OPEN, DATA, 0, 0),
        (OPENAT, 3, DATA + 64, 0, 0), (OPEN, DATA + 64, 0, 0),
        (CHDIR, DATA), (OPEN, DATA + 64, 0, 0), (GETCWD, DATA + 512, 4), (GETCWD, DATA + 512, 5),
        (OPEN, DATA + 128, 0, 0), (OPEN, DATA + 192, 0, 0), (OPENAT, 4, DATA + 256, 0, 0),
        (OPENAT, 77, DATA + 256, 0, 0), (OPENAT, 77, DATA, 0, 0), (CHDIR, DATA + 256),
        (OPEN, DATA + 320, O_RDWR, 0), (OPEN, DATA + 320, O_TMPFILE | O_RDWR, 0),
        (OPEN, DATA + 256, O_DIRECTORY, 0), (ACCESS, DATA + 320, 5), (ACCESS, DATA + 256, 1),
        (ACCESS, DATA + 320, 2), (84, DATA + 320), (83, DATA + 320, 0o777),
    ]  # fmt: skip
    machine = asking(calls, texts, {"/a/b/one": b"1"})
    assert heard(machine) == []
    assert results(machine, len(calls)) == [
        3,
        4, -ENOENT,
        0, 5, -ERANGE, 5,
        -ENOTDIR, -ENOTDIR, -ENOTDIR,
        -EBADF, 6, -ENOTDIR,
        -EISDIR, -EROFS,
        -ENOTDIR, 0, -EACCES,
        -EROFS, -EROFS, -EEXIST,
    ]  # fmt: skip
    assert machine.memory.read(DATA + 512, 5) == b"/a/b\0"
    twin = asking(calls, texts, {"/a/b/one": b"1"})
    twin.set_state(machine.state())
    assert twin.linux.cwd == machine.linux.cwd == "/a/b"


def test_stat_tells_the_same_of_a_path_and_of_what_is_open() -> None:
    calls = [(OPEN, DATA, 0, 0), (5, 3, DATA + 1024), (STATAT, AT_FDCWD, DATA, DATA + 2048, 0)]
    inodes = set()
    for path, mode in (("/", 0o040555), ("/given", 0o100444), ("/dev/null", 0o020666)):
        machine = asking(calls, {0: path})
        assert heard(machine) == []
        assert results(machine, 3) == [3, 0, 0]
        found = machine.memory.read(DATA + 1024, 144)
        assert found == machine.memory.read(DATA + 2048, 144)
        _, inode, _, shown = struct.unpack_from("<QQQI", found)
        inodes.add(inode)
        assert oct(shown) == oct(mode)
    assert len(inodes) == 3


def test_nothing_can_be_made_or_changed() -> None:
    made = outcome(
        [(OPEN, DATA, O_CREAT | O_WRONLY, 0o644), (OPENAT, AT_FDCWD, DATA, O_CREAT, 0o644)],
        {0: "/tmp/escaped"},
    )
    assert made == [-EROFS, -EROFS]
    calls = [
        (OPEN, DATA, flags, 0) for flags in (O_WRONLY, O_RDWR, O_TRUNC, O_CREAT | O_RDWR, O_CREAT)
    ]
    found = outcome(
        [*calls, (ACCESS, DATA, 2), (OPEN, DATA, 0, 0), (WRITE, 3, DATA, 4)], {0: GIVEN}
    )
    assert found == [-EROFS] * 6 + [3, -EBADF]


def test_paths_are_neither_made_nor_changed() -> None:
    """mkdir(2), unlink(2), rename(2) … on a read-only file system."""
    other = DATA + 1024
    calls = [
        (83, DATA, 0o777), (258, AT_FDCWD, DATA, 0o777), (88, other, DATA), (266, other, 0, DATA),
        (87, DATA), (263, 0, DATA, 0), (82, DATA, other), (264, 0, DATA, 0, other),
        (316, 0, DATA, 0, other, 0), (86, DATA, other), (265, 0, DATA, 0, other, 0),
        (76, DATA, 0), (90, DATA, 0o777), (268, 0, DATA, 0o777), (84, DATA), (80, DATA),
    ]  # fmt: skip
    missing = outcome(calls, {0: "/tmp/x", 1024: "/tmp/y"})
    assert missing == [-EROFS] * 4 + [-ENOENT] * 12
    there = outcome(calls, {0: GIVEN, 1024: "/tmp/y"})
    assert there == [-EEXIST] * 4 + [-EROFS] * 10 + [-ENOTDIR] * 2
    assert outcome([(80, DATA)], {0: "/"}) == [0]


def test_no_descriptor_of_the_host_is_open() -> None:
    machine = asking([(READ, fd, DATA, 1) for fd in range(3, 80)], {})
    assert heard(machine) == []
    assert results(machine, 77) == [-EBADF] * 77
    assert outcome([(DUP3, 1, 5000, 0), (WRITE, 1 << 31, DATA, 1)]) == [-EBADF, -EBADF]


def test_there_is_no_other_process() -> None:
    for other in (1, 2, 999, 1001, -1, -999):
        assert outcome([(KILL, other, 9)]) == [-ESRCH]
    found = outcome(
        [
            (TGKILL, 1, 1, 9),
            (TKILL, 1, 9),
            (PRLIMIT, 1, 7, 0, DATA),
            (AFFINITY, 1, 8, DATA),
        ]
    )
    assert found == [-ESRCH] * 4


def test_every_call_that_is_not_modelled_is_enosys_or_ends_the_run() -> None:
    """Sockets, execve, fork, ptrace, mount, bpf, io_uring and all others up to number 511."""
    numbers = [number for number in range(512) if number not in TABLE]
    assert {41, 42, 49, 57, 58, 59, 101, 155, 165, 321, 322, 425, 435} <= set(numbers)
    assert outcome([(number, 1, DATA, DATA, 0, 0, 0) for number in numbers]) == [-ENOSYS] * len(
        numbers
    )
    machine = asking([(41, 2, 1, 0)], {})
    machine.linux.enosys = False
    with pytest.raises(
        GuestStopped, match=r"system call 41 \(socket\) at 0x8000\w+ is not modelled"
    ):
        machine.run()


def test_a_clone_that_is_no_thread_is_not_made() -> None:
    sigchld, vfork = 17, 0x4000 | 0x100 | 17
    assert outcome([(CLONE, sigchld, 0, 0, 0, 0), (CLONE, vfork, 0, 0, 0, 0)]) == [-ENOSYS] * 2


def test_threads_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone, "MOST_THREADS", 3)
    machine = asking([(CLONE, 0x50F00, DATA + PAGE, 0, 0, 0)] * 3, {})
    assert heard(machine) == []  # each thread makes the calls that are left
    assert len(machine.linux.threads) == 3
    assert -EAGAIN in results(machine, 3)


def test_huge_maps_are_refused_and_those_that_are_not_take_nothing() -> None:
    huge, limit = 1 << 46, 64 << 20
    found = outcome(
        [
            (MMAP, 0, huge, RW, PRIVATE, -1, 0),
            (MMAP, 0, 1 << 47, 0, PRIVATE, -1, 0),
            (MMAP, 0, 2**64 - PAGE, 0, PRIVATE, -1, 0),
            (MMAP, 0, huge, 0, PRIVATE, -1, 0),  # no room for so much at once
            (MMAP, 0, huge, RX, PRIVATE, -1, 0),
            (MMAP, 0, limit + PAGE, RW, PRIVATE, -1, 0),
            (MMAP, 0, PAGE, 1, 2, 0, 0),  # of a file
            (MMAP, 0, PAGE, 1, 2, 77, 0),
            (MMAP, PAGE, PAGE, RW, PRIVATE | FIXED, -1, 0),
            (MMAP, DATA, PAGE, RW, PRIVATE | NOREPLACE, -1, 0),
            (BRK, huge),
        ]
    )
    assert found[:6] == [-ENOMEM] * 6
    assert found[6:10] == [-ENOSYS, -EBADF, -EPERM, -EEXIST]
    assert found[10] == 0
    # Reserved memory is there, and takes nothing before it is touched.
    reserved = [(MMAP, 0, 1 << 40, 0, PRIVATE, -1, 0), (MPROTECT, 0x7E00_0000_0000, 1 << 40, RW)]
    assert outcome(reserved) == [0x7E00_0000_0000, -ENOMEM]


def test_memory_that_was_written_counts_until_it_is_given_back() -> None:
    half, at = 33 << 20, 0x3000_0000_0000
    first = (MMAP, at, half, RW, PRIVATE, -1, 0)
    second = (MMAP, 0, half, RW, PRIVATE, -1, 0)
    assert outcome([first, second])[1] == -ENOMEM
    assert outcome([first, (MPROTECT, at, half, 1), second])[1:] == [0, -ENOMEM]
    over = (MMAP, at, half, 0, PRIVATE | FIXED, -1, 0)
    assert outcome([first, (MPROTECT, at, half, 1), over, second])[3] > 0
    assert outcome([first, (MUNMAP, at, half), second])[2] > 0


def test_pieces_of_memory_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mm, "MAX_MAP_COUNT", 12)
    found = outcome([(MMAP, 0, PAGE, 1, PRIVATE, -1, 0)] * 12)
    assert found[-1] == -ENOMEM
    assert found[0] > 0


def test_what_the_host_has_no_address_space_for_is_enomem(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [(MMAP, 0, 1 << 40, 0, PRIVATE, -1, 0), (READ, 0, DATA, 1)]
    machine = asking(calls, {})

    def full(*_: object, **__: object) -> None:
        raise OSError(ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(machine.memory, "map", full)
    assert heard(machine) == []
    assert results(machine, 2) == [-ENOMEM, 0]


def test_answers_as_long_as_the_address_space_are_not_made() -> None:
    """mincore(2) of a terabyte, and 1024 pieces of a gibibyte each by writev(2)."""
    at = 0x3000_0000_0000
    vector = struct.pack("<QQ", at, 1 << 30) * 128
    machine = asking(
        [
            (MMAP, at, 1 << 40, 1, PRIVATE, -1, 0),
            (MINCORE, at, 1 << 40, DATA),
            (MINCORE, at + 1, PAGE, DATA),
        ],
        {},
    )
    assert heard(machine) == []
    assert results(machine, 3) == [at, -EFAULT, -EINVAL]
    machine = asking([(MMAP, at, 1 << 40, 1, PRIVATE, -1, 0), (WRITEV, 1, DATA, 128)], {0: vector})
    with pytest.raises(GuestStopped, match="more than 1048576 bytes of output"):
        machine.run()
    assert len(machine.linux.output[1]) == (1 << 20) + 1


@pytest.mark.parametrize("fd", [1, 2])
def test_endless_output_ends_the_run(fd: int) -> None:
    machine = asking([(WRITE, fd, DATA, PAGE)], {})
    machine.memory.write(CODE, assemble(f"l: mov edi, {fd}; movabs rsi, {DATA}; mov edx, {PAGE};"
                                        "mov eax, 1; syscall; jmp l", CODE))  # fmt: skip
    with pytest.raises(GuestStopped, match="more than 1048576 bytes of output"):
        machine.run()
    assert len(machine.linux.output[fd]) == (1 << 20) + 1
