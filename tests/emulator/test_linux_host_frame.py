"""The signal frame against the one that the host's kernel builds and takes back.

A few bytes of machine code, called in this process, load known values into all registers, send
themselves a signal with tgkill and store the registers when rt_sigreturn has brought them back.
The frame is then still there, below RSP, to be compared.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from keystone import KS_ARCH_X86, KS_MODE_64, Ks

from emulator.events import EventStream
from emulator.fault import Fault, FaultKind
from emulator.linux import fpstate, signal_frame
from emulator.linux.faults import raise_fault
from emulator.linux.process import Process
from emulator.linux.signal_abi import SI_TKILL, AltStack, SaFlags, SigAction, SigInfo
from emulator.linux.signal_frame import Trap
from emulator.linux.signals import deliver
from emulator.memory import Memory, Prot
from emulator.registers import GENERAL, Registers

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = 0x2000_0000
SIZE = 0x40000
CODE, HANDLER, RESTORER = BASE, BASE + 0x800, BASE + 0xF00
DATA = BASE + 0x1000  # the caller's RSP, a mark, the test's registers, what the handler saw
MARK, ENTRY, AFTER = DATA + 8, DATA + 0x100, DATA + 0x200
CALLER_FX, TEST_FX, AFTER_FX, ENTRY_FX = (DATA + 0x400 + 0x200 * i for i in range(4))
STACK_TOP = BASE + 0x20000
RSP = STACK_TOP - 0x1008
ALT, ALT_SIZE = BASE + 0x30000, 0x8000
OTHER_STACK = BASE + 0x3E000
READ_ONLY = BASE + 0x3F000
SIGNAL = 23  # SIGURG
RED_ZONE_PATTERN = bytes(range(128))

TEST_VALUES = {name: 0x0101_0101_0101_0101 * (i + 1) for i, name in enumerate(GENERAL)}
FLAGS = 0xAD7  # CF PF AF ZF SF OF, IF as in any user program; DF is set by its own test


def assemble(text: str, address: int) -> bytes:
    code, _ = Ks(KS_ARCH_X86, KS_MODE_64).asm(text, address)
    return bytes(code)


def test_fx() -> bytes:
    """An FXSAVE image with TOP = 5, three x87 registers, distinct XMM, MXCSR 0x9fc0."""
    image = bytearray(512)
    struct.pack_into("<HHB", image, 0, 0x27F, 5 << 11, 0b1110_0000)
    struct.pack_into("<II", image, 24, 0x9FC0, 0xFFFF)
    for i, value in enumerate((0x8000_0000_0000_0000, 0xC000_0000_0000_0000, 0)):
        struct.pack_into("<QH", image, 32 + 16 * i, value, 0x3FFF if value else 0)
    image[160:416] = bytes(i * 7 & 0xFF for i in range(256))
    return bytes(image)


test_fx.__test__ = False  # type: ignore[attr-defined]


def registers_from_fx(image: bytes) -> Registers:
    """The state that FXRSTOR loads; the tags of test_fx's registers are known from the SDM."""
    registers = Registers()
    registers["FCW"], registers["FSW"], tags = struct.unpack_from("<HHB", image)
    registers["MXCSR"] = struct.unpack_from("<I", image, 24)[0]
    top = registers["FSW"] >> 11 & 7
    for i in range(8):
        registers[f"ST{(top + i) % 8}"] = int.from_bytes(image[32 + 16 * i :][:10], "little")
        registers[f"XMM{2 * i}"] = int.from_bytes(image[160 + 32 * i :][:16], "little")
        registers[f"XMM{2 * i + 1}"] = int.from_bytes(image[176 + 32 * i :][:16], "little")
    full = {5: 0, 6: 0, 7: 1} if tags == 0b1110_0000 else {}
    registers["FTW"] = sum(full.get(i, 3) << 2 * i for i in range(8))
    return registers


@dataclass
class Outcome:
    """What the host did."""

    stack: bytes  # the whole mapping, afterwards
    sent: Registers  # the registers when the kernel built the frame
    entry: dict[str, int]  # registers at handler entry
    entry_fx: bytes
    after: dict[str, int]
    after_fx: bytes
    mark: int
    info: SigInfo
    altstack: AltStack

    def u64(self, address: int) -> int:
        return int(struct.unpack_from("<Q", self.stack, address - BASE)[0])

    def u32(self, address: int) -> int:
        return self.u64(address) & 0xFFFF_FFFF


@dataclass
class Host:
    """Runs the program on the host's kernel."""

    libc: ctypes.CDLL
    memory: ctypes.Array[ctypes.c_char] = field(repr=False)

    def run(
        self,
        *,
        sa_flags: int = 0,
        handler: str = "",
        flags: int = FLAGS,
        rsp: int = RSP,
        altstack: AltStack | None = None,
        act: str = "syscall",
        signal: int = SIGNAL,
        load: str = "",
        store: str = "",
        prepare: tuple[int, bytes] = (BASE, b""),
    ) -> Outcome:
        """`load` runs before, `store` after; both may change RAX and RDX. `prepare` is memory."""
        pid, tid = os.getpid(), threading.get_native_id()
        values = TEST_VALUES | {"RAX": 234, "RDI": pid, "RSI": tid, "RDX": SIGNAL, "RSP": rsp}
        loads = "".join(f"movabs {name}, {value};" for name, value in values.items())
        enter = f"""
            push rbx; push rbp; push r12; push r13; push r14; push r15
            fxsave64 [{CALLER_FX}]
            fxrstor64 [{TEST_FX}]
            {load}
            mov [{DATA}], rsp
            mov rsp, {STACK_TOP - 8}
            push {flags}
            popfq
            {loads}
        """
        self._put(CODE, enter_code := assemble(enter, CODE))
        act_rip = CODE + len(enter_code)
        self._put(act_rip, act_code := assemble(act, act_rip))
        sent_rip = act_rip + len(act_code)
        stores = "".join(f"mov [{AFTER + 8 * i}], {name};" for i, name in enumerate(GENERAL))
        leave = f"""
            {stores}
            mov rsp, {STACK_TOP}
            pushfq
            pop qword ptr [{AFTER + 128}]
            fxsave64 [{AFTER_FX}]
            {store}
            cld
            movabs rax, {DATA}
            mov rsp, [rax]
            fxrstor64 [{CALLER_FX}]
            pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx
            ret
        """
        self._put(sent_rip, assemble(leave, sent_rip))
        other = assemble(f"mov dword ptr [{MARK}], 1; jmp {sent_rip}", CODE + 0x700)
        self._put(CODE + 0x700, other)
        entered = "".join(f"mov [{ENTRY + 8 * i}], {name};" for i, name in enumerate(GENERAL))
        text = f"{entered} pushfq; pop qword ptr [{ENTRY + 128}]; fxsave64 [{ENTRY_FX}];"
        self._put(HANDLER, assemble(text + handler + "; ret", HANDLER))
        self._put(RESTORER, assemble("mov eax, 15; syscall", RESTORER))
        self._put(TEST_FX, test_fx())
        self._put(*prepare)
        self._put(MARK, bytes(8))
        self._put(STACK_TOP - 0x8000, bytes(0x8000))
        self._put(ALT, bytes(ALT_SIZE))
        self._put(rsp - 128, RED_ZONE_PATTERN)
        action = SigAction(HANDLER, sa_flags | SaFlags.RESTORER, RESTORER, 1 << 9)
        old_action, old_stack = ctypes.create_string_buffer(32), ctypes.create_string_buffer(24)
        stack = altstack or AltStack()
        packed_stack = AltStack.FORMAT.pack(stack.sp, stack.flags, stack.size)
        call = self.libc.syscall
        assert call(13, signal, action.pack(), old_action, 8) == 0
        assert call(131, packed_stack, old_stack) == 0
        try:
            ctypes.CFUNCTYPE(None)(CODE)()
        finally:
            after_stack = ctypes.create_string_buffer(24)
            call(131, old_stack, after_stack)
            call(13, signal, old_action, None, 8)
        data = bytes(self.memory)
        sent = registers_from_fx(test_fx())
        for name, value in values.items():
            sent[name] = value
        sent["RFLAGS"] = flags
        sent["RIP"] = act_rip
        if act == "syscall":
            # SYSCALL leaves RIP in RCX and RFLAGS in R11; tgkill returned 0.
            for name, value in (("RAX", 0), ("RCX", sent_rip), ("R11", flags), ("RIP", sent_rip)):
                sent[name] = value
        names = (*GENERAL, "RFLAGS")
        entry, after = (
            dict(zip(names, struct.unpack_from("<17Q", data, at - BASE), strict=True))
            for at in (ENTRY, AFTER)
        )
        fx = [data[at - BASE :][:512] for at in (ENTRY_FX, AFTER_FX)]
        info = SigInfo(SIGNAL, SI_TKILL, pid, os.getuid())
        mark = struct.unpack_from("<Q", data, MARK - BASE)[0]
        left = AltStack(*AltStack.FORMAT.unpack(after_stack.raw))
        return Outcome(data, sent, entry, fx[0], after, fx[1], mark, info, left)

    def _put(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the host's kernel is not Linux on x86-64")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    private_anonymous_fixed_noreplace = 0x2 | 0x20 | 0x100000
    at = libc.mmap(BASE, SIZE, 7, private_anonymous_fixed_noreplace, -1, 0)
    if at != BASE:
        pytest.skip("the host does not give writable and executable memory at a fixed address")
    libc.mprotect(ctypes.c_void_p(READ_ONLY), ctypes.c_size_t(0x1000), 1)
    ctypes.string_at(READ_ONLY, 1)  # the page is present from here on
    yield Host(libc, (ctypes.c_char * SIZE).from_address(BASE))
    libc.mprotect(ctypes.c_void_p(READ_ONLY), ctypes.c_size_t(0x1000), 7)
    libc.munmap(ctypes.c_void_p(BASE), ctypes.c_size_t(SIZE))


def build_like(
    outcome: Outcome, sa_flags: int, altstack: AltStack | None = None
) -> tuple[Memory, Registers, signal_frame.Frame]:
    """The same frame, built by the model."""
    memory = Memory()
    memory.map("all", BASE, SIZE, Prot.RW | Prot.EXEC)
    registers = outcome.sent.copy()
    action = SigAction(HANDLER, sa_flags | SaFlags.RESTORER, RESTORER, 1 << 9)
    frame = signal_frame.build(
        memory, registers, outcome.info, action, altstack=altstack, trap=trap_of(outcome)
    )
    return memory, registers, frame


def trap_of(outcome: Outcome) -> Trap:
    """What the host's thread remembers of its last exception, in this process or before."""
    names = ("err", "trapno", "cr2")
    ucontext = outcome.entry["RDX"]
    return Trap(*(outcome.u64(ucontext + signal_frame.OFFSETS[name]) for name in names))


CASES = {
    "normal stack": (SaFlags.SIGINFO, AltStack()),
    "no siginfo asked for": (0, AltStack()),
    "alternate stack not asked for": (SaFlags.SIGINFO, AltStack(ALT, 0, ALT_SIZE)),
    "alternate stack": (SaFlags.SIGINFO | SaFlags.ONSTACK, AltStack(ALT, 0, ALT_SIZE)),
    "odd alternate stack": (SaFlags.SIGINFO | SaFlags.ONSTACK, AltStack(ALT + 5, 0, 0x7F01)),
    "asked for but not there": (SaFlags.SIGINFO | SaFlags.ONSTACK, AltStack()),
}


@pytest.mark.parametrize("case", CASES)
def test_frame_is_the_one_that_the_hosts_kernel_builds(host: Host, case: str) -> None:
    sa_flags, altstack = CASES[case]
    outcome = host.run(sa_flags=sa_flags, altstack=altstack)
    memory, registers, frame = build_like(outcome, sa_flags, altstack)
    at = outcome.entry["RSP"]
    area = outcome.u64(at + 8 + signal_frame.OFFSETS["fpstate"])
    extended_size = outcome.u32(area + 468)

    # Placement: only the size of the extended state differs between the host and the model.
    top = altstack.sp + altstack.size if frame.onstack else RSP - signal_frame.RED_ZONE
    assert area == (top - extended_size) & -64
    assert at == ((area - signal_frame.FRAME_SIZE) & -16) - 8
    assert frame.fpstate == (top - fpstate.FRAME_SIZE) & -64
    assert frame.address == ((frame.fpstate - signal_frame.FRAME_SIZE) & -16) - 8
    assert frame.address % 16 == at % 16 == 8

    # Every byte of the frame but the pointer to the floating-point state.
    mine = bytearray(memory.read(frame.address, signal_frame.FRAME_SIZE))
    theirs = bytearray(outcome.stack[at - BASE :][: signal_frame.FRAME_SIZE])
    pointer = 8 + signal_frame.OFFSETS["fpstate"]
    mine[pointer : pointer + 8] = theirs[pointer : pointer + 8] = bytes(8)
    assert mine.hex(" ", 8) == theirs.hex(" ", 8)

    # The FXSAVE image up to the software-reserved bytes, without FOP, FIP, FDP (not modelled).
    mine = bytearray(memory.read(frame.fpstate, fpstate.FRAME_SIZE))
    theirs = bytearray(outcome.stack[area - BASE :][:extended_size])
    theirs[6:24] = bytes(18)
    assert mine[:464].hex(" ", 8) == theirs[:464].hex(" ", 8)
    magic1, extended, features, size = struct.unpack_from("<IIQI", theirs, 464)
    assert magic1 == fpstate.FP_XSTATE_MAGIC1
    assert extended == size + 4
    assert features & 3 == 3
    assert theirs[512] & 3 == mine[512] == 3  # XSTATE_BV
    assert theirs[-4:] == mine[-4:]  # FP_XSTATE_MAGIC2

    # The handler's registers at its entry.
    for name in ("RDI", "RAX", "RFLAGS", "RBX", "RCX", "R8", "R11", "R15"):
        assert registers[name] == outcome.entry[name], name
    assert outcome.entry["RSI"] == at + signal_frame.SIGINFO
    assert outcome.entry["RDX"] == at + signal_frame.UCONTEXT
    assert registers["RSP"] == frame.address
    assert registers["RSI"] == frame.siginfo
    assert registers["RDX"] == frame.ucontext
    initial = registers_from_fx(outcome.entry_fx)
    initial["FTW"] = 0xFFFF
    fp = ("MXCSR", "FCW", "FSW", "FTW", "XMM0", "XMM15", "ST0", "ST7")
    assert [registers[name] for name in fp] == [initial[name] for name in fp]


def test_red_zone_is_kept(host: Host) -> None:
    outcome = host.run(sa_flags=SaFlags.SIGINFO)
    assert outcome.stack[RSP - 128 - BASE : RSP - BASE] == RED_ZONE_PATTERN
    memory, _, frame = build_like(outcome, SaFlags.SIGINFO)
    assert memory.read(RSP - 128, 128) == bytes(128)
    assert frame.fpstate + fpstate.FRAME_SIZE <= RSP - 128


def test_direction_flag_is_clear_in_the_handler_and_set_again_after_it(host: Host) -> None:
    outcome = host.run(sa_flags=SaFlags.SIGINFO, flags=FLAGS | 0x400)
    memory, registers, frame = build_like(outcome, SaFlags.SIGINFO)
    assert registers["RFLAGS"] == outcome.entry["RFLAGS"] == FLAGS
    signal_frame.restore_sigcontext(memory, frame.address, registers)
    assert registers["RFLAGS"] == outcome.after["RFLAGS"] == FLAGS | 0x400


def test_frame_on_the_alternate_stack_when_already_on_it_goes_below(host: Host) -> None:
    altstack = AltStack(ALT, 0, ALT_SIZE)
    sa_flags = SaFlags.SIGINFO | SaFlags.ONSTACK
    rsp = ALT + ALT_SIZE - 0x100
    outcome = host.run(sa_flags=sa_flags, altstack=altstack, rsp=rsp)
    _, _, frame = build_like(outcome, sa_flags, altstack)
    area = outcome.u64(outcome.entry["RDX"] + signal_frame.OFFSETS["fpstate"])
    assert area == (rsp - 128 - outcome.u32(area + 468)) & -64
    assert frame.fpstate == (rsp - 128 - fpstate.FRAME_SIZE) & -64
    assert frame.onstack


def patch(*changes: tuple[str, int]) -> str:
    """Handler code that changes fields of the ucontext (or, "fx+N", of the FXSAVE image)."""
    text = f"mov rcx, [rdx + {signal_frame.OFFSETS['fpstate']}];"
    for name, value in changes:
        base, at = ("rcx", int(name[3:])) if name[:2] == "fx" else ("rdx", 0)
        at = at or signal_frame.OFFSETS.get(name, 0)
        text += f"movabs rax, {value}; mov [{base} + {at}], rax;"
    return text


def apply(memory: Memory, frame: signal_frame.Frame, *changes: tuple[str, int]) -> None:
    """The same changes, by the model's side."""
    for name, value in changes:
        if name[:2] == "fx":
            memory.put_u64(frame.fpstate + int(name[3:]), value)
        else:
            memory.put_u64(frame.ucontext + signal_frame.OFFSETS[name], value)


CHANGES = {
    "nothing": (),
    "every general register": tuple(
        (name, 0x1111_2222_3333_4400 + i) for i, name in enumerate(GENERAL) if name != "RSP"
    ),
    "RIP and RSP": (("RIP", CODE + 0x700), ("RSP", OTHER_STACK)),
    "arithmetic flags": (("RFLAGS", 0x246),),
    "flags that are not the user's": (("RFLAGS", 0x3B_F203),),
    "XMM0 and XMM15": (("fx+160", 0xAAAA), ("fx+400", 0xBBBB), ("fx+408", 0xCCCC)),
    "MXCSR": (("fx+24", 0xFFFF_0000_1F80),),
    "ST0, which is physical register TOP": (("fx+32", 0xE000_0000_0000_0000),),
    "no first magic: FXSAVE only": (("fx+464", 0), ("fx+160", 0xAAAA)),
    "XSTATE_BV without SSE: SSE becomes initial": (("fx+512", 1),),
    "XSTATE_BV without x87: x87 becomes initial": (("fx+512", 2),),
    "xfeatures without SSE": (("fx+472", 1),),
    "fpstate 0: initial": (("fpstate", 0),),
}


@pytest.mark.parametrize("case", CHANGES)
def test_sigreturn_honours_changed_fields_as_the_hosts_kernel_does(host: Host, case: str) -> None:
    changes = CHANGES[case]
    outcome = host.run(sa_flags=SaFlags.SIGINFO, handler=patch(*changes))
    memory, registers, frame = build_like(outcome, SaFlags.SIGINFO)
    apply(memory, frame, *changes)
    registers["RFLAGS"] = 0x202
    signal_frame.restore_sigcontext(memory, frame.address, registers)
    for name, value in outcome.after.items():
        assert registers[name] == value, name
    assert outcome.mark == (registers["RIP"] == CODE + 0x700)
    fx = bytearray(fpstate.pack(registers)[:416])
    theirs = bytearray(outcome.after_fx[:416])
    theirs[6:24] = bytes(18)
    assert fx.hex(" ", 8) == theirs.hex(" ", 8)


def test_altstack_in_the_frame_is_taken_back_by_the_hosts_rule(host: Host) -> None:
    """Linux 6.12 and newer restore it while RSP is still the handler's: EPERM when on it."""
    change = patch(("ss_size", ALT_SIZE // 2))
    altstack = AltStack(ALT, 0, ALT_SIZE)
    elsewhere = host.run(sa_flags=SaFlags.SIGINFO, handler=change, altstack=altstack)
    assert elsewhere.altstack == AltStack(ALT, 0, ALT_SIZE // 2)
    flags = SaFlags.SIGINFO | SaFlags.ONSTACK
    on_it = host.run(sa_flags=flags, handler=change, altstack=altstack)
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if release >= (6, 12):
        assert on_it.altstack == altstack


# Instruction, the fault that the processor reports with the address, signal.
FAULTS = {
    "read of unmapped memory": ("mov rbx, [rax]", FaultKind.READ, 234, 11),
    "write to unmapped memory": ("mov [rax], rbx", FaultKind.WRITE, 234, 11),
    "jump to unmapped memory": ("jmp rax", FaultKind.FETCH, 234, 11),
    "write to a read-only page": (
        f"mov [{READ_ONLY + 8}], rbx",
        FaultKind.WRITE_PROTECTED,
        READ_ONLY + 8,
        11,
    ),
    "jump to a page that is not executable": (
        f"jmp {READ_ONLY + 8}",
        FaultKind.FETCH_PROTECTED,
        READ_ONLY + 8,
        11,
    ),
    "address that is not canonical": ("mov rax, [rbx]", FaultKind.READ, TEST_VALUES["RBX"], 11),
    "read of the kernel's half": (
        "mov rax, [rdx - 0x1000]",
        FaultKind.READ,
        SIGNAL - 0x1000 + 2**64,
        11,
    ),
    "invalid instruction": ("ud2", FaultKind.INVALID, None, 4),
    "division overflow": ("div rdx", FaultKind.DIVIDE, None, 8),
    "breakpoint": ("int3", FaultKind.BREAKPOINT, None, 5),
    "breakpoint in two bytes": (".byte 0xcd, 3", FaultKind.BREAKPOINT, None, 5),
    "privileged instruction": ("hlt", FaultKind.PRIVILEGED, None, 11),
}


@pytest.mark.parametrize("case", FAULTS)
def test_frame_of_a_fault_is_the_one_that_the_hosts_kernel_builds(host: Host, case: str) -> None:
    act, kind, address, signal = FAULTS[case]
    go_on = ("RIP", CODE + 0x700)
    outcome = host.run(sa_flags=SaFlags.SIGINFO, act=act, signal=signal, handler=patch(go_on))
    assert outcome.mark == 1
    memory = Memory()
    memory.map("all", BASE, READ_ONLY - BASE, Prot.RW | Prot.EXEC)
    memory.map("read-only", READ_ONLY, 0x1000, Prot.READ)
    memory.write(BASE, outcome.stack[: READ_ONLY - BASE])
    process = Process(memory, EventStream(), lambda _: None)
    process.actions[signal] = SigAction(
        HANDLER, SaFlags.SIGINFO | SaFlags.RESTORER, RESTORER, 1 << 9
    )
    thread = process.add_thread(outcome.sent.copy(), 0)
    host_trap = trap_of(outcome)
    if host_trap.trapno != 14:  # CR2 is left over from the last page fault
        thread.trap = Trap(cr2=host_trap.cr2)
    pc = outcome.sent["RIP"]
    if act.startswith("jmp"):
        assert address is not None
        thread.registers["RIP"] = pc = address
    raise_fault(process, thread, Fault(kind, pc, address))
    deliver(process, thread)
    frame = thread.registers["RSP"]
    memory.put_u64(thread.registers["RDX"] + signal_frame.OFFSETS["RIP"], go_on[1])
    mine = bytearray(memory.read(frame, signal_frame.FRAME_SIZE))
    at = outcome.entry["RSP"] - BASE
    theirs = bytearray(outcome.stack[at : at + signal_frame.FRAME_SIZE])
    pointer = 8 + signal_frame.OFFSETS["fpstate"]
    mine[pointer : pointer + 8] = theirs[pointer : pointer + 8] = bytes(8)
    # reserved1 of the sigcontext is not written, and the memory there is the host's other frame's.
    reserved = slice(pointer + 8, pointer + 72)
    mine[reserved] = theirs[reserved] = bytes(64)
    assert mine.hex(" ", 8) == theirs.hex(" ", 8)
