"""Signals from sending to the handler's first instruction.

Models kernel/signal.c (send_signal_locked, complete_signal, dequeue_signal, get_signal,
force_sig_info_to_task) and handle_signal of arch/x86/kernel/signal.c, Linux 6; see signal(7).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from emulator.events import FrameBuilt, SignalSent
from emulator.fault import GuestStopped
from emulator.linux import kernel_bugs, signal_frame
from emulator.linux.clock import put_timespec
from emulator.linux.errno import Errno
from emulator.linux.signal_abi import (
    DEFAULT_IGNORED,
    DEFAULT_STOP,
    HELD,
    SI_KERNEL,
    SIG_DFL,
    SIG_IGN,
    SIGRTMIN,
    SS_AUTODISARM,
    SYNCHRONOUS,
    UNBLOCKABLE,
    AltStack,
    SaFlags,
    SigAction,
    SigInfo,
    Signal,
    bit,
    signal_name,
)
from emulator.linux.threads import Thread, ThreadState
from emulator.linux.uaccess import AccessFault

if TYPE_CHECKING:
    from emulator.linux.process import Process
    from emulator.registers import Registers


class GuestKilled(GuestStopped):
    """A signal's default action ended the process."""

    def __init__(self, signo: int, detail: str, tid: int, registers: Registers) -> None:
        super().__init__(f"killed by {signal_name(signo)}{detail}", tid, registers)
        self.signo = signo


def ignores(action: SigAction, signo: int) -> bool:
    """Whether the action is to do nothing (sig_handler_ignored)."""
    return action.handler == SIG_IGN or (action.handler == SIG_DFL and signo in DEFAULT_IGNORED)


def send(process: Process, info: SigInfo, target: Thread | None, sender: Thread | None) -> None:
    """Makes a signal pending for a thread, or with no target for the process.

    A signal that is ignored and not blocked is dropped at once; a standard signal that is
    pending already is not queued again, a real-time signal is.
    """
    receiver = target or _chosen(process, info.signo)
    blocked = receiver.sigmask & bit(info.signo)
    if not blocked and ignores(process.actions[info.signo], info.signo):
        return
    queue = process.pending if target is None else target.pending
    if info.signo < SIGRTMIN and any(other.signo == info.signo for other in queue):
        return
    queue.append(info)
    if not blocked:
        receiver.sigpending = True
        if receiver.state is not ThreadState.RUNNABLE:  # it wakes now, to be interrupted
            now = process.events.now() if sender is None else sender.time
            receiver.time = max(receiver.time, now)
    process.events.emit(
        SignalSent(
            tid=-1 if sender is None else sender.tid,
            pc=0 if sender is None else sender.registers["RIP"],
            signal=info.signo,
            target=receiver.tid,
        )
    )


def _chosen(process: Process, signo: int) -> Thread:
    """The thread that is to take a process-directed signal (complete_signal).

    The first thread if it does not block it, else the next that does not.
    """
    alive = process.alive()
    willing = [thread for thread in alive if not thread.sigmask & bit(signo)]
    return (willing or alive)[0]


def force(process: Process, thread: Thread, info: SigInfo, why: str) -> None:
    """A signal that the thread itself caused: it is delivered, or it kills (force_sig_info).

    A tracer hears of one that kills before it does.
    """
    if not can_take(process, thread, info.signo):
        if process.tracer is None:
            raise GuestKilled(info.signo, f": {why}", thread.tid, thread.registers.copy())
        process.actions[info.signo] = SigAction()
        thread.sigmask &= ~bit(info.signo)
    if all(other.signo != info.signo for other in thread.pending):
        thread.pending.append(info)
    thread.sigpending = True


def can_take(process: Process, thread: Thread, signo: int) -> bool:
    """Whether the thread has a handler for the signal and does not block it."""
    action = process.actions[signo]
    return action.handler not in (SIG_DFL, SIG_IGN) and not thread.sigmask & bit(signo)


def set_sigmask(process: Process, thread: Thread, mask: int) -> None:
    """Blocks exactly these signals; SIGKILL and SIGSTOP cannot be blocked."""
    thread.sigmask = mask & ~UNBLOCKABLE
    recalc_sigpending(process, thread)


def recalc_sigpending(process: Process, thread: Thread) -> None:
    """Sets TIF_SIGPENDING if and only if an unblocked signal is pending."""
    thread.sigpending = any(
        not thread.sigmask & bit(info.signo) for info in (*thread.pending, *process.pending)
    )


def discard(process: Process, signo: int) -> None:
    """Forgets all pending instances of a signal (flush_sigqueue_mask)."""
    for queue in (process.pending, *(thread.pending for thread in process.threads.values())):
        queue[:] = [info for info in queue if info.signo != signo]


def dequeue(process: Process, thread: Thread) -> SigInfo | None:
    """Takes the next unblocked signal.

    SIGKILL first, then what the thread itself caused, then the thread's own queue, then the
    process's; in each the lowest number first, and of one number the oldest.
    """
    own = [info for info in thread.pending if not thread.sigmask & bit(info.signo)]
    shared = [info for info in process.pending if not thread.sigmask & bit(info.signo)]
    killing = [info for info in own + shared if info.signo == Signal.SIGKILL]
    caused = [info for info in own if info.from_kernel and info.signo in SYNCHRONOUS]
    for candidates in (killing, caused, own, shared):
        if candidates:
            # SYNCHRONOUS_MASK goes before all other numbers, whoever sent it (next_signal).
            info = min(candidates, key=lambda i: (i.signo not in SYNCHRONOUS, i.signo))
            queue = thread.pending if any(info is i for i in thread.pending) else process.pending
            queue.remove(info)
            return info
    return None


def deliver(process: Process, thread: Thread) -> None:
    """What the kernel does with pending signals when a thread returns to user mode.

    Each one with a handler gets a frame, so the last one's handler runs first. Raises
    GuestKilled where the default action ends the process. `thread.registers` must be current.
    A tracer is asked about each one; one that it holds stays pending.
    """
    while (info := dequeue(process, thread)) is not None:
        if process.tracer is not None and info.signo != Signal.SIGKILL:
            answer = process.tracer(thread, info)  # ptrace_signal
            if answer is HELD:
                thread.pending.insert(0, info)
                return
            if answer is None:
                continue
            info = answer  # the tracer's in its place
        action = process.actions[info.signo]
        if ignores(action, info.signo):
            continue
        if action.handler == SIG_DFL:
            _default(info, thread)
        if thread.wait is not None:
            interrupt(process, thread, action)
        if action.flags & SaFlags.RESETHAND:
            process.actions[info.signo] = replace(action, handler=SIG_DFL)
        _enter(process, thread, info, action)
    thread.sigpending = False


def _default(info: SigInfo, thread: Thread) -> None:
    """Default actions other than to ignore: the run ends."""
    registers = thread.registers.copy()
    if info.signo in DEFAULT_STOP:
        name = signal_name(info.signo)
        raise GuestStopped(f"stopped by {name}: job control is not modelled", thread.tid, registers)
    sent = f" (sent by process {info.pid})" if info.code <= 0 and info.pid else ""
    raise GuestKilled(info.signo, sent, thread.tid, registers)


def interrupt(process: Process, thread: Thread, action: SigAction) -> None:
    """Ends the system call that a thread waits in, because a handler is to run."""
    wait, wake_at = thread.wait, thread.wake_at
    assert wait is not None
    if thread.tid in process.futex_queue:
        process.futex_queue.remove(thread.tid)
    if wait.restarts and action.flags & SaFlags.RESTART:
        thread.wake(thread.time, wait.number)
        thread.registers["RIP"] -= 2  # the SYSCALL is executed again after the handler
        return
    result = -Errno.EINTR
    if wait.remaining and wake_at is not None:
        try:
            put_timespec(process.memory, wait.remaining, max(wake_at - thread.time, 0))
        except AccessFault:
            result = -Errno.EFAULT
    thread.wake(thread.time, result)


def _enter(process: Process, thread: Thread, info: SigInfo, action: SigAction) -> None:
    """Builds the frame, then blocks what the handler is not to be interrupted by."""
    registers = thread.registers
    pc, rsp = registers["RIP"], registers["RSP"]
    interrupted = registers.copy()
    try:
        frame = signal_frame.build(
            process.memory,
            registers,
            info,
            action,
            sigmask=thread.sigmask,
            altstack=thread.altstack,
            trap=thread.trap,
        )
        kernel_bugs.frame_built(process.bugs, process.memory, frame, pc)
    except AccessFault as fault:
        _frame_failed(process, thread, info, fault)
        return
    if thread.altstack.flags & SS_AUTODISARM:
        thread.altstack = AltStack()
    thread.break_passed = None
    blocked = thread.sigmask | action.mask
    if not action.flags & SaFlags.NODEFER:
        blocked |= bit(info.signo)
    thread.sigmask = blocked & ~UNBLOCKABLE
    process.events.emit(
        FrameBuilt(
            tid=thread.tid,
            pc=pc,
            signal=info.signo,
            rsp=rsp,
            frame=frame.address,
            ucontext=frame.ucontext,
            siginfo=frame.siginfo,
            handler=action.handler,
            onstack=frame.onstack,
            interrupted=interrupted,
        )
    )


def _frame_failed(process: Process, thread: Thread, info: SigInfo, fault: AccessFault) -> None:
    """No frame could be built: SIGSEGV, which kills if it was SIGSEGV's own frame."""
    why = f"no room for the frame of {signal_name(info.signo)} at {fault.address:#x}"
    if info.signo == Signal.SIGSEGV:
        raise GuestKilled(Signal.SIGSEGV, f": {why}", thread.tid, thread.registers.copy())
    force(process, thread, SigInfo(Signal.SIGSEGV, SI_KERNEL), why)
