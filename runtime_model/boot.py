"""From nothing to a runtime whose first thread can start: memory map, g0 and m0, Ps, goroutines.

What the kernel's loader, rt0_go, schedinit, procresize and newproc do (runtime/asm_amd64.s,
proc.go). Threads, handlers and TLS are then set up by the guest's own machine code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from asm.assemble import path_to_prefix
from asm.image import Image
from emulator.engines import UNICORN, processor
from emulator.fault import GuestStopped
from emulator.machine import Machine
from emulator.memory import PAGE, Memory, Prot
from runtime_model import mgc, mheap, stackpool
from runtime_model.assembly import (
    GATES,
    assemble_runtime,
    assemble_user,
    exports,
    linker_name,
)
from runtime_model.call import SHIFT, executable_of
from runtime_model.events import GoroutineCreated
from runtime_model.executable import ExecutableCode
from runtime_model.gates import add_gates
from runtime_model.go_asm_h import Package
from runtime_model.layout import load
from runtime_model.policy import Policy
from runtime_model.runtime import Runtime
from runtime_model.runtime2 import Sched, _Gdead, _Gwaiting
from runtime_model.symtab import ImageTable
from runtime_model.version import DEFAULT, NEWEST, OLDEST, GoVersion
from runtime_model.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from asm.image import Code, Function
    from asm.source import Source
    from emulator.linux.kernel_bugs import KernelBug
    from emulator.linux.threads import Thread
    from runtime_model.call import Call
    from runtime_model.runtime2 import G
    from runtime_model.toolchain import Toolchain
    from runtime_model.trampoline import Trampoline

HEAP: Final = 0xC0_0000_0000  # where Go's first arena lies on linux/amd64
HEAP_SIZE: Final = 0x20_0000
SYSTEM_STACKS: Final = 0x7F00_0000_0000

GOROUTINE_STACK: Final = 32768  # of a check
GSIGNAL_STACK: Final = 32768  # malg(32 * 1024), os_linux.go: mpreinit
MAIN_FRAME: Final = 4 * 8  # newproc1: room above the first frame

MAX_GOROUTINES: Final = 10_000
MAX_PROCS: Final = 64


class BadProgramError(ValueError):
    """A program, version or number that cannot be run; the message says which and why."""


@dataclass(frozen=True)
class Config:
    """What to run, and how. `entry` is a linker name; empty: main.main, else the first function."""

    sources: Sequence[Source]
    version: GoVersion = field(default_factory=lambda: GoVersion(*DEFAULT))
    entry: str = ""
    goroutines: int = 1
    procs: int = 1
    policy: Policy = field(default_factory=Policy)
    trampoline: Trampoline | Source | None = None
    call: Call | None = None  # what to run in place of sources
    as_assembly: bool = False
    defines: Mapping[str, str] = field(default_factory=dict)
    include_dirs: tuple[Path, ...] = ()
    goos: str = "linux"  # what the sources are assembled for; they run on Linux
    syntax: str = "go"  # of the sources
    package: Package = field(default_factory=Package)  # of the sources
    toolchain: Toolchain | None = None  # that makes their go_asm.h; None: see go_asm_h.py
    bugs: frozenset[KernelBug] = frozenset()  # of the Linux that it runs on
    budget: int | None = 2_000_000_000
    slice_ns: int = 10_000
    stacks: int = stackpool.STACKS  # where the first goroutine's lies, a page up
    stack_size: int = 2048  # of a new goroutine (fixedStack), a power of two
    max_stack: int = 1_000_000_000  # that none may grow beyond (runtime.main: maxstacksize)
    engine: str = UNICORN  # of emulator.engines
    gc: bool = False  # one more P, whose M is a mark worker (mgc.py)


def boot(config: Config, text: Image | None = None, user: Code | None = None) -> Runtime:
    """A runtime at the first instruction of rt0_go. Raises AsmError and BadProgramError.

    text, user: of a runtime booted from the same config, to save assembling again.
    """
    rt = assembled(config, text, user)
    machine = rt.machine
    runtime = ((rt.text, False),)
    if isinstance(rt.user, Image):
        rt.functions = ImageTable(((rt.user, not config.as_assembly), *runtime))
    elif rt.executable is not None:
        rt.functions = ImageTable(runtime, rt.executable.table)
        for start, end in rt.executable.watched:
            machine.watch(start, end)
        for address in rt.executable.system_calls:
            machine.add_breakpoint(address, _refuse_system_call)
    for image in (rt.text, rt.user):
        _load(machine, image)
    for segment in rt.text.segments:
        if segment.executable:
            machine.watch(segment.address, segment.address + _pages(len(segment.data)))
    _lay_out(rt, config)
    entry = entry_of(rt.user, config)
    words = config.call.words if config.call is not None else ()
    rt.goroutines = tuple(
        _newproc(rt, entry.address, i + 1, words) for i in range(config.goroutines)
    )
    machine.events.identity = rt.identity
    for address in rt.goroutines:
        machine.events.emit(GoroutineCreated(goid=rt.g(address).goid, function=entry.name))
    rt.watch = Watch(rt)
    return rt


def _refuse_system_call(thread: Thread) -> None:
    number = thread.registers["RAX"] & 0xFFFF_FFFF
    raise GuestStopped(
        f"system call {number}: only the whole program makes any",
        thread.tid,
        thread.registers.copy(),
    )


def assembled(
    config: Config,
    text: Image | None = None,
    user: Code | None = None,
    *,
    undefined: bool = False,
) -> Runtime:
    """A runtime with its code and the program's, and nothing in memory yet.

    undefined: a symbol that neither has is left to the program's relocations, not an error.
    """
    version = config.version
    if not OLDEST <= version.number <= NEWEST:
        raise BadProgramError(
            f"Go {version} is not known: {'.'.join(map(str, OLDEST))} to "
            f"{'.'.join(map(str, NEWEST))} are"
        )
    if config.trampoline is not None and not version.asynchronous:
        raise BadProgramError(f"Go {version} has no asyncPreempt for a trampoline to replace")
    if not 1 <= config.goroutines <= MAX_GOROUTINES:
        raise BadProgramError(f"goroutines: 1 to {MAX_GOROUTINES}, not {config.goroutines}")
    if not 1 <= config.procs <= MAX_PROCS:
        raise BadProgramError(f"procs: 1 to {MAX_PROCS}, not {config.procs}")
    size = config.stack_size
    if size < 2048 or size & (size - 1) or size > config.max_stack:
        raise BadProgramError(
            f"stack: a power of two from 2048 to the largest stack, {config.max_stack}, not {size}"
        )
    layout = load(version.number)
    shift = SHIFT if config.call is not None else 0
    memory = Memory()
    machine = Machine(
        memory,
        processor(memory, config.engine),
        slice_ns=config.slice_ns,
        budget=config.budget,
        gates_at=GATES + shift,
    )
    machine.linux.bugs = config.bugs
    rt = Runtime(machine, layout, version)
    rt.policy = config.policy
    gates = add_gates(rt)
    if config.call is not None:
        rt.executable = executable_of(config.call.path, version, config.call.cpu)
    own = rt.executable.trampoline if rt.executable is not None else config.trampoline
    rt.text = text or assemble_runtime(version, layout, gates, own, shift)
    rt.symbols = gates | exports(rt.text)
    if version.asynchronous and rt.text.function("runtime.asyncPreempt") is None:
        assert config.trampoline is not None
        raise BadProgramError(f"{config.trampoline.name}: no TEXT ·asyncPreempt(SB)")
    if rt.executable is not None:
        if not rt.executable.code.segments:
            rt.executable.load(rt.symbols)
        rt.user = rt.executable.code
    else:
        rt.user = user or _assemble_user(config, rt, undefined=undefined)
    return rt


def _assemble_user(config: Config, rt: Runtime, *, undefined: bool) -> Image:
    return assemble_user(
        config.sources,
        config.version,
        rt.layout,
        rt.symbols,
        defines=config.defines,
        include_dirs=config.include_dirs,
        goos=config.goos,
        syntax=config.syntax,
        package=config.package,
        toolchain=config.toolchain,
        undefined=undefined,
    )


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _map(machine: Machine, name: str, start: int, size: int, prot: Prot) -> None:
    machine.cpu.attach(machine.memory.map(name, start, size, prot))


def _load(machine: Machine, image: Code) -> None:
    for segment in image.segments:
        if segment.data:
            prot = Prot.READ | (Prot.WRITE if segment.writable else Prot.NONE)
            prot |= Prot.EXEC if segment.executable else Prot.NONE
            _map(machine, segment.name, segment.address, _pages(len(segment.data)), prot)
            machine.memory.write(segment.address, segment.data)
    if isinstance(image, Image):  # what an executable executes is looked at when it does
        machine.cpu.load_code(
            (instruction.address, instruction.data)
            for function in image.functions
            for instruction in function.instructions
        )


def entry_of(image: Code, config: Config) -> Function:
    """The function that goroutines start in; BadProgramError if there is none."""
    if isinstance(image, ExecutableCode):
        assert config.call is not None
        found = image.findfunc(config.call.entry + image.base)
        assert found is not None
        return found
    assert isinstance(image, Image)
    name = config.entry
    if not image.functions:
        raise BadProgramError("the file has no TEXT: there is nothing to run")
    if not name:
        return image.function("main.main") or image.functions[0]
    wanted = linker_name(name)
    for candidate in (wanted, f"{path_to_prefix(config.package.path)}.{wanted.lstrip('.')}"):
        function = image.function(candidate)
        if function is not None:
            return function
    known = ", ".join(function.name for function in image.functions)
    raise BadProgramError(f"no function {name}; there are: {known}")


# Memory of the runtime's own.


def _lay_out(rt: Runtime, config: Config) -> None:
    machine, memory = rt.machine, rt.memory
    _map(machine, "heap", HEAP, HEAP_SIZE, Prot.RW)
    rt.heap = HEAP
    rt.heap_end = HEAP + HEAP_SIZE
    memory.put_u64(rt.heap, HEAP + 64)
    rt.free_ms = rt.persistentalloc(8)
    rt.allm = rt.persistentalloc(8)
    rt.freezing = rt.persistentalloc(8)
    rt.sched = Sched(memory, rt.layout, rt.persistentalloc(rt.layout.size("schedt")))
    constants = rt.layout.constants
    rt.stackGuard = constants.get("stackGuard") or constants["_StackGuard"]
    rt.stackNosplit = constants.get("stackNosplit") or constants["_StackLimit"]
    rt.startingStackSize = config.stack_size
    rt.maxstacksize = config.max_stack
    rt.stackpool = stackpool.stackinit(rt, config.stacks)
    rt.asyncPreemptStack, rt.asyncPreempt2Stack = _async_preempt_stack(rt)
    rt.gomaxprocs = procs = config.procs + config.gc
    # One M for each P and one for sysmon; and where goroutines wait in system calls, one for each.
    waiting = min(config.goroutines, MAX_PROCS) if _waits(rt) else 0
    ms = [_allocm(rt, i) for i in range(procs + 1 + waiting)]
    for mp_address, following in zip(ms[1:], [*ms[2:], 0], strict=True):
        rt.m(mp_address).alllink = following
    memory.put_u64(rt.free_ms, ms[1])
    memory.put_u64(rt.allm, ms[0])
    if rt.version.extended_registers:
        # As in a heap that is in use: m, p and p.xRegs do not share the upper 48 bits of their
        # addresses, so whoever computes with fewer goes astray.
        memory.put_u64(rt.heap, -(-memory.u64(rt.heap) // 0x1_0000) * 0x1_0000 + 0xE000)
    rt.allp = tuple(_allocp(rt, i) for i in range(procs))
    rt.mheap = mheap.mallocinit(rt) if config.gc else 0
    rt.gcwork = mgc.gcinit(rt) if config.gc else 0
    rt.gcworker_g = _alloc_worker(rt, config.goroutines + 1, len(ms)) if config.gc else 0
    m0 = rt.m(ms[0])
    machine.spawn(
        rip=rt.symbol("rt0_go"),
        rsp=rt.g(m0.g0).stack_hi - 64,
        RDI=m0.field_address("tls") + 8,
        R13=m0.address,
        R14=m0.g0,
    )


def _waits(rt: Runtime) -> bool:
    """Whether the program calls what hands its P off."""
    functions = rt.user.functions if isinstance(rt.user, Image) else ()
    sources = (i.source for f in functions for i in f.instructions)
    return any("syscall.Syscall" in linker_name(source) for source in sources)


def _async_preempt_stack(rt: Runtime) -> tuple[int, int]:
    """preempt.go's init: the frames' largest SP deltas and eight words for return PCs.

    And what asyncPreempt2 needs of that: its frame, and the return PC of its call of mcall.
    """
    if not rt.version.asynchronous:
        return 0, 0
    deltas = []
    for name in ("asyncPreempt", "asyncPreempt2"):
        function = rt.text.function(f"runtime.{name}")
        assert function is not None
        deltas.append(max((r.value for r in function.spdelta.ranges), default=0))
    return sum(deltas) + 8 * 8, deltas[1] + 8


def _malg(rt: Runtime, name: str, low: int, size: int) -> int:
    """A g whose stack is [low, low + size), mapped between unmapped guard pages."""
    _map(rt.machine, name, low, size, Prot.RW)
    gp = rt.g(rt.persistentalloc(rt.layout.size("g")))
    gp.stack_lo = low
    gp.stack_hi = low + size
    gp.stackguard0 = low + rt.stackGuard
    gp.stackguard1 = gp.stackguard0
    return gp.address


def _allocm(rt: Runtime, number: int) -> int:
    mp = rt.m(rt.persistentalloc(rt.layout.size("m")))
    mp.id = number
    if rt.version.remembers_m:  # mWeakPointer
        mp.self = rt.persistentalloc(8, align=8)
        rt.memory.put_u64(mp.self, mp.address)
    low = SYSTEM_STACKS + number * 0x10_0000
    mp.g0 = _malg(rt, f"g0 stack of M{number}", low + PAGE, rt.version.g0_stack)
    mp.gsignal = _malg(
        rt, f"gsignal stack of M{number}", low + rt.version.g0_stack + 3 * PAGE, GSIGNAL_STACK
    )
    rt.g(mp.g0).m = mp.address
    rt.g(mp.gsignal).m = mp.address
    return mp.address


def _alloc_worker(rt: Runtime, goid: int, number: int) -> int:
    """GcBgMarkWorker's goroutine, parked; `number` is that of the place of its stack."""
    low = SYSTEM_STACKS + number * 0x10_0000
    gp = rt.g(_malg(rt, "stack of the mark worker", low + PAGE, rt.version.g0_stack))
    gp.goid = goid
    gp.atomicstatus = _Gwaiting
    _start_at(rt, gp, rt.symbol("gcBgMarkWorker.dedicated"))
    return gp.address


def _allocp(rt: Runtime, number: int) -> int:
    pp = rt.p(rt.persistentalloc(rt.layout.size("p")))
    pp.id = number
    return pp.address


def _newproc(rt: Runtime, fn: int, goid: int, words: tuple[int, ...] = ()) -> int:
    """newproc1: a g ready to start at fn with these arguments, as if goexit had called it."""
    gp = rt.g(rt.persistentalloc(rt.layout.size("g")))
    gp.goid = goid
    gp.stack_lo = stackpool.stackalloc(rt, rt.startingStackSize)
    gp.stack_hi = gp.stack_lo + rt.startingStackSize
    gp.stackguard0 = gp.stack_lo + rt.stackGuard
    gp.stackguard1 = 0xFFFF_FFFF_FFFF_FFFF
    gp.atomicstatus = _Gdead
    _start_at(rt, gp, fn, words)
    return gp.address


def _start_at(rt: Runtime, gp: G, fn: int, words: tuple[int, ...] = ()) -> None:
    sp = gp.stack_hi - MAIN_FRAME - 8 - (8 * len(words) + 15 & -16)
    rt.memory.put_u64(sp, rt.symbol("goexit") + 1)
    for number, word in enumerate(words, 1):
        rt.memory.put_u64(sp + 8 * number, word)
    gp.sched_sp = sp
    gp.stktopsp = sp + 8
    gp.sched_pc = fn
    gp.sched_g = gp.address
    gp.startpc = fn
