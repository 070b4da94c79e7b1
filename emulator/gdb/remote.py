"""gdb in control of a machine: the stub's side of the remote serial protocol.

Specified in "Debugging with GDB", appendix "GDB Remote Serial Protocol": Packets, Stop Reply
Packets, General Query Packets. Threads are the process's, by tid; all of them stop together.

What gdb does not change goes on as it would without it: breakpoints are no instructions in the
guest's code, and it is virtual time that says which thread is next, also while gdb steps one alone.
Such a step is over where another thread, whose turn it is, would stop for gdb: it then has not
moved, and gdb meets the other one's stop when it goes on.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from emulator.cpu import Access, DataBreakpoint
from emulator.fault import GuestStopped
from emulator.gdb import target as gdb_target
from emulator.gdb.inspection import PACKET_SIZE, BadPacketError, Inspection
from emulator.gdb.packets import Connection, DisconnectedError, from_gdb, to_gdb
from emulator.linux import signals
from emulator.linux.errno import Errno
from emulator.linux.signal_abi import HELD, SI_TKILL, SigInfo, Signal
from emulator.linux.signals import GuestKilled
from emulator.memory import UnmappedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.linux.threads import Thread
    from emulator.machine import Machine

LOOPBACK: Final = "127.0.0.1"
POLL: Final = 5_000_000  # instructions between two looks for a Ctrl-C from gdb

_WATCHES: Final = {  # Z packets: whether reads and writes count, and the stop reply's name
    "2": (False, True, "watch"),
    "3": (True, False, "rwatch"),
    "4": (True, True, "awatch"),
}
_EXPEDITED: Final = tuple(
    i for i, (name, _) in enumerate(gdb_target.REGISTERS) if name in ("rbp", "rsp", "rip")
)


def listen(port: int) -> socket.socket:
    """A socket that gdb on this host can connect to; raises OSError where the port is taken."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOOPBACK, port))
        server.listen(1)
    except OSError:
        server.close()
        raise
    return server


class KilledByGdb(GuestStopped):
    """gdb was asked to kill the program."""


@dataclass
class _Step:
    """A thread that is to execute one instruction, or those until it has left a range."""

    begun: int  # Thread.user_instructions
    start: int = 0
    end: int = 0


@dataclass
class _Resumption:
    """What the last vCont packet asked for."""

    steps: dict[int, _Step] = field(default_factory=dict)  # by tid
    alone: int | None = None  # the only thread that gdb wants to run
    signals: dict[int, int] = field(default_factory=dict)  # by tid, gdb's numbers


class GdbRemote(Inspection):
    """One gdb on one machine, from before its first instruction.

    `path` is the executable's on the host, which gdb reads for itself. `extra` tells what gdb's
    `info threads` shows beside a thread.
    """

    def __init__(
        self,
        machine: Machine,
        stream: socket.socket,
        path: str = "",
        extra: Callable[[Thread], str] = lambda thread: thread.state.value,
    ) -> None:
        super().__init__(machine, path, extra)
        self.breakpoints: set[int] = set()
        self._kinds: dict[int, str] = {}  # of breakpoints, as stop replies name them
        self.connection = Connection(stream)
        self._reason = "05"
        self._removed: set[int] = set()  # breakpoints taken out since the last resumption
        self._watched: dict[tuple[str, int, int], DataBreakpoint] = {}
        self._resumption = _Resumption()
        self._held: dict[int, SigInfo] = {}  # told to gdb, by tid
        self._passed: frozenset[int] = frozenset()  # signals that gdb need not be told of
        self._poll_at = 0
        self._failure: GuestStopped | None = None
        self._handlers |= {
            "?": lambda _text, _data: self._stop_reply(),
            "Z": self._insert,
            "z": self._remove,
            "Q": self._set,
        }
        machine.debug(self)
        machine.timer = self

    def run(self) -> int | None:
        """As Machine.run, but when and how far is what gdb says, until it detaches or goes."""
        try:
            while True:
                packet = self.connection.receive()
                ended = self._handle(packet)
                if ended is not None:
                    return ended
        except DisconnectedError:
            pass
        finally:
            self._detach()
        if self._failure is not None:
            raise self._failure
        return self.machine.run()

    def _detach(self) -> None:
        self.machine.debug(None)
        self.machine.timer = None
        self.connection.close()

    def _handle(self, packet: bytes) -> int | None:
        """Answers one packet; the exit status where the program ends."""
        text = packet.decode("latin-1")
        kind = text[:1]
        if kind == "k" or text.startswith("vKill"):
            if kind != "k":
                self.connection.send(b"OK")
            raise KilledByGdb("killed by gdb")
        if kind == "D":
            self.connection.send(b"OK")
            raise DisconnectedError
        answer: str | bytes = ""
        try:
            actions = self._actions(text)
        except ValueError:
            actions, kind, answer = None, "", f"E{Errno.EINVAL:02x}"
        if actions is not None:
            return self._resume(actions)
        if kind in self._handlers:
            try:
                answer = self._handlers[kind](text[1:], packet[1:])
            except BadPacketError as error:
                answer = f"E{error.errno:02x}"
            except UnmappedError:
                answer = f"E{Errno.EFAULT:02x}"
            except ValueError:
                answer = f"E{Errno.EINVAL:02x}"
        elif text == "vCont?":
            answer = "vCont;c;C;s;S;r"
        self.connection.send(answer.encode("latin-1") if isinstance(answer, str) else answer)
        if text == "QStartNoAckMode":
            self.connection.acknowledging = False
        return None

    # Breakpoints.

    def _insert(self, text: str, _data: bytes) -> str:
        kind, address, size = text.split(";", maxsplit=1)[0].split(",")
        at, length = int(address, 16), int(size, 16)
        if kind in _WATCHES:
            read, write, _ = _WATCHES[kind]
            if not 0 < length <= PACKET_SIZE or at + length > 1 << 47:
                raise BadPacketError(Errno.EINVAL)
            self._watched[kind, at, length] = DataBreakpoint(at, length, read, write)
            self._watch()
        elif kind in ("0", "1"):
            if self.machine.memory.find(at) is None:
                raise BadPacketError(Errno.EFAULT)
            self._removed.discard(at)
            self._kinds[at] = "hwbreak" if kind == "1" else "swbreak"
            self.machine.set_debug_stop(at, on=True)
        else:
            return ""
        return "OK"

    def _remove(self, text: str, _data: bytes) -> str:
        kind, address, size = text.split(",")
        at = int(address, 16)
        if kind in _WATCHES:
            self._watched.pop((kind, at, int(size, 16)), None)
            self._watch()
        elif kind in ("0", "1"):
            self._removed.add(at)
        else:
            return ""
        return "OK"

    def _watch(self) -> None:
        self.machine.cpu.watch_data(tuple(self._watched.values()))

    def _set(self, text: str, _data: bytes) -> str:
        name, _, rest = text.partition(":")
        if name == "PassSignals":
            numbers = (from_gdb(int(number, 16)) for number in rest.split(";") if number)
            self._passed = frozenset(number for number in numbers if number is not None)
            return "OK"
        return "OK" if name == "StartNoAckMode" else ""

    # Going on.

    def _actions(self, text: str) -> _Resumption | None:
        """What a packet asks for that resumes; None of another one."""
        if text.startswith("vCont;"):
            parts = [part.partition(":") for part in text[6:].split(";")]
            actions = [(action, int(tid, 16) if tid else -1) for action, _, tid in parts]
        elif text[:1] in ("c", "C", "s", "S"):  # without an address, which gdb does not send
            actions = [(text.partition(";")[0], self._thread(0).tid), ("c", -1)]
        else:
            return None
        wanted, alive = _Resumption(), self.machine.linux.alive()
        tids: list[int] = []
        for thread in alive:
            action = next((a for a, tid in actions if tid in (thread.tid, -1)), None)
            if action is None:
                continue
            tids.append(thread.tid)
            if action[0] in "CS":
                wanted.signals[thread.tid] = int(action[1:3], 16)
            if action[0] in "sSr":
                places = action[1:].split(",") if action[0] == "r" else ("0", "0")
                start, end = (int(place, 16) for place in places)
                wanted.steps[thread.tid] = _Step(thread.user_instructions, start, end)
        if len(tids) == 1 and len(alive) > 1:
            wanted.alone = tids[0]
        return wanted

    def _resume(self, actions: _Resumption) -> int | None:
        """Goes on until something is to be told; the exit status where the program ends."""
        if self._failure is not None:
            self.connection.send(b"X%02x" % to_gdb(Signal.SIGKILL))
            raise self._failure
        machine = self.machine
        self._resumption = actions
        if actions.alone is None:
            self._forget_removed()
        for tid, number in actions.signals.items():
            self._send(machine.threads[tid], number)
        self._poll_at = machine.instructions + POLL
        try:
            status = machine.run()
        except GuestKilled as killed:
            self._failure = killed
            self.connection.send(b"X%02x" % to_gdb(killed.signo))
            raise
        except GuestStopped as stopped:
            self._console(f"{stopped}\n")
            self._failure = stopped
            self._tell("05", stopped.tid)
            status = None
        self._forget_removed()
        if status is not None:
            self.connection.send(b"W%02x" % status)
            return status
        self.connection.send(self._stop_reply().encode())
        return None

    def _forget_removed(self) -> None:
        for address in self._removed:
            self.machine.set_debug_stop(address, on=False)
        self._removed.clear()

    def _send(self, thread: Thread, number: int) -> None:
        """What gdb's command `signal` asks for: a signal for a thread that did not stop for one."""
        signo = from_gdb(number)
        if signo is None or thread.tid in self._held:
            return
        info = SigInfo(signo, SI_TKILL)
        signals.send(self.machine.linux, info, thread, None)
        if thread.sigpending:
            self._held[thread.tid] = info

    def _console(self, text: str) -> None:
        self.connection.send(b"O" + text.encode().hex().encode())

    def _stop_reply(self) -> str:
        thread = self._thread(0)
        values = gdb_target.read(thread.registers)
        registers = "".join(f"{i:02x}:{values[i].hex()};" for i in _EXPEDITED)
        signal, _, reason = self._reason.partition(" ")
        return f"T{signal}{reason}thread:{thread.tid:x};{registers}"

    def _tell(self, reason: str, tid: int) -> None:
        """The machine stops, and this is what gdb is told: a signal, and why after a space."""
        self._reason, self._stopped = reason, tid
        self._selected = 0
        self.machine.stop()

    def _end_alone(self, thread: Thread) -> bool:
        """Whether gdb steps another thread alone: then that step is over."""
        alone = self._resumption.alone
        if alone in (None, thread.tid) or alone not in self._resumption.steps:
            return False
        self._tell("05", alone)
        return True

    # The machine's stops: emulator.observer.Debugger and InstructionTimer.

    def reached(self, thread: Thread) -> None:
        """At a breakpoint."""
        rip = thread.registers["RIP"]
        if rip in self._removed and self._resumption.alone == thread.tid:
            return
        if self._end_alone(thread):
            thread.break_passed = None
            return
        self._tell(f"05 {self._kinds[rip]}:;", thread.tid)

    def accessed(self, thread: Thread, access: Access) -> None:
        """Behind an access of what is watched."""
        kinds = [kind for (kind, *_), each in self._watched.items() if each is access.breakpoint]
        name = _WATCHES[kinds[0]][2]
        self._tell(f"05 {name}:{access.address:x};", thread.tid)

    def signalled(self, thread: Thread, info: SigInfo) -> SigInfo | None:
        """A signal is about to be delivered: gdb is told, unless it said which to do with it."""
        if self._held.get(thread.tid) == info:
            number = self._resumption.signals.get(thread.tid)
            if self._resumption.alone in (None, thread.tid):
                del self._held[thread.tid]
                signo = None if number is None else from_gdb(number)
                if signo is None or signo == info.signo:
                    return None if signo is None else info
                return SigInfo(signo)
        elif info.signo in self._passed:
            return info
        if not self._end_alone(thread):
            self._held[thread.tid] = info
            self._tell(f"{to_gdb(info.signo):02x}", thread.tid)
        return HELD

    def due(self, thread: Thread) -> int:
        """Instructions until the end of the thread's step, or the next look at the connection."""
        left = self._poll_at - self.machine.instructions
        step = self._resumption.steps.get(thread.tid)
        if step is not None:
            left = min(left, step.begun + 1 - thread.user_instructions)
        return max(left, 0)

    def fire(self, thread: Thread) -> None:
        """A step is over, or gdb may have sent a Ctrl-C."""
        step = self._resumption.steps.get(thread.tid)
        if step is not None and thread.user_instructions > step.begun:
            if step.start <= thread.registers["RIP"] < step.end:
                step.begun = thread.user_instructions
            else:
                self._resumption.steps.clear()
                self._tell("05", thread.tid)
            return
        self._poll_at = self.machine.instructions + POLL
        try:
            interrupted = self.connection.interrupted()
        except DisconnectedError:
            self._detach()
            return
        if interrupted:
            self._tell(f"{to_gdb(Signal.SIGINT):02x}", thread.tid)
