"""A process on the real processor in which SIGURG preempts a snippet as in Go's runtime.

The snippet's code, data, stack, g, m and p lie where the model has them. The handler is machine
code (asm/go/real_signal_amd64.s) on a real alternate stack, its frame the kernel's own; what
isAsyncSafePoint would say of each PC is a table that it reads. There is no scheduler: asyncPreempt2
is code that overwrites all that it may and returns. See sigaltstack(2), rt_sigaction(2) and
timer_create(2).
"""

from __future__ import annotations

import os
import signal
import struct
from typing import TYPE_CHECKING, Final

from emulator import extended
from emulator.fault import GuestStopped
from emulator.host_cpuid import NativeUnavailableError, cpuid
from emulator.memory import PAGE, Prot
from emulator.native.fenced_child import FencedChild
from emulator.registers import Registers
from pushcall.check.batch import CACHE, POISON, symbol_address
from pushcall.snippet.crash import place
from runtime_model.assembly import assemble_signal_handler
from runtime_model.preempt import static_verdict
from runtime_model.trampoline import NAME

if TYPE_CHECKING:
    from emulator.native.ptrace import Halt
    from pushcall.snippet.side import Side
    from runtime_model.preempt import Verdict

SIGNAL_STACK: Final = 0x0E00_0000
SIGNAL_STACK_SIZE: Final = 0x1_0000
IMAGE: Final = 0x0F10_0000  # an XSAVE area
TABLE: Final = 0x0F20_0000
SECONDS: Final = 20  # of processor time that a run may take

_RT_SIGACTION, _RT_SIGRETURN, _SIGALTSTACK = 13, 15, 131
_TIMER_CREATE, _TIMER_SETTIME = 222, 223
_CLOCK_MONOTONIC: Final = 1
_SA: Final = 0x4 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000  # SIGINFO, RESTORER, ONSTACK, RESTART
_ALL: Final = 2**64 - 1  # sigfillset, as setsig has it
_SIGEVENT: Final = struct.Struct("<Qii48x")  # value, signo, SIGEV_SIGNAL
_INT3: Final = b"\xcc"
_JUMP: Final = struct.Struct("<Bi")
_ONE_IN_USE: Final = 1 << 2  # CPUID.(EAX=0DH,ECX=1):EAX: XGETBV with ECX = 1


class SignalChild:
    """The process, for a runtime at a boundary of its goroutine (Side.begin), whose memory it has.

    Raises NativeUnavailableError.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        rt, self.memory = side.rt, side.rt.memory
        self.verdicts: dict[int, Verdict] = {}
        self.code, self.code_size = side.code()
        externs = {NAME: rt.symbol("asyncPreempt")}
        self._image = image = assemble_signal_handler(rt.layout, externs)
        for segment in image.segments:
            prot = Prot.RX if segment.executable else Prot.RW
            self._map(segment.name, segment.address, segment.data, prot)
        self._map("signal stack", SIGNAL_STACK, bytes(SIGNAL_STACK_SIZE), Prot.RW)
        self._map("verdicts", TABLE, self._table(), Prot.READ)
        self._map("XSAVE image", IMAGE, bytes(PAGE), Prot.RW)
        if rt.version.extended_registers:
            self._map("xRegState", CACHE, POISON * rt.layout.size("xRegState"), Prot.RW)
        self._leads_to_the_stub()
        self.child = FencedChild(self.memory, allow=(_RT_SIGRETURN,))
        self._tell()
        self._prepare_kernel()

    def _map(self, name: str, address: int, data: bytes, prot: Prot) -> None:
        if data:
            region = self.memory.map(name, address, -(-len(data) // PAGE) * PAGE, prot)
            region.view[: len(data)] = data

    def _symbol(self, name: str) -> int:
        return symbol_address(self._image, f"signal.{name}")

    def verdict(self, pc: int) -> Verdict:
        """What the tables say of a PC."""
        known = self.verdicts.get(pc)
        if known is None:
            rt = self.side.rt
            known = self.verdicts[pc] = static_verdict(rt.functions, pc, rt.version)
        return known

    def _table(self) -> bytes:
        """For each byte of the code where a call that is pushed there returns to; 0: unsafe."""
        pcs = range(self.code, self.code + self.code_size)
        return struct.pack(f"<{self.code_size}Q", *(self.verdict(pc).resume for pc in pcs))

    def _leads_to_the_stub(self) -> None:
        """Asks nobody: gates trap, and asyncPreempt2 is code without a scheduler."""
        rt, memory = self.side.rt, self.memory
        gates = next(region for region in memory.regions if region.name == "gates")
        gates.view[:] = _INT3 * gates.size
        at = rt.symbol("asyncPreempt2")
        displacement = self._symbol("asyncPreempt2") - at - _JUMP.size
        memory.write(at, _JUMP.pack(0xE9, displacement))

    def _tell(self) -> None:
        """The handler's variables."""
        side, rt = self.side, self.side.rt
        words = {
            "code": self.code,
            "code_size": self.code_size,
            "table": TABLE,
            "lowest": side.stack_lo + rt.asyncPreemptStack,
            "high": side.stack_hi,
        }
        features = self.child.features & extended.FEATURES
        if features and cpuid(0xD, 1)[0] & _ONE_IN_USE:
            words |= {"features": features, "image": IMAGE}
            header = features.to_bytes(8, "little")
            self.memory.write(IMAGE + 512, header)
            self.memory.write(IMAGE + extended.AREA_OFFSET, POISON * extended.SIZE)
            self.memory.put_u64(IMAGE + 24, 0x1F80)  # MXCSR
        if rt.version.extended_registers:
            pp, size = rt.p(rt.allp[0]), rt.layout.size("xRegState")
            self.memory.put_u64(pp.field_address("xRegs.cache"), CACHE)
            words |= {"cache": CACHE, "area": size // 8}
            words["scratch"] = pp.field_address("xRegs.scratch")
        for name, value in words.items():
            self.memory.put_u64(self._symbol(name), value)

    def _prepare_kernel(self) -> None:
        memory, room = self.memory, SIGNAL_STACK
        stack = struct.pack("<QiiQ", SIGNAL_STACK, 0, 0, SIGNAL_STACK_SIZE)
        memory.write(room, stack)
        self._call("have a signal stack", _SIGALTSTACK, room, 0)
        action = (self._symbol("handler"), _SA, self._symbol("restorer"), _ALL)
        memory.write(room, struct.pack("<4Q", *action))
        self._call("have a handler", _RT_SIGACTION, signal.SIGURG, room, 0, 8)

    def start_timer(self, nanoseconds: int) -> None:
        """Has SIGURG come again and again, after so much time each (CLOCK_MONOTONIC).

        All general registers are lost.
        """
        memory, room = self.memory, SIGNAL_STACK
        memory.write(room, _SIGEVENT.pack(0, signal.SIGURG, 0))
        self._call("have a timer", _TIMER_CREATE, _CLOCK_MONOTONIC, room, room + 128)
        spec = divmod(nanoseconds, 1_000_000_000)
        memory.write(room, struct.pack("<4Q", *spec, *spec))
        self._call("start its timer", _TIMER_SETTIME, memory.u32(room + 128), 0, room, 0)

    def _call(self, why: str, number: int, *arguments: int) -> None:
        result = self.child.system_call(number, *arguments)
        if result < 0:
            raise NativeUnavailableError(f"the child cannot {why}: {os.strerror(-result)}")

    def load(self, registers: Registers) -> None:
        """Sets all registers."""
        self.child.load(registers)

    def save(self) -> Registers:
        """All registers at the last stop."""
        registers = Registers()
        self.child.save(registers)
        return registers

    def pushed(self) -> int:
        """How often the handler has pushed a call."""
        return self.memory.u64(self._symbol("pushed"))

    def in_code(self, pc: int) -> bool:
        """Whether a PC is the snippet's."""
        return 0 <= pc - self.code < self.code_size

    def run(self, *, deliver: bool = False) -> Halt:
        """Goes on until a signal, and whatever else stops a child; SIGURG is delivered if asked."""
        return self.child.resume(SECONDS, signo=signal.SIGURG if deliver else 0)

    def deliver(self, landing: int) -> Halt | None:
        """Delivers the SIGURG that it has been stopped with, and follows it to `landing`.

        None: it came there; else what came between. RIP is `landing` then.
        """
        kept = self.memory.read(landing, 1)
        self.memory.write(landing, _INT3)
        try:
            halt = self.run(deliver=True)
            while halt.signo == signal.SIGURG:  # one more, in asyncPreempt: the handler refuses
                halt = self.run(deliver=True)
        finally:
            self.memory.write(landing, kept)
        if halt.signo != signal.SIGTRAP or self.child.rip() != landing + 1:
            return halt
        self.child.jump(landing)
        return None

    def send(self) -> Halt:
        """Sends SIGURG, with which the child is stopped where it is."""
        os.kill(self.child.pid, signal.SIGURG)
        return self.run()

    def explain(self, halt: Halt) -> GuestStopped:
        """A stop that ends the run."""
        rt, registers = self.side.rt, self.save()
        rip = registers["RIP"]
        before = rip - 1 if halt.signo == signal.SIGTRAP else rip
        if halt.call is not None:
            message = f"system call {halt.call}: there is no kernel behind --signals real"
        elif halt.signo == signal.SIGXCPU:
            message = f"it did not end within {SECONDS} s of processor time"
        elif halt.signo == signal.SIGTRAP and before in rt.machine.gates.names:
            message = (
                f"{place(rt, before).symbol} is no machine code: --signals real has none of it"
            )
        else:
            message = f"{signal.Signals(halt.signo).name} at {place(rt, rip)}"
        return GuestStopped(message, registers=registers)
