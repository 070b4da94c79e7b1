"""Signals: installing handlers, sending and handling the preemption signal.

runtime/signal_unix.go, os_linux.go (setsig, signalM), sigtab_linux_generic.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.fault import GuestStopped
from runtime_model.events import SafePointVerdict
from runtime_model.preempt import Reason, Verdict, isAsyncSafePoint, wantAsyncPreempt
from runtime_model.runtime import named
from runtime_model.signal_amd64 import sigctxt
from runtime_model.stackpool import GUARD

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime
    from runtime_model.runtime2 import G, M

SIGURG: Final = 23
sigPreempt: Final = SIGURG

_NSIG: Final = 65
_SIG_MASK: Final = 8  # in the struct sig, behind its note: 3 words of 32 signals each
_SIG_WANTED: Final = _SIG_MASK + 12
_SA_SIGINFO: Final = 0x4
_SA_RESTORER: Final = 0x0400_0000
_SA_ONSTACK: Final = 0x0800_0000
_SA_RESTART: Final = 0x1000_0000

# Signals without a Go handler: 0 is none; SIGKILL and SIGSTOP cannot have one; those that job
# control and terminals act on keep the default (_SigDefault); 32 to 34 are glibc's.
_NOT_HANDLED: Final = frozenset({0, 9, 18, 19, 20, 21, 22, 32, 33, 34})

# Synchronous faults (_SigPanic): SIGBUS, SIGFPE, SIGSEGV; and those that only throw.
_FATAL: Final = {4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV"}


class FatalSignal(GuestStopped):
    """A fault in guest code reached Go's handler, which has no goroutine panic to turn it into.

    `pc` and `registers` are the interrupted ones.
    """

    def __init__(self, rt: Runtime, sig: int, c: sigctxt, gp: G) -> None:
        tid = rt.thread.tid
        fault = rt.watch.faults.get(tid)
        what = f"{_FATAL[sig]} at {c.sigpc():#x}"
        if fault is not None:
            address = f" at {fault.address:#x}" if fault.address is not None else ""
            what = f"{_FATAL[sig]}: {fault.kind}{address}"
            if fault.address is not None and 0 < gp.stack_lo - fault.address <= GUARD:
                what += f", below the stack of goroutine {gp.goid}: stack overflow"
        super().__init__(what, tid, rt.watch.interrupted.get(tid))
        self.signal = sig
        self.pc = c.sigpc()


@named
def initsig(rt: Runtime) -> None:
    """Installs sigtramp for every signal that Go handles, by rt_sigaction."""
    for sig in range(_NSIG):
        if sig not in _NOT_HANDLED:
            setsig(rt, sig)


def setsig(rt: Runtime, sig: int) -> None:
    """Sigaction with SA_SIGINFO, SA_ONSTACK, SA_RESTORER, SA_RESTART and all signals masked."""
    sigaction = {
        "sa_handler": rt.symbol("sigtramp"),
        "sa_flags": _SA_SIGINFO | _SA_ONSTACK | _SA_RESTORER | _SA_RESTART,
        "sa_restorer": rt.symbol("sigreturn__sigaction"),
        "sa_mask": 0xFFFF_FFFF_FFFF_FFFF,
    }
    with rt.on_stack(rt.layout.size("sigactiont")) as address:
        for field, value in sigaction.items():
            rt.memory.put_u64(address + rt.layout.offset("sigactiont", field), value)
        result = rt.call0("rt_sigaction", sig, address, 0, 8, results=1)
    if result & 0xFFFF_FFFF:
        raise GuestStopped(f"rt_sigaction({sig}) failed: {result:#x}", rt.thread.tid)


def preemptM(rt: Runtime, mp: M) -> None:
    """Asks an M for an asynchronous preemption; one signal at most is on its way to it."""
    if mp.signalPending == 0:
        mp.signalPending = 1
        signalM(rt, mp, sigPreempt)


@named
def signalM(rt: Runtime, mp: M, sig: int) -> None:
    """tgkill(getpid(), m.procid, sig), by the machine code of both."""
    rt.call0("tgkill", rt.call0("getpid", results=1), mp.procid, sig)


@named
def sigtrampgo(rt: Runtime, sig: int, ctx: int) -> None:
    """The handler behind sigtramp: runs on gsignal's stack and g until it returns."""
    if sigfwdgo(rt):
        return
    gp = rt.getg()
    mp = rt.m(gp.m)
    rt.setg(rt.g(mp.gsignal))
    adjustSignalStack(rt, mp)
    sighandler(rt, sig, sigctxt(rt, ctx), gp)
    rt.memory.put_u64(rt.thread.registers["FS_BASE"] - 8, gp.address)


@named
def sigfwdgo(rt: Runtime) -> bool:  # noqa: ARG001  # there is no other handler to forward to
    """Whether a handler that was there before Go took the signal: never, without cgo."""
    return False


@named
def adjustSignalStack(rt: Runtime, mp: M) -> bool:
    """False: the kernel delivered on the M's own gsignal stack, as minit asked for.

    Anything else is somebody's other sigaltstack, which needs cgo.
    """
    gsignal = rt.g(mp.gsignal)
    sp = rt.thread.registers["RSP"]
    if not gsignal.stack_lo <= sp < gsignal.stack_hi:
        raise GuestStopped(f"signal handler on an unknown stack: {sp:#x}", rt.thread.tid)
    return False


@named
def sighandler(rt: Runtime, sig: int, c: sigctxt, gp: G) -> None:
    """Handles a signal that came to gp's M. Only preemption and faults mean something here."""
    off = rt.policy.asyncpreemptoff and rt.version.asyncpreemptoff_in_handler
    if sig == sigPreempt and rt.version.asynchronous and not off:
        doSigPreempt(rt, gp, c)
    if sig in _FATAL:
        raise FatalSignal(rt, sig, c, gp)
    sigsend(rt, sig)


def sigsend(rt: Runtime, sig: int) -> bool:
    """Passes a signal on to os/signal, a preemption's too; whether Notify asks for it.

    runtime/sigqueue.go; nobody sleeps on sig.note here.
    """
    bit, words = 1 << sig % 32, 4 * (sig // 32)
    mask, wanted = rt.symbol("sig") + _SIG_MASK + words, rt.symbol("sig") + _SIG_WANTED + words
    if not rt.memory.u32(wanted) & bit:
        return False
    rt.memory.put_u32(mask, rt.memory.u32(mask) | bit)
    return True


@named
def doSigPreempt(rt: Runtime, gp: G, c: sigctxt) -> None:
    """Injects a call of asyncPreempt if gp wants to be preempted and is at a safe point."""
    pc = c.sigpc()
    if wantAsyncPreempt(rt, gp):
        verdict = isAsyncSafePoint(rt, gp, pc, c.sigsp())
    else:
        verdict = Verdict(False, Reason.NOT_WANTED)
    rt.machine.events.emit(
        SafePointVerdict(
            tid=rt.thread.tid,
            pc=pc,
            safe=verdict.safe,
            reason=verdict.reason.value,
            resume=verdict.resume,
            function=verdict.function,
        )
    )
    if verdict.safe:
        c.pushCall(rt.symbol("asyncPreempt"), verdict.resume)
    # Acknowledged in either case: the next request may send a signal again.
    mp = rt.m(gp.m)
    mp.preemptGen += 1
    mp.signalPending = 0
