"""Error numbers of Linux on x86-64 (include/uapi/asm-generic/errno-base.h, errno.h).

The host's own `errno` module will not do: other systems number these differently.
"""

from __future__ import annotations

from enum import IntEnum


class Errno(IntEnum):
    """What a failed system call returns, negated, in RAX."""

    EPERM = 1
    ENOENT = 2
    ESRCH = 3
    EINTR = 4
    EBADF = 9
    EAGAIN = 11
    ENOMEM = 12
    EACCES = 13
    EFAULT = 14
    EBUSY = 16
    EEXIST = 17
    ENOTDIR = 20
    EISDIR = 21
    EINVAL = 22
    EMFILE = 24
    ENOTTY = 25
    ESPIPE = 29
    EROFS = 30
    EPIPE = 32
    ERANGE = 34
    ENOSYS = 38
    EAFNOSUPPORT = 97
    ETIMEDOUT = 110
