"""Views of g, m, p, gobuf and sched in emulated memory (runtime/runtime2.go).

A view is an address and a layout: reading a field reads the guest's bytes, assigning writes them.
Nothing is cached but offsets, so the machine stays the only truth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from emulator.memory import Memory
    from runtime_model.layout import Layout

# Goroutine status (runtime2.go).
_Gidle: Final = 0
_Grunnable: Final = 1
_Grunning: Final = 2
_Gsyscall: Final = 3
_Gwaiting: Final = 4
_Gdead: Final = 6
_Gcopystack: Final = 8
_Gpreempted: Final = 9
_Gscan: Final = 0x1000

G_STATUS: Final = {
    _Gidle: "_Gidle",
    _Grunnable: "_Grunnable",
    _Grunning: "_Grunning",
    _Gsyscall: "_Gsyscall",
    _Gwaiting: "_Gwaiting",
    _Gdead: "_Gdead",
    _Gcopystack: "_Gcopystack",
    _Gpreempted: "_Gpreempted",
}

# P status.
_Pidle: Final = 0
_Prunning: Final = 1
_Psyscall: Final = 2
_Pgcstop: Final = 3


def status_name(status: int) -> str:
    """The name of a goroutine status, with `_Gscan|` where that bit is set."""
    name = G_STATUS.get(status & ~_Gscan, f"status {status:#x}")
    return f"_Gscan|{name}" if status & _Gscan else name


class Field:
    """A descriptor for one integer field of `size` bytes.

    The first of the paths that the version has is taken (fields moved between versions);
    `within` is added to its offset.
    """

    __slots__ = ("_offsets", "paths", "size", "within")

    def __init__(self, *paths: str, size: int = 8, within: int = 0) -> None:
        self.paths = paths
        self.size = size
        self.within = within
        self._offsets: dict[tuple[int, int], int] = {}

    def offset(self, view: View) -> int:
        """The field's offset in the view's struct."""
        offset = self._offsets.get(view.layout.version)
        if offset is None:
            layout, struct = view.layout, view.struct
            path = next((p for p in self.paths if layout.has(struct, p)), self.paths[0])
            offset = layout.offset(struct, path) + self.within
            self._offsets[view.layout.version] = offset
        return offset

    def __get__(self, view: View, owner: type | None = None) -> int:
        address = view.address + self.offset(view)
        if self.size == 8:
            return view.memory.u64(address)
        if self.size == 4:
            return view.memory.u32(address)
        return view.memory.u8(address)

    def __set__(self, view: View, value: int) -> None:
        address = view.address + self.offset(view)
        if self.size == 8:
            view.memory.put_u64(address, value)
        elif self.size == 4:
            view.memory.put_u32(address, value)
        else:
            view.memory.put_u8(address, value)


class View:
    """A struct of the runtime at an address. Two views are equal if they show the same place."""

    __slots__ = ("address", "layout", "memory")
    struct: ClassVar[str]

    def __init__(self, memory: Memory, layout: Layout, address: int) -> None:
        self.memory = memory
        self.layout = layout
        self.address = address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"<{self.struct} at {self.address:#x}>"

    def field_address(self, path: str) -> int:
        """The guest address of a field."""
        return self.address + self.layout.offset(self.struct, path)


class G(View):
    """runtime.g."""

    __slots__ = ()
    struct = "g"

    stack_lo = Field("stack.lo")
    stack_hi = Field("stack.hi")
    stackguard0 = Field("stackguard0")
    stackguard1 = Field("stackguard1")
    m = Field("m")
    syscallsp = Field("syscallsp")
    syscallpc = Field("syscallpc")
    stktopsp = Field("stktopsp")
    sched_sp = Field("sched.sp")
    sched_pc = Field("sched.pc")
    sched_g = Field("sched.g")
    sched_ctxt = Field("sched.ctxt")
    sched_bp = Field("sched.bp")
    atomicstatus = Field("atomicstatus", size=4)
    goid = Field("goid")
    schedlink = Field("schedlink")
    preempt = Field("preempt", size=1)
    preemptStop = Field("preemptStop", size=1)
    preemptShrink = Field("preemptShrink", size=1)
    asyncSafePoint = Field("asyncSafePoint", size=1)
    syncSafePoint = Field("syncSafePoint", size=1)
    throwsplit = Field("throwsplit", size=1)
    preemptscan = Field("preemptscan", size=1)  # 1.13
    gcscandone = Field("gcscandone", size=1)
    startpc = Field("startpc")
    xRegs_state = Field("xRegs.state")


class M(View):
    """runtime.m."""

    __slots__ = ()
    struct = "m"

    g0 = Field("g0")
    morebuf_pc = Field("morebuf.pc")
    morebuf_sp = Field("morebuf.sp")
    morebuf_g = Field("morebuf.g")
    procid = Field("procid")
    gsignal = Field("gsignal")
    curg = Field("curg")
    p = Field("p")
    oldp = Field("oldp")
    syscalltick = Field("syscalltick", size=4)
    nextp = Field("nextp")
    id = Field("id")
    self = Field("self")
    mallocing = Field("mallocing", size=4)
    preemptoff_len = Field("preemptoff", within=8)
    locks = Field("locks", size=4)
    spinning = Field("spinning", size=1)
    mstartfn = Field("mstartfn")
    alllink = Field("alllink")
    schedlink = Field("schedlink")
    preemptGen = Field("preemptGen", size=4)
    signalPending = Field("signalPending", size=4)


class P(View):
    """runtime.p."""

    __slots__ = ()
    struct = "p"

    id = Field("id", size=4)
    status = Field("status", size=4)
    link = Field("link")
    schedtick = Field("schedtick", size=4)
    m = Field("m")
    oldm = Field("oldm")
    runqhead = Field("runqhead", size=4)
    runqtail = Field("runqtail", size=4)
    runnext = Field("runnext")
    preempt = Field("preempt", size=1)
    runSafePointFn = Field("runSafePointFn", size=4)
    sysmontick_schedtick = Field("sysmontick.schedtick", size=4)
    sysmontick_schedwhen = Field("sysmontick.schedwhen")
    syscalltick = Field("syscalltick", size=4)
    sysmontick_syscalltick = Field("sysmontick.syscalltick", size=4)
    sysmontick_syscallwhen = Field("sysmontick.syscallwhen")
    xRegs_cache = Field("xRegs.cache")


class Sched(View):
    """runtime.schedt, the one instance of it that the runtime calls sched."""

    __slots__ = ()
    struct = "schedt"

    midle = Field("midle")
    nmidle = Field("nmidle", size=4)
    pidle = Field("pidle")
    npidle = Field("npidle", size=4)
    nmspinning = Field("nmspinning", size=4)
    needspinning = Field("needspinning", size=4)
    runq_head = Field("runq.head")
    runq_tail = Field("runq.tail")
    runqsize = Field("runqsize", "runq.size", size=4)
    gcwaiting = Field("gcwaiting", size=1)
    stopwait = Field("stopwait", size=4)
    sysmonwait = Field("sysmonwait", size=1)  # the low byte, where it is a word
    safePointWait = Field("safePointWait", size=4)


class Views:
    """Whatever has a memory with g, m and p in it, and their layout."""

    memory: Memory
    layout: Layout

    def g(self, address: int) -> G:
        """The g at an address."""
        return G(self.memory, self.layout, address)

    def m(self, address: int) -> M:
        """The m at an address."""
        return M(self.memory, self.layout, address)

    def p(self, address: int) -> P:
        """The p at an address."""
        return P(self.memory, self.layout, address)
