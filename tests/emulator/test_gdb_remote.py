"""gdb's remote serial protocol, packet by packet, against a client of a few lines.

Expected packets are written by hand from "Debugging with GDB", appendix "GDB Remote Serial
Protocol" (Packets, Stop Reply Packets, General Query Packets) and Standard Target Features; signal
numbers are those of gdb's include/gdb/signals.def.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from small_computer import (
    CODE,
    DATA,
    HANDLER,
    OTHER,
    PID,
    assemble,
    computer,
    exits,
    install,
    start,
    syscall,
)

from emulator.gdb.packets import Connection, DisconnectedError, from_gdb, to_gdb
from emulator.gdb.remote import GdbRemote, KilledByGdb, listen
from emulator.linux.signals import GuestKilled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emulator.machine import Machine

GENERAL = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip",
)  # fmt: skip
SELECTORS = ("cs", "ss", "ds", "es", "fs", "gs")
RIP = 16
COUNTING = "mov ecx, 1000; again: inc qword ptr [0x500000]; dec ecx; jnz again;"


def framed(data: bytes) -> bytes:
    return b"$" + data + b"#" + f"{sum(data) % 256:02x}".encode()


class Client:
    """The other end: sends a packet, gives the answer's text."""

    def __init__(self, machine: Machine) -> None:
        ours, theirs = socket.socketpair()
        self.socket = ours
        self.socket.settimeout(20)
        self.stub = GdbRemote(machine, theirs)
        self.error: BaseException | None = None
        self.status: int | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.received = b""

    def _serve(self) -> None:
        try:
            self.status = self.stub.run()
        except BaseException as error:  # noqa: BLE001  # looked at by the test
            self.error = error

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(framed(b"k"))
        self.end()

    def end(self) -> int | None:
        self.socket.close()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.status

    def raw(self, size: int) -> bytes:
        while len(self.received) < size:
            self.received += self.socket.recv(4096)
        found, self.received = self.received[:size], self.received[size:]
        return found

    def reply(self) -> str:
        """The next packet, whose checksum must be right; acknowledged."""
        while self.raw(1) != b"$":
            pass
        data = b""
        while (byte := self.raw(1)) != b"#":
            data += byte
        assert int(self.raw(2), 16) == sum(data) % 256
        self.socket.sendall(b"+")
        return data.decode("latin-1")

    def ask(self, packet: str | bytes) -> str:
        self.socket.sendall(framed(packet.encode() if isinstance(packet, str) else packet))
        return self.reply()

    def rip(self) -> int:
        return int(struct.unpack("<Q", bytes.fromhex(self.ask(f"p{RIP:x}")))[0])


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """Those in it are ended with the test."""
    made: list[Client] = []
    yield made
    for client in made:
        client.kill()


def attached(clients: list[Client], machine: Machine) -> Client:
    client = Client(machine)
    clients.append(client)
    return client


def one(text: str) -> Machine:
    machine = computer({CODE: text})
    start(machine)
    return machine


def test_packets_are_acknowledged_until_gdb_wants_no_more(clients: list[Client]) -> None:
    client = attached(clients, one("nop;" + exits("0")))
    client.socket.sendall(b"$qC#00")  # a wrong checksum
    assert client.raw(1) == b"-"
    client.socket.sendall(framed(b"qC"))
    assert client.raw(1) == b"+"
    answer = client.raw(len("$QC3e8#ff"))
    assert answer == framed(b"QC3e8")
    client.socket.sendall(b"-")  # once more, please
    assert client.raw(len(answer)) == answer
    client.socket.sendall(b"+")
    assert "QStartNoAckMode+" in client.ask("qSupported:multiprocess+;swbreak+")
    assert client.ask("QStartNoAckMode") == "OK"
    client.socket.sendall(framed(b"qC"))
    assert client.raw(len(answer)) == answer


def test_what_the_stub_does_not_know_is_answered_with_nothing(clients: list[Client]) -> None:
    client = attached(clients, one("nop;" + exits("0")))
    for packet in ("vMustReplyEmpty", "qTStatus", "Z9,1,1", "bc", "vFile:open:2f,0,0", "R00"):
        assert client.ask(packet) == ""
    for packet in ("pzz", "m1", "M500000,2:aa", "vCont;s:zz", "Z0,zz,1", "P10=00"):
        assert client.ask(packet) == "E16"  # EINVAL
    assert client.ask("m10,4") == "E0e"  # EFAULT
    assert client.ask("Z0,10,1") == "E0e"


def test_registers_are_those_of_the_target_description(clients: list[Client]) -> None:
    machine = one("fldpi; fld1; mov eax, 0x1234; nop;" + exits("0"))
    thread = machine.threads[PID]
    for number, name in enumerate(GENERAL[:16]):
        if name != "rsp":
            thread.registers[name.upper()] = 0x1111 * number
    thread.registers["XMM3"] = 0xAABB
    thread.registers["FS_BASE"] = 0x7700
    client = attached(clients, machine)
    xml = client.ask("qXfer:features:read:target.xml:0,ffff")
    assert xml[0] == "l"
    described = [
        (reg.get("name"), int(reg.get("bitsize", "")) // 8)
        for feature in ET.fromstring(xml[1:].partition("]>")[2] or xml[1:]).iter("feature")
        for reg in feature.iter("reg")
    ]
    assert [name for name, _ in described[:24]] == [*GENERAL, "eflags", *SELECTORS]
    for _ in range(3):
        assert client.ask("s").startswith("T05")
    values = bytes.fromhex(client.ask("g"))
    found = {}
    for name, size in described:
        found[name], values = values[:size], values[size:]
    assert values == b""
    assert found["rax"] == struct.pack("<Q", 0x1234)
    assert found["r15"] == struct.pack("<Q", 0x1111 * 15)
    assert found["eflags"] == struct.pack("<I", 0x202)
    assert (found["cs"][0], found["ss"][0]) == (0x33, 0x2B)
    # st0 is the top of the x87 stack; 1.0 and pi as the manual of the processor encodes them.
    assert found["st0"].hex() == "0000000000000080ff3f"
    assert found["st1"].hex() == "35c26821a2da0fc90040"
    assert struct.unpack("<I", found["fstat"])[0] >> 11 & 7 == 6
    assert found["xmm3"] == (0xAABB).to_bytes(16, "little")
    assert found["mxcsr"] == struct.pack("<I", 0x1F80)
    assert found["fs_base"] == struct.pack("<Q", 0x7700)


def test_registers_that_gdb_writes_count(clients: list[Client]) -> None:
    machine = one("nop; mov rdi, rbx; mov eax, 231; syscall")
    client = attached(clients, machine)
    assert client.ask("s").startswith("T05")
    assert client.ask("P1=2a00000000000000") == "OK"  # rbx
    assert client.ask("p1") == "2a00000000000000"
    assert client.ask("P12=32000000") == "E16"  # cs can have no other value
    all_of_them = client.ask("g")
    changed = all_of_them[:16] + "2b" + all_of_them[18:]
    assert client.ask("G" + changed) == "OK"
    assert client.ask("g") == changed
    assert client.ask("c") == "W2b"
    assert client.end() == 0x2B


def test_memory_is_read_and_written(clients: list[Client]) -> None:
    client = attached(clients, one("mov edi, 1; mov eax, 231; syscall"))
    assert client.ask(f"m{CODE:x},5") == "bf01000000"
    assert client.ask(f"M{DATA:x},3:414243") == "OK"
    assert client.ask(b"X%x,4:\x7d\x03\x7d\x5d\x00\xff" % (DATA + 3)) == "OK"
    assert client.ask(f"m{DATA:x},7") == "414243" + "237d00ff"
    assert client.ask(f"m{CODE + 0x4FFE:x},10") == "0000"  # as far as it goes
    assert client.ask(f"M{CODE + 1:x},1:07") == "OK"  # code, too
    assert client.ask("c") == "W07"


def test_a_breakpoint_stops_before_its_instruction_and_is_no_change_of_code(
    clients: list[Client],
) -> None:
    machine = one(COUNTING + exits("0"))
    client = attached(clients, machine)
    loop = CODE + 5
    before = client.ask(f"m{loop:x},10")
    assert client.ask(f"Z0,{loop:x},1") == "OK"
    assert client.ask(f"m{loop:x},10") == before
    for count in range(3):
        stop = client.ask("vCont;c")
        assert stop.startswith("T05swbreak:;thread:3e8;")
        assert f"10:{loop.to_bytes(8, 'little').hex()};" in stop
        assert client.ask(f"m{DATA:x},8") == struct.pack("<Q", count).hex()
    assert client.ask(f"z0,{loop:x},1") == "OK"
    assert client.ask("c") == "W00"
    assert machine.memory.u64(DATA) == 1000


def test_steps_are_of_one_instruction_or_through_a_range(clients: list[Client]) -> None:
    client = attached(clients, one(COUNTING + exits("0")))
    assert client.ask("s").startswith("T05thread:3e8;")
    assert client.rip() == CODE + 5
    assert client.ask("vCont;s:3e8;c").startswith("T05thread:3e8;")
    assert client.rip() > CODE + 5
    end = CODE + len(assemble(COUNTING, CODE))
    assert client.ask(f"vCont;r{CODE + 5:x},{end:x}:3e8;c").startswith("T05thread")
    assert client.rip() == end
    assert client.ask(f"m{DATA:x},8") == struct.pack("<Q", 1000).hex()


@pytest.mark.parametrize(
    ("kind", "name", "stops"),
    [("2", "watch", (1, 3)), ("3", "rwatch", (2, 3)), ("4", "awatch", (1, 2, 3))],
)
def test_a_watchpoint_stops_behind_the_access(
    clients: list[Client], kind: str, name: str, stops: tuple[int, ...]
) -> None:
    """A store over part of it, a load, and an exchange, which is both; others go by."""
    texts = ["nop", "mov dword ptr [0x500006], 1", "mov rax, [0x500008]", "inc byte ptr [0x500008]"]
    others = "mov [0x500010], rax; mov [0x500000], rax"
    machine = one("; ".join([*texts, others]) + ";" + exits("0"))
    client = attached(clients, machine)
    assert client.ask(f"Z{kind},500008,8") == "OK"
    for number in stops:
        assert client.ask("c").startswith(f"T05{name}:500008;thread:3e8;")
        assert machine.instructions == number + 1
    assert client.ask("c") == "W00"


def test_ctrl_c_stops_a_program_that_loops_for_ever(clients: list[Client]) -> None:
    machine = one("here: jmp here")
    client = attached(clients, machine)
    client.socket.sendall(framed(b"c"))
    assert client.raw(1) == b"+"
    client.socket.sendall(b"\x03")
    assert client.reply().startswith("T02thread:3e8;")
    assert client.rip() == CODE
    client.socket.sendall(framed(b"k"))
    client.end()
    assert isinstance(client.error, KilledByGdb)


HANDLED = "mov qword ptr [0x500100], 1; ret"


def faulting() -> Machine:
    machine = computer({CODE: "mov rax, [0x10];" + exits("5"), HANDLER: HANDLED})
    start(machine)
    install(machine, 11)
    return machine


def test_a_signal_is_told_before_the_handler_and_passed_as_gdb_says(clients: list[Client]) -> None:
    machine = faulting()
    client = attached(clients, machine)
    assert client.ask("c").startswith("T0bthread:3e8;")  # SIGSEGV is gdb's 11, too
    assert client.rip() == CODE
    assert client.ask("c").startswith("T0b")  # dropped: the instruction faults again
    assert machine.memory.u64(DATA + 0x100) == 0
    assert client.ask(f"Z0,{HANDLER:x},1") == "OK"
    assert client.ask("C0b").startswith("T05swbreak:;")
    assert client.rip() == HANDLER


def test_a_signal_that_kills_is_told_first(clients: list[Client]) -> None:
    client = attached(clients, one("mov rax, [0x10]"))
    assert client.ask("c").startswith("T0b")
    assert client.ask("vCont;C0b:3e8;c") == "X0b"
    client.end()
    assert isinstance(client.error, GuestKilled)


def test_signals_that_gdb_passes_are_not_told(clients: list[Client]) -> None:
    machine = faulting()
    client = attached(clients, machine)
    assert client.ask("QPassSignals:b;10") == "OK"
    assert client.ask(f"Z0,{HANDLER:x},1") == "OK"
    assert client.ask("c").startswith("T05swbreak")
    assert client.ask(f"z0,{HANDLER:x},1") == "OK"
    assert client.ask("QPassSignals:") == "OK"
    assert client.ask("c").startswith("T0b")  # again: the handler has mended nothing


def test_signals_have_gdbs_numbers() -> None:
    """SIGURG is 23 to the kernel and 16 to gdb; real-time signals are 45 on, and 77 the first."""
    pairs = {1: 1, 2: 2, 7: 10, 10: 30, 11: 11, 12: 31, 17: 20, 23: 16, 31: 12, 32: 77, 33: 45}
    assert {signo: to_gdb(signo) for signo in pairs} == pairs
    assert {from_gdb(number): number for number in pairs.values()} == pairs
    assert to_gdb(16) == 143  # SIGSTKFLT, which gdb does not know
    assert from_gdb(7) is None  # SIGEMT, which Linux does not


TWO = {
    CODE: "mov ecx, 300; a: inc qword ptr [0x500000]; dec ecx; jnz a; b: cmp rdi, rdi;"
    "cmp qword ptr [0x500008], 300; jne b;" + exits("3"),
    OTHER: "mov ecx, 300; a: inc qword ptr [0x500008]; dec ecx; jnz a;" + syscall(60, 0),
}


def two() -> Machine:
    machine = computer(TWO, slice_ns=70)
    start(machine)
    start(machine, OTHER)
    return machine


def test_threads_are_listed_and_selected(clients: list[Client]) -> None:
    client = attached(clients, two())
    assert client.ask("qfThreadInfo") == "m3e8,3e9"
    assert client.ask("qsThreadInfo") == "l"
    assert client.ask("T3e9") == "OK"
    assert client.ask("T5") == "E03"  # ESRCH
    assert client.ask("Hg3e9") == "OK"
    assert client.rip() == OTHER
    assert client.ask("Hg0") == "OK"
    assert client.rip() == CODE
    assert bytes.fromhex(client.ask("qThreadExtraInfo,3e9")) == b"runnable"


def test_debugged_step_by_step_all_happens_as_without(clients: list[Client]) -> None:
    """Breakpoints that are taken out for a step of one thread alone, as gdb does, and others."""
    plain = two()
    assert plain.run() == 3
    machine = two()
    client = attached(clients, machine)
    assert client.ask("QPassSignals:") == "OK"
    at = OTHER + 5
    seen = 0
    stop = ""
    assert client.ask(f"Z0,{at:x},1") == "OK"
    while not stop.startswith("W"):
        stop = client.ask("vCont;c")
        if "swbreak" in stop:
            seen += 1
            assert "thread:3e9" in stop
            assert client.ask(f"z0,{at:x},1") == "OK"
            assert client.ask("vCont;s:3e9").startswith("T05thread:3e9")
            assert client.ask(f"Z0,{at:x},1") == "OK"
            if seen % 7 == 0:  # the other one may come to the breakpoint first
                stop = client.ask("vCont;s:3e8;c")
                seen += "T05swbreak:;thread:3e9" in stop
                assert "T05thread:3e8" in stop or "swbreak" in stop
    assert stop == "W03"
    assert seen == 300
    assert machine.instructions == plain.instructions
    for tid, thread in plain.threads.items():
        same = machine.threads[tid]
        assert (same.time, same.instructions) == (thread.time, thread.instructions)
        assert same.registers == thread.registers


def test_a_step_of_one_thread_alone_waits_for_its_turn_in_virtual_time(
    clients: list[Client],
) -> None:
    """It is the turn of the other, which would stop: nothing has moved, and nothing is lost."""
    machine = two()
    client = attached(clients, machine)
    assert client.ask(f"Z0,{CODE + 5:x},1") == "OK"
    assert client.ask(f"z0,{CODE + 5:x},1") == "OK"
    stop = client.ask("vCont;s:3e9")
    assert stop.startswith("T05thread:3e9")
    assert machine.threads[PID + 1].instructions == 0
    assert client.ask(f"Z0,{CODE + 5:x},1") == "OK"
    stop = client.ask("vCont;c")
    assert stop.startswith("T05swbreak:;thread:3e8")
    assert machine.memory.u64(DATA) == 0  # the first time that it comes there


def test_without_gdb_the_program_goes_on(clients: list[Client]) -> None:
    for farewell in (framed(b"D"), b""):
        client = attached(clients, one(COUNTING + exits("9")))
        assert client.ask(f"Z0,{CODE + 5:x},1") == "OK"
        assert client.ask("c").startswith("T05swbreak")
        client.socket.sendall(farewell)
        if farewell:
            assert client.reply() == "OK"
        assert client.end() == 9


def test_only_this_host_can_connect() -> None:
    with listen(0) as server:
        address, port = server.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(OSError, match="in use"):
            listen(port)


def test_a_packet_without_end_is_no_gdb() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(theirs)

    def write() -> None:
        with contextlib.suppress(OSError):
            ours.sendall(b"$" + b"a" * (1 << 20))

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(DisconnectedError):
        connection.receive()
    connection.close()
    writer.join()
    ours.close()
