"""A machine with a few pages, for programs of a few instructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import KS_ARCH_X86, KS_MODE_64, Ks

from emulator.events import Event, FrameBuilt, SystemCall
from emulator.linux.signal_abi import SaFlags, SigAction
from emulator.machine import Machine
from emulator.memory import Memory, Prot
from emulator.unicorn_cpu import UnicornCpu

if TYPE_CHECKING:
    from emulator.linux.threads import Thread

CODE = 0x40_0000
HANDLER = CODE + 0x1000
OTHER = CODE + 0x2000
WATCHED = CODE + 0x3000
RESTORER = CODE + 0x4000
CODE_SIZE = 0x5000
DATA = 0x50_0000
STACK = 0x60_0000  # the first thread's; others lie above it
STACK_SIZE = 0x4000
STACKS = 4
ALT = 0x70_0000
ALT_SIZE = 0x4000

RT_SIGACTION, RT_SIGPROCMASK, NANOSLEEP, EXIT, FUTEX = 13, 14, 35, 60, 202
EXIT_GROUP, TGKILL, SIGALTSTACK = 231, 234, 131
PID = 1000


def assemble(text: str, address: int) -> bytes:
    code, _ = Ks(KS_ARCH_X86, KS_MODE_64).asm(text, address)
    return bytes(code)


def syscall(number: int, *arguments: int) -> str:
    """The instructions of a system call."""
    names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
    loads = [f"mov {n}, {v}" for n, v in zip(names, arguments, strict=False)]
    return "; ".join([*loads, f"mov eax, {number}", "syscall"]) + ";"


def exits(code: str) -> str:
    """The instructions that end the process with this status."""
    return f"mov rdi, {code}; mov eax, {EXIT_GROUP}; syscall"


def stack_top(index: int) -> int:
    return STACK + (index + 1) * STACK_SIZE


def computer(texts: dict[int, str], **options: int) -> Machine:
    """A machine with code, data, four stacks and one for signals. CODE + 0x4000 is a restorer."""
    memory = Memory()
    memory.map("code", CODE, CODE_SIZE, Prot.RX)
    memory.map("data", DATA, 0x2000, Prot.RW)
    memory.map("stacks", STACK, STACKS * STACK_SIZE, Prot.RW)
    memory.map("alternate stack", ALT, ALT_SIZE, Prot.RW)
    for address, text in (texts | {RESTORER: "mov eax, 15; syscall"}).items():
        memory.write(address, assemble(text, address))
    return Machine(memory, UnicornCpu(memory), **options)


def start(machine: Machine, rip: int = CODE, index: int | None = None, **registers: int) -> Thread:
    """A thread on a stack of its own."""
    number = len(machine.threads) if index is None else index
    return machine.spawn(rip=rip, rsp=stack_top(number) - 0x100, **registers)


def install(
    machine: Machine, signo: int, handler: int = HANDLER, flags: int = 0, mask: int = 0
) -> None:
    """What rt_sigaction does, without the instructions."""
    flags |= SaFlags.SIGINFO | SaFlags.RESTORER
    machine.linux.actions[signo] = SigAction(handler, flags, RESTORER, mask)


def recorded(machine: Machine) -> list[Event]:
    log: list[Event] = []
    machine.events.subscribe(log.append)
    return log


def frames(log: list[Event]) -> list[FrameBuilt]:
    return [event for event in log if isinstance(event, FrameBuilt)]


def calls(log: list[Event], name: str) -> list[SystemCall]:
    return [event for event in log if isinstance(event, SystemCall) and event.name == name]
