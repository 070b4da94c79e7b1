"""The system calls about signals.

Models kernel/signal.c and rt_sigreturn of arch/x86/kernel/signal_64.c; see rt_sigaction(2),
rt_sigprocmask(2), rt_sigpending(2), sigaltstack(2), tgkill(2), kill(2), rt_sigreturn(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.events import SignalReturned
from emulator.linux import kernel_bugs, signal_frame, signals
from emulator.linux.errno import Errno
from emulator.linux.signal_abi import (
    MINSIGSTKSZ,
    NSIG,
    SI_KERNEL,
    SI_TKILL,
    SI_USER,
    SS_AUTODISARM,
    SS_DISABLE,
    SS_ONSTACK,
    UAPI_SA_FLAGS,
    UNBLOCKABLE,
    AltStack,
    SigAction,
    SigInfo,
    Signal,
    bit,
)
from emulator.linux.threads import Thread, ThreadState
from emulator.linux.uaccess import AccessFault, copy_from_user, copy_to_user, get_u64, put_u64

if TYPE_CHECKING:
    from emulator.linux.process import Process

SIGSET_SIZE: Final = 8
SIG_BLOCK: Final = 0
SIG_UNBLOCK: Final = 1
SIG_SETMASK: Final = 2


def _int(value: int) -> int:
    """A register as the C type int."""
    value &= 0xFFFF_FFFF
    return value - (value >> 31 << 32)


def rt_sigaction(
    process: Process, thread: Thread, sig: int, act: int, oact: int, sigsetsize: int
) -> int:
    """Sets and reads an action. One that ignores the signal also drops it where it is pending."""
    del thread
    sig = _int(sig)
    if sigsetsize != SIGSET_SIZE:
        return -Errno.EINVAL
    new = None
    if act:
        new = SigAction.unpack(copy_from_user(process.memory, act, SigAction.FORMAT.size))
    if not 1 <= sig <= NSIG or (new is not None and bit(sig) & UNBLOCKABLE):
        return -Errno.EINVAL
    old = process.actions[sig]
    if new is not None:
        flags, mask = new.flags & UAPI_SA_FLAGS, new.mask & ~UNBLOCKABLE
        process.actions[sig] = SigAction(new.handler, flags, new.restorer, mask)
        if signals.ignores(process.actions[sig], sig):
            signals.discard(process, sig)
    if oact:
        copy_to_user(process.memory, oact, old.pack())
    return 0


def rt_sigprocmask(
    process: Process, thread: Thread, how: int, nset: int, oset: int, sigsetsize: int
) -> int:
    """Changes and reads the thread's mask of blocked signals."""
    if sigsetsize != SIGSET_SIZE:
        return -Errno.EINVAL
    old = thread.sigmask
    if nset:
        new = get_u64(process.memory, nset)
        masks = {SIG_BLOCK: old | new, SIG_UNBLOCK: old & ~new, SIG_SETMASK: new}
        if _int(how) not in masks:
            return -Errno.EINVAL
        signals.set_sigmask(process, thread, masks[_int(how)])
    if oset:
        put_u64(process.memory, oset, old)
    return 0


def rt_sigpending(process: Process, thread: Thread, uset: int, sigsetsize: int) -> int:
    """The blocked signals that are pending."""
    if sigsetsize > SIGSET_SIZE:
        return -Errno.EINVAL
    pending = 0
    for info in (*thread.pending, *process.pending):
        pending |= bit(info.signo)
    data = (pending & thread.sigmask).to_bytes(8, "little")
    copy_to_user(process.memory, uset, data[:sigsetsize])
    return 0


def do_sigaltstack(thread: Thread, new: AltStack) -> int:
    """Sets the alternate stack: EPERM while on it, ENOMEM under MINSIGSTKSZ bytes."""
    if thread.altstack.on(thread.registers["RSP"]):
        return -Errno.EPERM
    mode = new.flags & ~SS_AUTODISARM
    if mode not in (0, SS_ONSTACK, SS_DISABLE):
        return -Errno.EINVAL
    if new == thread.altstack:
        return 0
    if mode == SS_DISABLE:
        new = AltStack(0, new.flags, 0)
    elif new.size < MINSIGSTKSZ:
        return -Errno.ENOMEM
    thread.altstack = new
    return 0


def sigaltstack(process: Process, thread: Thread, uss: int, uoss: int) -> int:
    """Sets and reads the alternate stack; as read, it tells whether the thread is on it."""
    stack = thread.altstack
    new = None
    if uss:
        data = copy_from_user(process.memory, uss, AltStack.FORMAT.size)
        new = AltStack(*AltStack.FORMAT.unpack(data))
    if new is not None and (error := do_sigaltstack(thread, new)):
        return error
    if uoss:
        status = stack.status(thread.registers["RSP"]) | stack.flags & SS_AUTODISARM
        copy_to_user(process.memory, uoss, AltStack.FORMAT.pack(stack.sp, status, stack.size))
    return 0


def _send_to_thread(process: Process, thread: Thread, tid: int, sig: int) -> int:
    target = process.threads.get(tid)
    if target is None or target.state is ThreadState.EXITED:
        return -Errno.ESRCH
    if not 0 <= sig <= NSIG:
        return -Errno.EINVAL
    if sig:  # signal 0 only asks whether the thread is there
        info = SigInfo(sig, SI_TKILL, process.pid, process.uid)
        signals.send(process, info, target, thread)
    return 0


def tgkill(process: Process, thread: Thread, tgid: int, tid: int, sig: int) -> int:
    """Sends a signal to one thread of a process; ESRCH where there is no such thread."""
    tgid, tid = _int(tgid), _int(tid)
    if tgid <= 0 or tid <= 0:
        return -Errno.EINVAL
    if tgid != process.pid:
        return -Errno.ESRCH
    return _send_to_thread(process, thread, tid, _int(sig))


def tkill(process: Process, thread: Thread, tid: int, sig: int) -> int:
    """Sends a signal to one thread."""
    tid = _int(tid)
    if tid <= 0:
        return -Errno.EINVAL
    return _send_to_thread(process, thread, tid, _int(sig))


def kill(process: Process, thread: Thread, pid: int, sig: int) -> int:
    """Sends a signal to the process: any thread that does not block it may take it."""
    pid, sig = _int(pid), _int(sig)
    if not 0 <= sig <= NSIG:
        return -Errno.EINVAL
    if pid not in (process.pid, 0, -process.pid):
        return -Errno.ESRCH
    if sig:
        signals.send(process, SigInfo(sig, SI_USER, process.pid, process.uid), None, thread)
    return 0


def rt_sigreturn(process: Process, thread: Thread) -> None:
    """Takes mask, alternate stack and all registers back from the frame below RSP.

    In the order of Linux 6.12 and newer: the alternate stack before the registers, so a changed
    uc_stack counts only where the handler did not run on the alternate stack itself. A bad frame
    is SIGSEGV.
    """
    memory, registers = process.memory, thread.registers
    frame = registers["RSP"] - 8
    try:
        signals.set_sigmask(process, thread, signal_frame.read_sigmask(memory, frame))
        do_sigaltstack(thread, signal_frame.read_altstack(memory, frame))  # errors are ignored
        signal_frame.restore_sigcontext(memory, frame, registers)
        ucontext = frame + signal_frame.UCONTEXT
        kernel_bugs.returned(process.bugs, memory, ucontext, registers)
    except AccessFault as fault:
        registers["RAX"] = 0
        why = f"bad frame in rt_sigreturn at {fault.address:#x}"
        signals.force(process, thread, SigInfo(Signal.SIGSEGV, SI_KERNEL), why)
        return
    process.events.emit(
        SignalReturned(tid=thread.tid, pc=registers["RIP"], frame=frame, rsp=registers["RSP"])
    )
