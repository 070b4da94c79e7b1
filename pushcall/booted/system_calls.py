"""System calls of a booted executable as reports tell them: who makes one, and what it asks for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from emulator.linux.errno import Errno
from emulator.linux.namei import AT_FDCWD, PATH_MAX
from emulator.linux.uaccess import AccessFault, copy_from_user, get_string

if TYPE_CHECKING:
    from emulator.events import SystemCall
    from emulator.memory import Memory
    from emulator.registers import Registers
    from runtime_model.booted import Booted
    from runtime_model.func_info import Frame

# How the import paths of packages end that make system calls for others; the last since Go 1.26.
_WRAPPERS: Final = ("/syscall", "/unix", "/syscall/linux")

MOST_SHOWN: Final = 32  # bytes of what is written, as strace's -s has it
_ERRORS: Final = frozenset(Errno)
# Which arguments are no plain numbers: p a path, d a descriptor, b bytes, as many as the next says.
_ARGUMENTS: Final = {
    "read": "d", "write": "db", "open": "p", "close": "d", "fstat": "d", "lseek": "d",
    "stat": "p", "lstat": "p", "mmap": "....d", "ioctl": "d", "pread64": "d", "writev": "d",
    "access": "p", "fcntl": "d", "truncate": "p", "chdir": "p", "rename": "pp", "mkdir": "p",
    "rmdir": "p", "link": "pp", "unlink": "p", "symlink": "pp", "chmod": "p", "epoll_wait": "d",
    "epoll_ctl": "d.d", "openat": "dp", "mkdirat": "dp", "newfstatat": "dp", "unlinkat": "dp",
    "renameat": "dpdp", "linkat": "dpdp", "symlinkat": "pdp", "readlinkat": "dp",
    "fchmodat": "dp", "faccessat": "dp", "getdents64": "d", "epoll_pwait": "d", "dup3": "dd",
    "renameat2": "dpdp",
}  # fmt: skip


def maker(booted: Booted, registers: Registers) -> Frame | None:
    """The innermost function that is no mere wrapper of the system call behind which RIP is."""
    pcs = (registers["RIP"], *booted.return_pcs(registers))
    frames = [frame for pc in pcs for frame in booted.frames(pc - 1)]
    own = (frame for frame in frames if not _package(frame.function).endswith(_WRAPPERS))
    return next(own, frames[0] if frames else None)


def _package(function: str) -> str:
    path, _, name = function.rpartition("/")
    return f"{path}/{name.partition('.')[0]}"


def place(frame: Frame | None) -> str:
    """Function and source line."""
    if frame is None:
        return "no Go code"
    return f"{frame.function} ({frame.file.rpartition('/')[2]}:{frame.line})"


def call_text(memory: Memory, event: SystemCall) -> str:
    """A system call as strace(1) writes it, but for flags, structures and the sign of errors."""
    kinds = _ARGUMENTS.get(event.name, "")
    shown = []
    for index, argument in enumerate(event.args):
        kind = kinds[index : index + 1]
        try:
            if kind == "p":
                shown.append(_quoted(get_string(memory, argument, PATH_MAX)))
            elif kind == "b":
                size = event.args[index + 1]
                text = _quoted(copy_from_user(memory, argument, min(size, MOST_SHOWN)))
                shown.append(text + "..." * (size > MOST_SHOWN))
            elif kind == "d":
                fd = argument & 0xFFFF_FFFF
                signed = (fd ^ 1 << 31) - (1 << 31)
                shown.append("AT_FDCWD" if fd == AT_FDCWD else str(signed))
            else:
                shown.append(_number(argument))
        except AccessFault:
            shown.append(_number(argument))
    return f"{event.name}({', '.join(shown)}) = {_result(event.result)}"


def _quoted(data: bytes) -> str:
    return json.dumps(data.decode("utf-8", "replace"), ensure_ascii=False)


def _number(value: int) -> str:
    return f"{value:#x}" if value > 9999 else str(value)


def _result(value: int | None) -> str:
    if value is None:
        return "?"
    if -value in _ERRORS:
        return f"-{Errno(-value).name}"
    return _number(value)
