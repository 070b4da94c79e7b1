"""What gdb looks at and changes while the machine stands: registers, memory, threads, queries.

Specified in "Debugging with GDB", appendix "GDB Remote Serial Protocol": Packets, General Query
Packets. A handler gets a packet behind its letter, as text and as bytes, and returns the answer;
ValueError stands for a packet that is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.gdb import target as gdb_target
from emulator.linux.errno import Errno
from emulator.linux.threads import Thread, ThreadState
from emulator.memory import Prot

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.machine import Machine

PACKET_SIZE: Final = 0x4000
_SUPPORTED: Final = (
    f"PacketSize={PACKET_SIZE:x};QStartNoAckMode+;QPassSignals+;vContSupported+;swbreak+;hwbreak+;"
    "qXfer:features:read+;qXfer:auxv:read+;qXfer:exec-file:read+"
)


class BadPacketError(Exception):
    """A packet is refused with this errno, as Exx."""

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno.name)
        self.errno = errno


class Inspection:
    """Answers about one machine. `path` and `extra` as in emulator.gdb.remote."""

    def __init__(self, machine: Machine, path: str, extra: Callable[[Thread], str]) -> None:
        self.machine = machine
        self._path = path
        self._extra = extra
        self._selected = 0  # by Hg
        current = machine.scheduler.current or next(iter(machine.threads.values()))
        self._stopped = current.tid  # the thread that the last stop was about
        self._handlers: dict[str, Callable[[str, bytes], str | bytes]] = {
            "g": self._read_all,
            "G": self._write_all,
            "p": self._read_register,
            "P": self._write_register,
            "m": self._read_memory,
            "M": self._write_memory,
            "X": self._write_binary,
            "H": self._select,
            "T": self._alive,
            "q": self._query,
        }

    # Threads and registers.

    def _thread(self, tid: int) -> Thread:
        """A thread by number: 0 is any, -1 all, for which the one that stopped stands."""
        thread = self.machine.threads.get(tid if tid > 0 else self._stopped)
        if thread is None or thread.state is ThreadState.EXITED:
            if tid <= 0 and self.machine.linux.alive():
                return self.machine.linux.alive()[0]
            raise BadPacketError(Errno.ESRCH)
        return thread

    def _select(self, text: str, _data: bytes) -> str:
        tid = int(text[1:], 16)
        thread = self._thread(tid)
        if text[0] == "g":
            self._selected = thread.tid if tid > 0 else 0
        return "OK"

    def _alive(self, text: str, _data: bytes) -> str:
        self._thread(int(text, 16))
        return "OK"

    def _changeable(self) -> Thread:
        """The selected thread; EBUSY where a system call is going to write its registers."""
        thread = self._thread(self._selected)
        if thread.wait is not None:
            raise BadPacketError(Errno.EBUSY)
        return thread

    def _read_all(self, _text: str, _data: bytes) -> str:
        return b"".join(gdb_target.read(self._thread(self._selected).registers)).hex()

    def _write_all(self, text: str, _data: bytes) -> str:
        data = bytes.fromhex(text)
        thread = self._changeable()
        changed = thread.registers.copy()
        at = 0
        for number, (_, size) in enumerate(gdb_target.REGISTERS):
            if not gdb_target.write(changed, number, data[at : at + size]):
                raise BadPacketError(Errno.EINVAL)
            at += size
        thread.registers = changed
        return "OK"

    def _read_register(self, text: str, _data: bytes) -> str:
        values = gdb_target.read(self._thread(self._selected).registers)
        number = int(text, 16)
        if number >= len(values):
            raise BadPacketError(Errno.EINVAL)
        return values[number].hex()

    def _write_register(self, text: str, _data: bytes) -> str:
        number, _, value = text.partition("=")
        if int(number, 16) >= len(gdb_target.REGISTERS):
            raise BadPacketError(Errno.EINVAL)
        registers = self._changeable().registers
        if not gdb_target.write(registers, int(number, 16), bytes.fromhex(value)):
            raise BadPacketError(Errno.EINVAL)
        return "OK"

    # Memory.

    def _read_memory(self, text: str, _data: bytes) -> str:
        """As much as is mapped, from the address on."""
        address, size = (int(part, 16) for part in text.split(","))
        found = b""
        size = min(size, PACKET_SIZE // 2 - 8)
        while len(found) < size:
            region = self.machine.memory.find(address + len(found))
            if region is None:
                break
            most = region.end - address - len(found)
            found += self.machine.memory.read(address + len(found), min(size - len(found), most))
        if size and not found:
            raise BadPacketError(Errno.EFAULT)
        return found.hex()

    def _write_memory(self, text: str, _data: bytes) -> str:
        place, _, data = text.partition(":")
        return self._write(place, bytes.fromhex(data))

    def _write_binary(self, _text: str, data: bytes) -> str:
        place, _, content = data.partition(b":")
        return self._write(place.decode("latin-1"), content)

    def _write(self, place: str, data: bytes) -> str:
        """All or nothing, whatever the protection, as a debugger may."""
        address, size = (int(part, 16) for part in place.split(","))
        if len(data) != size:
            raise BadPacketError(Errno.EINVAL)
        memory = self.machine.memory
        parts = memory.overlapping(address, size)
        if sum(part.size for part in parts) != size:
            raise BadPacketError(Errno.EFAULT)
        for part in parts:
            memory.write(part.start, data[part.start - address : part.end - address])
            if part.prot & Prot.EXEC:
                self.machine.cpu.flush_code(part.start, part.size)
        return "OK"

    # Queries.

    def _query(self, text: str, _data: bytes) -> str | bytes:
        name, _, rest = text.partition(":")
        if name == "Supported":
            return _SUPPORTED
        if name == "fThreadInfo":
            return "m" + ",".join(f"{t.tid:x}" for t in self.machine.linux.alive())
        if name == "sThreadInfo":
            return "l"
        if name.startswith("ThreadExtraInfo,"):
            return self._extra(self._thread(int(name.partition(",")[2], 16))).encode().hex()
        if name == "C":
            return f"QC{self._thread(0).tid:x}"
        if name == "Attached":  # so that gdb detaches when it is done, and does not kill
            return "1"
        if name == "Symbol":
            return "OK"
        if name == "Xfer":
            return self._transfer(rest)
        return ""

    def _transfer(self, text: str) -> str | bytes:
        """A part of an object: "m" and the part, or "l" and the last one."""
        name, operation, annex, place = text.split(":")
        objects = {"features": b"", "auxv": self.machine.linux.saved_auxv}
        objects["exec-file"] = self._path.encode()  # of the process that the annex numbers
        if (name, annex) == ("features", "target.xml"):
            objects[name] = gdb_target.description()
        if operation != "read" or name not in objects:
            return ""
        data = objects[name]
        if not data:
            return "E00"
        offset, size = (int(part, 16) for part in place.split(","))
        size = min(size, PACKET_SIZE // 2 - 8)  # each byte may have to be escaped
        part = data[offset : offset + size]
        return (b"l" if offset + size >= len(data) else b"m") + part
