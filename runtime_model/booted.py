"""The Go runtime of an unmodified executable that was booted in the machine, as the model sees it.

Nothing of it is replaced: its own sysmon asks, its own handler decides, its own asyncPreempt saves
and restores. What happens is told in the events of the model. A SIGURG is a request, and the
frames of who sends it say whose; breakpoints at the runtime's functions tell the rest:

- asyncPreempt (preempt_amd64.s): pushCall has happened, the pushed PC lies at SP;
- asyncPreempt's RET: the goroutine goes on where it was;
- gopreempt_m (proc.go) without asyncSafePoint: newstack gives way at a stack check. Where it is
  inlined (1.26 on), goschedImpl is there, which is told that it is a preemption.

g is what the thread's TLS slot holds, at FS base - 8 (cmd/internal/obj/x86, ELF). Where the ABI
passes arguments in registers (1.17 on), the first is in RAX, else at 8(SP).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Final

from emulator.disassembly import disassemble
from emulator.events import Event, SignalSent
from emulator.linux import execve, signals
from emulator.linux.signal_abi import SI_TKILL, SigInfo
from emulator.linux.tree import Tree
from emulator.machine import Machine
from emulator.memory import Memory, UnmappedError
from emulator.registers import Registers  # noqa: TC001  # who saves Entered resolves it
from emulator.unicorn_cpu import UnicornCpu
from runtime_model import layout
from runtime_model.events import (
    Descheduled,
    Executing,
    Loss,
    PreemptRequested,
    PushedCall,
    Resumed,
)
from runtime_model.losses import memory_losses
from runtime_model.runtime2 import G, M, Views

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asm.image import Image
    from emulator.linux.threads import Thread
    from runtime_model.executable import ExecutableCode, ExecutableTable
    from runtime_model.func_info import Frame, GoFunc
    from runtime_model.moduledata import GoBinary

TLS_G: Final = 8  # bytes below FS base
MOST_FRAMES: Final = 64  # of a walk along saved frame pointers
SIGURG: Final = 23
QUANTUM: Final = 200_000  # ns: a switch of threads costs as much as some ten thousand instructions

# Who asks, as proc.go, preempt.go and mgc*.go call it; the first of them on the stack.
REQUESTERS: Final = (
    "runtime.retake",
    "runtime.preemptall",
    "runtime.suspendG",
    "runtime.forEachPInternal",
    "runtime.forEachP",
    "runtime.(*gcControllerState).enlistWorker",
    "runtime.freezetheworld",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the program is given, and how its threads are scheduled; everything else is fixed.

    quantum: ns that a thread may get ahead of another. seed: of random bytes and, unless it is 0,
    of quanta between half and one and a half times as long. budget: instructions, None for no
    limit. enosys: a system call that is missing fails with ENOSYS instead of ending the run.
    """

    argv: tuple[bytes, ...]
    envp: tuple[bytes, ...] = ()
    stdin: bytes = b""
    files: tuple[tuple[str, bytes], ...] = ()
    cpus: int = 4
    quantum: int = QUANTUM
    seed: int = 0
    budget: int | None = None
    memory_limit: int | None = 4 << 30
    output_limit: int | None = 256 << 20
    enosys: bool = False
    counting: str | None = None


@dataclass(frozen=True, slots=True)
class Entered:
    """What asyncPreempt has to preserve: the state at its first instruction, and on which M."""

    registers: Registers
    stack: bytes  # from RSP, where the pushed PC lies, to its end
    m: int


class Booted(Views):
    """A machine with a Go executable at its entry, and views of its runtime.

    Raises ElfError for what cannot be loaded.
    """

    def __init__(self, binary: GoBinary, settings: Settings) -> None:
        self.binary = binary
        self.version = binary.version
        self.layout = layout.load(binary.version.number)
        self.memory = Memory()
        cpu = UnicornCpu(self.memory, counting=settings.counting, seed=settings.seed)
        machine = Machine(
            self.memory, cpu, slice_ns=settings.quantum, budget=settings.budget, seed=settings.seed
        )
        self.machine = machine
        linux = machine.linux
        linux.cpus = settings.cpus
        linux.random.seed(settings.seed)
        linux.memory_limit, linux.output_limit = settings.memory_limit, settings.output_limit
        linux.enosys = settings.enosys
        linux.tree = Tree(dict(settings.files))
        linux.set_stdin(settings.stdin)
        loaded = execve.load(machine, binary.elf, settings.argv, settings.envp)
        self.base = loaded.base
        machine.events.identity = self.identity
        self._find = lru_cache(4096)(self._find_uncached)
        self.entered: dict[int, Entered] = {}  # by goroutine, while it is preempted
        self._watch()

    # Views. Those of code are for who looks at it: a plain run is spared their imports.

    @cached_property
    def user(self) -> ExecutableCode:
        """The executable's code."""
        from runtime_model.executable import ExecutableCode

        return ExecutableCode(self.binary, self.base)

    @cached_property
    def text(self) -> Image:
        """Nothing of the runtime is the model's."""
        from asm.image import Image

        return Image((), (), ())

    @cached_property
    def functions(self) -> ExecutableTable:
        """The executable's functions."""
        from runtime_model.executable import ExecutableTable

        return ExecutableTable(self.binary, self.base)

    def getg(self, thread: Thread) -> G | None:
        """The g that the thread's TLS slot holds; None before there is one."""
        fs = thread.registers["FS_BASE"]
        if not fs:
            return None
        try:
            address = self.memory.u64(fs - TLS_G)
        except UnmappedError:
            return None
        return G(self.memory, self.layout, address) if address else None

    def getg_of(self, thread: Thread) -> int:
        """The address of that g, 0 for none."""
        g = self.getg(thread)
        return 0 if g is None else g.address

    def ms(self) -> Iterator[M]:
        """The Ms of threads that have a g."""
        for thread in self.machine.threads.values():
            g = self.getg(thread)
            if g is not None and g.m:
                yield self.m(g.m)

    def identity(self, tid: int) -> tuple[int, int]:
        """M and goroutine numbers of a thread; both -1 without one, 0 for g0, -1 for gsignal."""
        g = self.getg(self.machine.threads[tid])
        try:
            if g is None or not g.m:
                return -1, -1
            return self.m(g.m).id & 0x7FFF_FFFF, self.number_of_g(g.address)
        except UnmappedError:
            return -1, -1

    def number_of_g(self, address: int, memory: Memory | None = None) -> int:
        """The goid of the g at an address, now or in memory of the past; 0 for g0, -1 gsignal."""
        gp = G(memory or self.memory, self.layout, address)
        if gp.m:
            mp = M(gp.memory, self.layout, gp.m)
            if address in (mp.g0, mp.gsignal):
                return 0 if address == mp.g0 else -1
        return gp.goid

    # Functions.

    def findfunc(self, pc: int) -> GoFunc | None:
        """The function that holds a PC of the running program."""
        return self.binary.findfunc(pc - self.base)

    def address(self, name: str) -> int | None:
        """Where a function of that name begins."""
        found = self._find(name)
        return None if found is None else found.entry + self.base

    def _find_uncached(self, name: str) -> GoFunc | None:
        named = [f for f in self.binary.table.named(name) if f.name == name]
        return named[0] if named else None

    def frames(self, pc: int) -> tuple[Frame, ...]:
        """The functions at a PC, the innermost inlined one first; none where it is not Go code."""
        function = self.findfunc(pc)
        return () if function is None else function.frames(pc - self.base)

    def callers(self, thread: Thread) -> list[int]:
        """Return PCs along saved frame pointers (RBP), the innermost first: Go keeps them."""
        found: list[int] = []
        rbp = thread.registers["RBP"]
        try:
            while rbp and len(found) < MOST_FRAMES:
                pc, following = self.memory.u64(rbp + 8), self.memory.u64(rbp)
                if self.findfunc(pc) is None:
                    break
                found.append(pc)
                if following <= rbp:
                    break
                rbp = following
        except UnmappedError:
            pass
        return found

    def return_pcs(self, registers: Registers) -> Iterator[int]:
        """Return PCs by the functions' pcsp tables, the innermost first, as far as they go."""
        pc, sp = registers["RIP"], registers["RSP"]
        for _ in range(MOST_FRAMES):
            function = self.findfunc(pc)
            at = pc - self.base
            deltas = () if function is None else function.spdelta()
            delta = next((value for start, end, value in deltas if start <= at < end), None)
            if delta is None:
                return
            try:
                pc = self.memory.u64(sp + delta)
            except UnmappedError:
                return
            sp += delta + 8
            yield pc

    # What is asked for.

    def request_preemption(self, thread: Thread, why: str) -> None:
        """What preemptone does of the P that a thread runs (proc.go), and the signal."""
        from runtime_model.stack import stackPreempt  # the model's runtime, of which this is all

        gp = self.getg(thread)
        assert gp is not None
        pp = self.p(self.m(gp.m).p)
        gp.preempt, gp.stackguard0, pp.preempt = 1, stackPreempt, 1
        linux = self.machine.linux
        self.machine.events.emit(
            PreemptRequested(
                p=pp.id,
                target_m=self.m(gp.m).id,
                target_g=gp.goid,
                why=why,
                asynchronous=True,
            )
        )
        info = SigInfo(SIGURG, SI_TKILL, linux.pid, linux.uid)
        signals.send(linux, info, thread, None)

    # What happens.

    def _watch(self) -> None:
        machine = self.machine
        machine.events.subscribe(self._signal)
        inlined = self.address("runtime.gopreempt_m") is None
        self._at("runtime.asyncPreempt", self._asyncPreempt)
        if inlined:
            self._at("runtime.goschedImpl", self._goschedImpl)
        else:
            self._at("runtime.gopreempt_m", self._gopreempt_m)

    def _at(self, name: str, reached: Callable[[Thread], None]) -> None:
        address = self.address(name)
        if address is not None:
            self.machine.add_breakpoint(address, reached)

    def follow_scheduler(self) -> None:
        """Tells from now on what runs where: each Executing and Descheduled; now all that do."""
        machine = self.machine
        for name in ("runtime.gopreempt_m", "runtime.goschedImpl"):
            address = self.address(name)
            if address in machine.breakpoints:
                machine.remove_breakpoint(address)
        self._at("runtime.execute", self._execute)
        for name, why in (
            ("runtime.goschedImpl", "yielded"),
            ("runtime.goyield_m", "yielded"),
            ("runtime.preemptPark", "preempted"),
            ("runtime.park_m", "parked"),
            ("runtime.goexit0", "exited"),
        ):
            self._at(name, partial(self._left, why))
        for tid, thread in machine.threads.items():
            g = self.getg(thread)
            mp = self.m(g.m) if g is not None and g.m else None
            if mp is not None and mp.curg and mp.p:
                goid, pp = self.g(mp.curg).goid, self.p(mp.p)
                machine.events.emit(Executing(tid=tid, goid=goid, p=pp.id))

    def _execute(self, thread: Thread) -> None:
        """At execute(gp, inheritTime): the M has its P already."""
        gp, g = self.argument_g(thread), self.getg(thread)
        pp = self.m(g.m).p if g is not None else 0
        number = self.p(pp).id if pp else 0
        self.machine.events.emit(Executing(tid=thread.tid, goid=gp.goid, p=number))

    def _left(self, why: str, thread: Thread) -> None:
        """At a function that takes the goroutine off its M; its argument is the g."""
        gp, g = self.argument_g(thread), self.getg(thread)
        if why == "yielded" and (gp.asyncSafePoint or gp.preempt):
            why = "preempted" if gp.asyncSafePoint else "cooperative"
        pp = self.m(g.m).p if g is not None else 0
        number = self.p(pp).id if pp else 0
        self.machine.events.emit(
            Descheduled(tid=thread.tid, pc=gp.sched_pc, goid=gp.goid, p=number, why=why)
        )

    @cached_property
    def asyncPreempt(self) -> tuple[list[int], list[int]]:
        """Where asyncPreempt returns, and where it goes on behind its calls."""
        function = self._find("runtime.asyncPreempt")
        if function is None:
            return [], []
        code = bytes(self.binary.code(function.entry, function.end))
        found = disassemble(code, function.entry + self.base)
        returns = [each.address for each in found if each.mnemonic == "ret"]
        return returns, [each.address + each.size for each in found if each.mnemonic == "call"]

    def argument_g(self, thread: Thread) -> G:
        """The g that is the first argument of the function that a thread has just entered."""
        return G(self.memory, self.layout, self._argument(thread))

    def _argument(self, thread: Thread) -> int:
        if self.version.register_abi:
            return thread.registers["RAX"]
        return self.memory.u64(thread.registers["RSP"] + 8)

    def _signal(self, event: Event) -> None:
        """A SIGURG is on its way: who sent it, and to whom."""
        if not isinstance(event, SignalSent) or event.signal != SIGURG or event.tid < 0:
            return
        threads = self.machine.threads
        sender = threads[event.tid]
        g = self.getg(threads[event.target])
        mp = self.m(g.m) if g is not None else None
        curg = mp.curg if mp is not None else 0
        # tgkill has no frame: its caller's PC lies at SP.
        names = [
            frame.function
            for pc in [self.memory.u64(sender.registers["RSP"]), *self.callers(sender)]
            for frame in self.frames(pc - 1)
        ]
        why = next((name for name in names if name in REQUESTERS), names[0] if names else "?")
        self.machine.events.emit(
            PreemptRequested(
                tid=event.tid,
                pc=event.pc,
                p=self.p(mp.p).id if mp is not None and mp.p else 0,
                target_m=mp.id if mp is not None else -1,
                target_g=self.g(curg).goid if curg else 0,
                why=why.removeprefix("runtime."),
                asynchronous=True,
            )
        )

    def watch_returns(self) -> None:
        """Has asyncPreempt's RETs looked at; called when the first goroutine is in it."""
        for address in self.asyncPreempt[0]:
            if address not in self.machine.breakpoints:
                self.machine.add_breakpoint(address, self._resumed)

    def _asyncPreempt(self, thread: Thread) -> None:
        self.watch_returns()
        rsp = thread.registers["RSP"]
        resume = self.memory.u64(rsp)
        m, goid = self.identity(thread.tid)
        g = self.getg(thread)
        above = self.memory.read(rsp, g.stack_hi - rsp) if g is not None else b""
        self.entered[goid] = Entered(thread.registers.copy(), above, m)
        stack = tuple(self.memory.u64(rsp + 8 * i) for i in range(6))
        self.machine.events.emit(
            PushedCall(
                tid=thread.tid,
                pc=resume,
                target=thread.registers["RIP"],
                resume=resume,
                rsp_before=rsp + 8,
                rsp_after=rsp,
                stack_before=stack[1:],
                stack_after=stack,
            )
        )

    def _resumed(self, thread: Thread) -> None:
        """At asyncPreempt's RET all is to be as it was when it was entered."""
        after = thread.registers.copy()
        rsp = after["RSP"]
        pc = self.memory.u64(rsp)
        m, goid = self.identity(thread.tid)
        entered = self.entered.pop(goid, None)
        losses: list[Loss] = []
        if entered is not None:
            after["RIP"] = entered.registers["RIP"]
            losses = [
                Loss(register=name, before=entered.registers[name], after=after[name])
                for name in entered.registers.diff(after)
                if name not in ("FS_BASE", "GS_BASE")
            ]
            if rsp == entered.registers["RSP"]:
                found = self.memory.read(rsp, len(entered.stack))
                losses += memory_losses(rsp, entered.stack, found)
        self.machine.events.emit(
            Resumed(
                tid=thread.tid,
                pc=pc,
                goid=goid,
                interrupted=pc,
                interrupted_m=m if entered is None else entered.m,
                rsp=rsp + 8,
                losses=losses,
            )
        )

    def _goschedImpl(self, thread: Thread) -> None:
        """Where gopreempt_m is inlined, the second argument, preempted, is in RBX."""
        if thread.registers["RBX"] & 1:
            self._gopreempt_m(thread)

    def _gopreempt_m(self, thread: Thread) -> None:
        gp = self.argument_g(thread)
        if gp.asyncSafePoint:
            return
        self.machine.events.emit(
            Descheduled(tid=thread.tid, pc=gp.sched_pc, goid=gp.goid, why="cooperative")
        )
