"""`pushcall run BINARY --gdb PORT`: gdb, or whatever speaks its protocol, in control of the run."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from pushcall.usage import UsageError

if TYPE_CHECKING:
    from socket import socket

    from emulator.linux.threads import Thread
    from runtime_model.booted import Booted


def listen(port: int) -> socket:
    """A socket on that port of this host, which no other host can reach; 0 is any port."""
    from emulator.gdb import remote as gdb_remote

    try:
        return gdb_remote.listen(port)
    except OSError as error:
        raise UsageError(f"--gdb {port}: {error.strerror}") from None


def run(booted: Booted, server: socket) -> int | None:
    """As Machine.run, when gdb has connected, and as far as it says."""
    from emulator.gdb.remote import GdbRemote
    from pushcall.show import show

    path = str(booted.binary.path.resolve())
    with server:
        target = f"target remote localhost:{server.getsockname()[1]}"
        show([f'waiting for gdb: gdb {shlex.quote(path)} -ex "{target}"'], sys.stderr)
        sys.stderr.flush()
        stream, _ = server.accept()

    def extra(thread: Thread) -> str:
        m, g = booted.identity(thread.tid)
        frames = booted.frames(thread.registers["RIP"])
        where = f", {frames[0].function}" if frames else ""
        return (f"M{m} G{g}" if m >= 0 else "no M") + where

    return GdbRemote(booted.machine, stream, path, extra).run()
