"""Packets of gdb's remote serial protocol, and its numbers of signals.

Specified in "Debugging with GDB", appendix "GDB Remote Serial Protocol": Overview (framing,
escapes), Packet Acknowledgment, Interrupts. Signal numbers: gdb's include/gdb/signals.def, which
are not the kernel's.
"""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING, Final

from emulator.linux.signal_abi import NSIG, SIGRTMIN, Signal

if TYPE_CHECKING:
    import socket

INTERRUPT: Final = 0x03
LONGEST: Final = 1 << 15  # bytes of a packet; gdb is told to send shorter ones
_ESCAPE: Final = 0x7D
_ESCAPED: Final = frozenset(b"#$}*")

_GDB_ORDER: Final = (
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "", "SIGFPE", "SIGKILL",
    "SIGBUS", "SIGSEGV", "SIGSYS", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGURG", "SIGSTOP", "SIGTSTP",
    "SIGCONT", "SIGCHLD", "SIGTTIN", "SIGTTOU", "SIGIO", "SIGXCPU", "SIGXFSZ", "SIGVTALRM",
    "SIGPROF", "SIGWINCH", "", "SIGUSR1", "SIGUSR2", "SIGPWR",
)  # fmt: skip
UNKNOWN: Final = 143  # GDB_SIGNAL_UNKNOWN

_TO_GDB: Final[dict[int, int]] = (
    {int(Signal[name]): number for number, name in enumerate(_GDB_ORDER, 1) if name}
    | {signo: signo + 12 for signo in range(SIGRTMIN + 1, NSIG)}
    | {SIGRTMIN: 77, NSIG: 78}
)
_FROM_GDB: Final = {number: signo for signo, number in _TO_GDB.items()}


def to_gdb(signo: int) -> int:
    """The number that gdb gives a signal."""
    return _TO_GDB.get(signo, UNKNOWN)


def from_gdb(number: int) -> int | None:
    """The kernel's number of one of gdb's; None where Linux has no such signal."""
    return _FROM_GDB.get(number)


class DisconnectedError(Exception):
    """gdb has gone, or sends what no gdb sends."""


class Connection:
    """One gdb, on a connected socket."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._received = bytearray()
        self.acknowledging = True  # until QStartNoAckMode

    def close(self) -> None:
        """Ends it."""
        self._stream.close()

    def receive(self) -> bytes:
        """The next packet's data, with escapes undone; interrupts and acknowledgments are dropped.

        Raises DisconnectedError.
        """
        while True:
            if self._byte() != ord("$"):
                continue
            data = bytearray()
            total = 0
            while (byte := self._byte()) != ord("#"):
                total += byte
                if byte == _ESCAPE:
                    byte = self._byte()
                    total += byte
                    byte ^= 0x20
                data.append(byte)
                if len(data) > LONGEST:
                    raise DisconnectedError
            digits = bytes((self._byte(), self._byte()))
            right = digits.lower() == b"%02x" % (total & 0xFF)
            if self.acknowledging:
                with contextlib.suppress(DisconnectedError):  # its last packet, "k" perhaps
                    self._send(b"+" if right else b"-")
            if right:
                return bytes(data)

    def send(self, data: bytes) -> None:
        """Sends a packet, again until gdb has acknowledged it; raises DisconnectedError."""
        escaped = b"".join(
            bytes((_ESCAPE, byte ^ 0x20)) if byte in _ESCAPED else bytes((byte,)) for byte in data
        )
        packet = b"$%b#%02x" % (escaped, sum(escaped) & 0xFF)
        self._send(packet)
        while self.acknowledging:
            answer = self._byte()
            if answer == ord("$"):  # it has gone on, so it has understood
                self._received.insert(0, answer)
                return
            if answer == ord("+"):
                return
            if answer == ord("-"):
                self._send(packet)

    def interrupted(self) -> bool:
        """Whether gdb has sent a Ctrl-C, without waiting; raises DisconnectedError."""
        while select.select([self._stream], [], [], 0)[0]:
            self._fill()
        if INTERRUPT not in self._received:
            return False
        self._received.clear()  # while the program runs nothing else is sent
        return True

    def _byte(self) -> int:
        if not self._received:
            self._fill()
        byte = self._received[0]
        del self._received[:1]
        return byte

    def _fill(self) -> None:
        try:
            data = self._stream.recv(65536)
        except OSError:
            data = b""
        if not data:
            raise DisconnectedError
        self._received += data

    def _send(self, data: bytes) -> None:
        try:
            self._stream.sendall(data)
        except OSError:
            raise DisconnectedError from None
