"""System calls side by side with the host kernel's: the same sequence, the same results and bytes.

Both sides have a page for arguments and results at DATA and free address space at FREE. The host
makes the calls in a process of its own.
"""

from __future__ import annotations

import json
import platform
import struct
import subprocess
import sys

import pytest
from small_computer import assemble, computer, start

from emulator.linux.open_file import S_IFREG, Input
from emulator.memory import Prot

if sys.platform != "linux" or platform.machine() != "x86_64":
    pytest.skip("the host is not Linux on x86-64", allow_module_level=True)

DATA = 0x2000_0000_0000
FREE = 0x2000_1000_0000
LONG = 0x80_0000  # room for more code
PAGE = 4096
MMAP, MPROTECT, MUNMAP, MADVISE, MINCORE = 9, 10, 11, 28, 27
READ, WRITE, CLOSE, FSTAT, LSEEK, IOCTL, WRITEV, PREAD, FCNTL = 0, 1, 3, 5, 8, 16, 20, 17, 72
PIPE2, EVENTFD2, EPOLL_CREATE1, EPOLL_CTL, EPOLL_WAIT, DUP3 = 293, 290, 291, 233, 232, 292
UNAME, GETRLIMIT, AFFINITY, OPENAT = 63, 97, 204, 257

ON_THE_HOST = """
import ctypes, json, mmap, os, sys
data, calls, text = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
assert libc.mmap(data, 4096, 3, 0x32, -1, 0) == data
ctypes.memmove(data, bytes.fromhex(text), len(text) // 2)
file = os.memfd_create("given")
os.write(file, b"0123456789")
os.lseek(file, 0, 0)
for fd in range(3, 10):
    if fd != file:
        try: os.close(fd)
        except OSError: pass
os.dup2(file, 3)
if file != 3: os.close(file)
results = []
for number, *arguments in calls:
    value = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(a % 2**64) for a in arguments])
    results.append(value if value != -1 else -ctypes.get_errno())
print(json.dumps([results, ctypes.string_at(data, 4096).hex()]))
"""

Call = tuple[int, ...]


def on_the_host(calls: list[Call], text: bytes) -> tuple[list[int], bytes]:
    ended = subprocess.run(
        [sys.executable, "-c", ON_THE_HOST],
        input=json.dumps([DATA, calls, text.hex()]),
        capture_output=True,
        text=True,
        check=True,
    )
    results, data = json.loads(ended.stdout)
    return results, bytes.fromhex(data)


def here(calls: list[Call], text: bytes) -> tuple[list[int], bytes]:
    code = ""
    for index, (number, *arguments) in enumerate(calls):
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments, strict=False):
            code += f"movabs {name}, {value % 2**64};"
        code += f"mov eax, {number}; syscall; mov [r15 + {8 * index}], rax;"
    results = 0x2100_0000_0000
    machine = computer({})
    for address, size in ((DATA, PAGE), (results, PAGE), (LONG, 4 * PAGE)):
        prot = Prot.RX if address == LONG else Prot.RW
        machine.cpu.attach(machine.memory.map("test", address, size, prot))
    machine.memory.write(DATA, text)
    machine.memory.write(LONG, assemble(code + "xor edi, edi; mov eax, 231; syscall", LONG))
    machine.linux.install(Input(S_IFREG | 0o600, 2, data=b"0123456789"))
    start(machine, LONG, R15=results)
    assert machine.run() == 0
    values = struct.unpack(f"<{len(calls)}q", machine.memory.read(results, 8 * len(calls)))
    return list(values), machine.memory.read(DATA, PAGE)


def agree(calls: list[Call], text: bytes = b"") -> tuple[list[int], bytes]:
    mine, theirs = here(calls, text), on_the_host(calls, text)
    assert mine[0] == theirs[0]
    assert mine[1] == theirs[1]
    return mine


ANON, FIXED, NOREPLACE = 0x22, 0x32, 0x100022


def test_mappings_are_made_replaced_protected_and_taken_back() -> None:
    agree(
        [
            (MMAP, FREE, 16 * PAGE, 0, ANON, -1, 0),
            (MMAP, FREE + 2 * PAGE, 2 * PAGE, 3, FIXED, -1, 0),
            (WRITE, 3, FREE, 1),  # EFAULT: nothing may be read there
            (READ, 3, FREE + 2 * PAGE, 4),
            (MPROTECT, FREE + 2 * PAGE, PAGE, 1),
            (READ, 3, FREE + 2 * PAGE, 4),  # EFAULT
            (MPROTECT, FREE + 2 * PAGE, PAGE, 3),
            (PREAD, 3, FREE + 2 * PAGE + 4, 4, 2),
            (MMAP, FREE + 2 * PAGE, PAGE, 3, FIXED, -1, 0),  # zero again
            (MUNMAP, FREE + PAGE, 2 * PAGE),
            (READ, 3, FREE + 2 * PAGE, 1),  # EFAULT: gone
            (READ, 3, FREE + 3 * PAGE, 1),
            (MPROTECT, FREE + PAGE, 3 * PAGE, 3),  # ENOMEM: a hole
            (MUNMAP, FREE, 16 * PAGE),
            (MUNMAP, FREE, 16 * PAGE),  # nothing is there: no error
            (MMAP, FREE, PAGE, 3, NOREPLACE, -1, 0),
            (MMAP, FREE, PAGE, 3, NOREPLACE, -1, 0),  # EEXIST
        ]
    )


def test_errors_are_the_hosts() -> None:
    agree(
        [
            (MMAP, 0, 0, 3, ANON, -1, 0),
            (MMAP, FREE + 1, PAGE, 3, FIXED, -1, 0),
            (MMAP, FREE, PAGE, 3, 0x20, -1, 0),
            (MMAP, FREE, 1 << 60, 3, ANON, -1, 0),
            (MMAP, 0, PAGE, 3, 2, 77, 0),
            (MUNMAP, FREE + 1, PAGE),
            (MUNMAP, FREE, 0),
            (MPROTECT, FREE + 1, PAGE, 3),
            (MPROTECT, FREE, PAGE, 3),
            (MPROTECT, FREE, 0, 3),
            (MADVISE, FREE, PAGE, 4),
            (MADVISE, FREE + 1, PAGE, 4),
            (MINCORE, FREE, PAGE, DATA),
            (READ, 77, DATA, 1),
            (READ, 3, 0x1000, 1),
            (WRITE, 77, DATA, 1),
            (CLOSE, 77),
            (FCNTL, 77, 3, 0),
            (FCNTL, 3, 12345, 0),
            (LSEEK, 3, -1, 0),
            (LSEEK, 3, 0, 9),
            (IOCTL, 3, 0x5401, DATA),
            (IOCTL, 77, 0x5401, DATA),
            (EVENTFD2, 0, 0x10),
            (PIPE2, DATA, 0x10),
            (PIPE2, 0x1000, 0),
            (EPOLL_WAIT, 3, DATA, 1, 0),
            (EPOLL_WAIT, 77, DATA, 1, 0),
            (DUP3, 3, 3, 0),
            (DUP3, 77, 5, 0),
            (UNAME, 0x1000),
            (GETRLIMIT, 99, DATA),
            (AFFINITY, 0, 7, DATA),
        ]
    )


def test_reading_positions_and_status_of_a_file() -> None:
    agree(
        [
            (READ, 3, DATA, 4),
            (LSEEK, 3, 0, 1),
            (LSEEK, 3, -2, 2),
            (READ, 3, DATA + 8, 100),
            (READ, 3, DATA + 16, 100),
            (PREAD, 3, DATA + 24, 3, 5),
            (LSEEK, 3, 100, 0),
            (READ, 3, DATA + 32, 1),
            (FCNTL, 3, 0, 8),  # F_DUPFD: 8 is the lowest
            (LSEEK, 8, 0, 1),  # shares the position
            (CLOSE, 3),
            (READ, 3, DATA, 1),
            (LSEEK, 8, 0, 0),
        ]
    )


def test_dev_null_has_one_position_and_nothing_at_it() -> None:
    agree(
        [
            (OPENAT, -100, DATA, 2, 0),
            (LSEEK, 4, 5, 0),
            (LSEEK, 4, 0, 1),
            (LSEEK, 4, -3, 9),
            (WRITE, 4, DATA, 4),
            (READ, 4, DATA + 64, 8),
            (PREAD, 4, DATA + 64, 8, 3),
            (PREAD, 4, DATA + 64, 8, -1),
        ],
        b"/dev/null\0",
    )


def test_pipes_have_two_ends_room_and_an_end() -> None:
    vector = struct.pack("<4Q", DATA + 256, 3, DATA + 300, 2)
    text = bytes(64) + vector + bytes(256 - 96) + b"abc" + bytes(41) + b"de"
    agree(
        [
            (PIPE2, DATA, 0o4000),  # O_NONBLOCK: 4 and 5
            (READ, 4, DATA + 8, 8),  # EAGAIN
            (WRITEV, 5, DATA + 64, 2),
            (READ, 4, DATA + 8, 3),
            (READ, 4, DATA + 16, 8),
            (READ, 5, DATA, 1),  # EBADF: not open for reading
            (WRITE, 4, DATA, 1),
            (FCNTL, 4, 3, 0),
            (LSEEK, 4, 0, 0),  # ESPIPE
            (CLOSE, 5),
            (READ, 4, DATA + 24, 1),  # the end
        ],
        text,
    )


def test_event_counters() -> None:
    text = struct.pack("<3Q", 5, 2**64 - 2, 2**64 - 1)
    agree(
        [
            (EVENTFD2, 3, 0o4000),
            (WRITE, 4, DATA, 8),
            (READ, 4, DATA + 32, 8),
            (READ, 4, DATA + 40, 8),  # EAGAIN
            (WRITE, 4, DATA + 16, 8),  # EINVAL
            (WRITE, 4, DATA + 8, 8),
            (WRITE, 4, DATA, 8),  # EAGAIN
            (READ, 4, DATA + 40, 7),  # EINVAL
            (EVENTFD2, 2, 0o4001),  # a semaphore
            (READ, 5, DATA + 48, 8),
            (READ, 5, DATA + 56, 8),
            (READ, 5, DATA + 64, 8),
        ],
        text,
    )


def event(events: int, data: int) -> bytes:
    return struct.pack("<IQ", events, data)


EPOLLIN, EPOLLOUT, EPOLLET, ONESHOT = 1, 4, 1 << 31, 1 << 30


@pytest.mark.parametrize("mode", [0, EPOLLET, ONESHOT])
def test_epoll_reports_what_is_ready_by_level_by_edge_or_once(mode: int) -> None:
    text = event(EPOLLIN | EPOLLOUT | mode, 0x1234_5678_9ABC) + bytes(4) + struct.pack("<Q", 1)
    wait = (EPOLL_WAIT, 4, DATA + 64, 8, 0)
    agree(
        [
            (EPOLL_CREATE1, 0),
            (EVENTFD2, 0, 0o4000),
            (EPOLL_CTL, 4, 1, 3, DATA),  # EPERM: a regular file
            (EPOLL_CTL, 4, 1, 5, DATA),
            (EPOLL_CTL, 4, 1, 5, DATA),  # EEXIST
            (EPOLL_CTL, 4, 3, 1000, DATA),  # EBADF
            wait,
            wait,
            (WRITE, 5, DATA + 16, 8),
            wait,
            wait,
            (READ, 5, DATA + 128, 8),
            wait,
            (EPOLL_CTL, 4, 3, 5, DATA),  # a change arms it again
            wait,
            (EPOLL_CTL, 4, 2, 5, 0),
            (EPOLL_CTL, 4, 2, 5, 0),  # ENOENT
            wait,
        ],
        text,
    )


def test_epoll_sees_the_end_of_a_pipe() -> None:
    wait = (EPOLL_WAIT, 4, DATA + 64, 8, 0)
    agree(
        [
            (EPOLL_CREATE1, 0),
            (PIPE2, DATA + 32, 0o4000),
            (EPOLL_CTL, 4, 1, 5, DATA),
            wait,
            (WRITE, 6, DATA, 1),
            wait,
            (CLOSE, 6),
            wait,
            (READ, 5, DATA + 200, 1),
            wait,
            (CLOSE, 5),
            wait,
        ],
        event(EPOLLIN | EPOLLET, 7),
    )
