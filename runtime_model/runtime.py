"""The runtime's context: where its structures lie, and how Python and machine code call each other.

Functions of Go's runtime are Python functions of this package that take a `Runtime` first; those
that machine code calls are bound to gates (boot.py). A gate that returns does what a Go function
may do to its caller: every register that the ABI does not keep is overwritten with poison.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from asm.image import Image
from emulator.memory import UnmappedError
from emulator.registers import ARITHMETIC_FLAGS
from runtime_model.events import Entered
from runtime_model.poison import GENERAL_PART, STACK_POISON, VECTOR_PART, Poison
from runtime_model.runtime2 import G, M, Sched, Views

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asm.image import Code
    from emulator.fault import GuestStopped
    from emulator.linux.threads import Thread
    from emulator.machine import Machine
    from runtime_model.call import Executable
    from runtime_model.layout import Layout
    from runtime_model.policy import Policy
    from runtime_model.symtab import ImageTable
    from runtime_model.version import GoVersion
    from runtime_model.watch import Watch

_P = ParamSpec("_P")
_R = TypeVar("_R")

_POISON: Final = Poison.distinct()

# What a Go function keeps for its caller: BP as the frame pointer in every version; from 1.17 on
# ABIInternal fixes g in R14 and zero in X15 (cmd/compile/abi-internal.md).
KEPT_BY_ABI0: Final = ("RSP", "RBP")
KEPT_WITH_G: Final = ("RSP", "RBP", "R14")
KEPT_BY_ABIINTERNAL: Final = ("RSP", "RBP", "R14", "XMM15")


def named(
    function: Callable[Concatenate[Runtime, _P], _R],
) -> Callable[Concatenate[Runtime, _P], _R]:
    """Makes each call of a runtime function an Entered event.

    Functions that Go's compiler inlines are not decorated: no thread is ever seen in them.
    """
    name = function.__name__

    def enter(rt: Runtime, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        rt.enter(name)
        return function(rt, *args, **kwargs)

    return functools.update_wrapper(enter, function)


class Runtime(Views):
    """One booted runtime. All of its state lies in `memory`; this holds addresses and rules."""

    machine: Machine
    text: Image  # the runtime's assembly
    user: Code  # the snippet, or the executable
    executable: Executable | None = None  # that `user` is the code of
    functions: ImageTable
    policy: Policy
    watch: Watch
    asyncPreemptStack: int
    asyncPreempt2Stack: int  # of it, bytes below the return PC of the call of asyncPreempt2
    stackGuard: int
    stackNosplit: int  # _StackLimit up to 1.19
    startingStackSize: int
    maxstacksize: int
    stackpool: int  # address of the heads of the lists of free stacks, and of the cursor
    gomaxprocs: int
    sched: Sched
    allp: tuple[int, ...]  # addresses of the Ps, by id
    allm: int  # address of the variable that heads the list of Ms
    heap: int  # address of the bump allocator's cursor
    heap_end: int
    goroutines: tuple[int, ...]  # addresses of the user goroutines' g, in order of creation
    freezing: int  # address of how often freezetheworld has asked
    free_ms: int  # address of the list of Ms that have no thread yet
    sysmon_m: int = 0
    gcworker_m: int = 0
    gcworker_g: int = 0  # the second mark worker, a goroutine of the runtime's own
    gcwork: int = 0  # address of the mark worker's variables; 0: there is none
    mheap: int = 0  # address of the heap's spans

    def __init__(self, machine: Machine, layout: Layout, version: GoVersion) -> None:
        self.machine = machine
        self.memory = machine.memory
        self.layout = layout
        self.version = version
        self.symbols: dict[str, int] = {}
        self.preemption_poison: Callable[[G], Poison] = lambda _: _POISON
        self.stack_poison = STACK_POISON  # a byte for memory that may be overwritten
        self.dying: GuestStopped | None = None  # what the program dies of while it is frozen
        self._thread: Thread | None = None
        self._m_of_thread: dict[int, int] = {}
        self._number_of_g: dict[int, int] = {}

    @property
    def snippet(self) -> Image:
        """The snippet that was assembled."""
        assert isinstance(self.user, Image), "the program is an executable"
        return self.user

    # Views.

    def ms(self) -> Iterator[M]:
        """All Ms."""
        address = self.memory.u64(self.allm)
        while address:
            yield (mp := self.m(address))
            address = mp.alllink

    # The current thread: the one whose machine code called into Python.

    @property
    def thread(self) -> Thread:
        """The thread in whose name runtime functions run."""
        assert self._thread is not None, "no thread is in the runtime"
        return self._thread

    @property
    def tid(self) -> int:
        """Its tid; -1 while no thread is in the runtime."""
        return self._thread.tid if self._thread is not None else -1

    @contextlib.contextmanager
    def acting(self, thread: Thread) -> Iterator[None]:
        """Runtime functions run in the thread's name meanwhile."""
        self.machine.registers(thread)  # made current: it may have been the last to run
        before, self._thread = self._thread, thread
        try:
            yield
        finally:
            self._thread = before

    def getg_of(self, thread: Thread) -> int:
        """The address of the g that the thread's TLS slot names (FS:-8); 0 before it is set."""
        base = thread.registers["FS_BASE"]
        return self.memory.u64(base - 8) if base else 0

    def getg(self) -> G:
        """The current g, from TLS."""
        return self.g(self.getg_of(self.thread))

    def setg(self, gp: G) -> None:
        """Sets the current g in TLS, and in R14 where that is the g register."""
        self.enter("setg")
        self.memory.put_u64(self.thread.registers["FS_BASE"] - 8, gp.address)
        if self.version.register_abi:
            self.thread.registers["R14"] = gp.address

    def identity(self, tid: int) -> tuple[int, int]:
        """(M's id, G's goid) of a thread, as events name them: 0 is g0, -1 gsignal.

        Both are -1 where its TLS names no g, which a program may do to itself.
        """
        try:
            return self._identity(tid)
        except UnmappedError:
            return (-1, -1)

    def _identity(self, tid: int) -> tuple[int, int]:
        thread = self.machine.threads.get(tid)
        address = self.getg_of(thread) if thread is not None else 0
        if not address:
            return (-1, -1)
        # A thread belongs to one M for good, and a g keeps its number.
        m = self._m_of_thread.get(tid)
        if m is None:
            gp = self.g(address)
            if not gp.m:
                return (-1, gp.goid)
            m = self._m_of_thread[tid] = self.m(gp.m).id
        g = self.number_of_g(address)
        return (m, g)

    def number_of_g(self, address: int) -> int:
        """The goid of the g at an address; 0 for a g0, -1 for a gsignal."""
        number = self._number_of_g.get(address)
        if number is None:
            gp = self.g(address)
            is_gsignal = gp.m and self.m(gp.m).gsignal == address
            number = self._number_of_g[address] = -1 if is_gsignal else gp.goid
        return number

    def enter(self, name: str) -> None:
        """Emits the event that a function was entered."""
        self.machine.events.emit(Entered(tid=self.tid, function=name))

    # Python calls machine code.

    def symbol(self, name: str) -> int:
        """The address of a runtime symbol, `runtime.` left out."""
        return self.symbols["runtime." + name]

    def call0(self, name: str, *args: int, results: int = 0) -> int:
        """Calls an ABI0 assembly function with 8-byte argument words; returns one result word.

        `results` is the number of result words behind the arguments (0 or 1). The call runs on
        the current thread's stack, atomically.
        """
        thread = self.thread
        words = len(args) + results
        rsp = (thread.registers["RSP"] - 8 * words - 16) & ~15
        for i, value in enumerate(args):
            self.memory.put_u64(rsp + 8 * i, value)
        self.machine.call(thread, self.symbol(name), RSP=rsp)
        return self.memory.u64(rsp + 8 * len(args)) if results else 0

    @contextlib.contextmanager
    def on_stack(self, size: int) -> Iterator[int]:
        """Zeroed memory on the current thread's stack, for calls of machine code to point to."""
        registers = self.thread.registers
        before = registers["RSP"]
        registers["RSP"] = address = before - size & ~15
        self.memory.write(address, bytes(size))
        try:
            yield address
        finally:
            registers["RSP"] = before

    def argument(self, index: int) -> int:
        """Argument `index` of the Go function that a gate stands for (integers and pointers)."""
        registers = self.thread.registers
        if self.version.register_abi:
            return registers[("RAX", "RBX", "RCX", "RDI", "RSI")[index]]
        return self.memory.u64(registers["RSP"] + 8 + 8 * index)

    def tail(self, name: str, argument: int) -> int:
        """Leaves the gate for a function that does not return, with one argument.

        The argument is passed both ways, on the stack and in AX: the address to go on at.
        """
        registers = self.thread.registers
        self.clobber()
        rsp = ((registers["RSP"] - 32) & ~15) - 8
        self.memory.put_u64(rsp, 0)  # a return address that leads nowhere
        self.memory.put_u64(rsp + 8, argument)
        registers["RSP"] = rsp
        registers["RAX"] = argument
        return self.symbol(name)

    def gogo(self, gp: G) -> int:
        """Leaves the gate for gp: the machine code of gogo takes &gp.sched."""
        return self.tail("gogo", gp.field_address("sched"))

    def mcall(self, function: str) -> int:
        """Leaves the gate through mcall of a runtime function that has a func value."""
        return self.tail("mcall", self.symbol(function + ".f"))

    # What a Go function does to its caller's registers.

    def clobber(self, kept: tuple[str, ...] = (), poison: Poison = _POISON) -> None:
        """Overwrites all registers but the kept ones, and the dead stack below RSP.

        By default, what the version's calling convention keeps is kept: R14 is g then, and X15
        is zero.
        """
        registers = self.thread.registers
        if not kept:
            kept = KEPT_BY_ABIINTERNAL if self.version.register_abi else KEPT_BY_ABI0
        values = [
            (name, self.getg_of(self.thread))
            if name == "R14"
            else (name, 0 if name == "XMM15" else registers[name])
            for name in kept
        ]
        registers.block[GENERAL_PART] = poison.general
        registers.block[VECTOR_PART] = poison.vectors
        registers.extended = poison.extend(registers.extended)
        for name, value in values:
            registers[name] = value
        registers["RFLAGS"] = registers["RFLAGS"] & ~int(ARITHMETIC_FLAGS) | poison.flags
        self.poison_dead_stack(registers["RSP"])

    def poison_dead_stack(self, rsp: int, size: int = 1024) -> None:
        """Overwrites up to `size` bytes below rsp, as deeper frames would."""
        region = self.memory.find(rsp - 1)
        if region is not None:
            low = max(region.start, rsp - size)
            self.memory.write(low, self.stack_poison * (rsp - low))

    # Allocation.

    def persistentalloc(self, size: int, align: int = 64) -> int:
        """Zeroed memory that is never freed (runtime/malloc.go: persistentalloc)."""
        start = -(-self.memory.u64(self.heap) // align) * align
        if start + size > self.heap_end:
            raise MemoryError("the runtime model's own memory is used up")
        self.memory.put_u64(self.heap, start + size)
        return start
