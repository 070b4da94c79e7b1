"""Signals in a running machine, rule by rule: signal(7), sigaction(2), sigaltstack(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from small_computer import (
    ALT,
    ALT_SIZE,
    CODE,
    DATA,
    HANDLER,
    OTHER,
    PID,
    RESTORER,
    RT_SIGACTION,
    RT_SIGPROCMASK,
    SIGALTSTACK,
    TGKILL,
    computer,
    exits,
    frames,
    install,
    recorded,
    stack_top,
    start,
    syscall,
)

from emulator.events import SignalReturned, SignalSent
from emulator.fault import GuestStopped
from emulator.linux import signal_frame
from emulator.linux.errno import Errno
from emulator.linux.signal_abi import (
    SI_TKILL,
    SS_AUTODISARM,
    AltStack,
    SaFlags,
    SigAction,
    SigInfo,
    Signal,
    bit,
)
from emulator.linux.signal_frame import OFFSETS, SIGINFO, UCONTEXT
from emulator.linux.signals import GuestKilled, deliver, send

if TYPE_CHECKING:
    from emulator.machine import Machine

USR1, USR2, URG = Signal.SIGUSR1, Signal.SIGUSR2, Signal.SIGURG
HANDLED = DATA + 0x100  # counts calls of the handler
KILL_SELF = syscall(TGKILL, PID, PID, USR1)


def pend(machine: Machine, signo: int, tid: int = PID) -> None:
    send(machine.linux, SigInfo(signo, SI_TKILL, PID, 1000), machine.threads[tid], None)


# Installing and default actions


def test_rt_sigaction_sets_and_reads_back_and_drops_what_the_kernel_drops() -> None:
    machine = computer(
        {
            CODE: f"{syscall(RT_SIGACTION, USR1, DATA, DATA + 64, 8)} mov rbx, rax;"
            f"{syscall(RT_SIGACTION, USR1, 0, DATA + 128, 8)} {exits('rbx')}"
        }
    )
    wanted = SigAction(HANDLER, SaFlags.SIGINFO | SaFlags.RESTORER | 0x400, RESTORER, 2**64 - 1)
    machine.memory.write(DATA, wanted.pack())
    start(machine)
    assert machine.run() == 0
    kept = SigAction(HANDLER, SaFlags.SIGINFO | SaFlags.RESTORER, RESTORER, 2**64 - 1 & ~0x40100)
    assert machine.memory.read(DATA + 64, 32) == bytes(32)
    assert machine.memory.read(DATA + 128, 32) == kept.pack()


@pytest.mark.parametrize(
    ("signo", "act", "size"), [(9, DATA, 8), (19, DATA, 8), (0, 0, 8), (65, 0, 8), (10, 0, 16)]
)
def test_rt_sigaction_refuses(signo: int, act: int, size: int) -> None:
    machine = computer(
        {CODE: f"{syscall(RT_SIGACTION, signo, act, 0, size)} neg rax; {exits('rax')}"}
    )
    start(machine)
    assert machine.run() == Errno.EINVAL


def test_bad_pointer_is_efault() -> None:
    machine = computer({CODE: f"{syscall(RT_SIGACTION, USR1, 64, 0, 8)} neg rax; {exits('rax')}"})
    start(machine)
    assert machine.run() == Errno.EFAULT


@pytest.mark.parametrize("signo", [17, 18, URG, 28])
def test_signals_ignored_by_default_are_not_even_sent(signo: int) -> None:
    machine = computer({CODE: f"{syscall(TGKILL, PID, PID, signo)} {exits('3')}"})
    log = recorded(machine)
    thread = start(machine)
    assert machine.run() == 3
    assert not thread.pending
    assert not [event for event in log if isinstance(event, SignalSent)]


@pytest.mark.parametrize("signo", [1, 6, 9, 10, 15, 27, 29, 34])
def test_fatal_default_ends_the_process_by_name(signo: int) -> None:
    machine = computer({CODE: f"{syscall(TGKILL, PID, PID, signo)} {exits('3')}"})
    start(machine)
    name = "SIGRTMIN" if signo == 34 else Signal(signo).name
    with pytest.raises(GuestKilled, match=f"killed by {name}") as caught:
        machine.run()
    assert caught.value.signo == signo
    assert caught.value.tid == PID


def test_stop_signals_are_refused_by_name() -> None:
    machine = computer({CODE: syscall(TGKILL, PID, PID, 19)})
    start(machine)
    with pytest.raises(GuestStopped, match="stopped by SIGSTOP"):
        machine.run()


def test_ignored_blocked_signal_stays_pending_until_it_is_unblocked() -> None:
    machine = computer({CODE: f"{syscall(TGKILL, PID, PID, URG)} {exits('3')}"})
    thread = start(machine)
    thread.sigmask = bit(URG)
    machine.run()
    assert [info.signo for info in thread.pending] == [URG]


def test_an_action_that_ignores_drops_what_is_pending() -> None:
    ignore = syscall(RT_SIGACTION, USR1, DATA, 0, 8)
    unblock = syscall(RT_SIGPROCMASK, 1, DATA + 64, 0, 8)
    machine = computer({CODE: f"{KILL_SELF} {ignore} {unblock} {exits('4')}"})
    machine.memory.write(DATA, SigAction(1).pack())
    machine.memory.put_u64(DATA + 64, bit(USR1))
    start(machine).sigmask = bit(USR1)
    assert machine.run() == 4


# Delivery


def test_frame_tells_who_sent_the_signal() -> None:
    machine = computer({CODE: f"{KILL_SELF} {exits('1')}", HANDLER: "ret"})
    install(machine, USR1)
    log = recorded(machine)
    start(machine)
    machine.run()
    (frame,) = frames(log)
    fields = [machine.memory.u32(frame.siginfo + at) for at in (0, 4, 8, 16, 20)]
    assert fields == [USR1, 0, SI_TKILL % 2**32, PID, 1000]
    assert frame.siginfo == frame.frame + SIGINFO
    assert frame.ucontext == frame.frame + UCONTEXT
    assert machine.memory.u64(frame.frame) == RESTORER


def test_handler_returns_to_the_interrupted_registers() -> None:
    machine = computer(
        {
            CODE: f"mov rbx, 5; {KILL_SELF} {exits('rbx')}",
            HANDLER: "mov rbx, 9; pxor xmm3, xmm3; std; add rax, rax; ret",
        }
    )
    install(machine, USR1)
    thread = start(machine)
    thread.registers["XMM3"] = 0x1234 << 64
    log = recorded(machine)
    assert machine.run() == 5
    assert thread.registers["XMM3"] == 0x1234 << 64
    assert thread.registers["RFLAGS"] == 0x202
    (returned,) = [event for event in log if isinstance(event, SignalReturned)]
    (frame,) = frames(log)
    assert (returned.pc, returned.rsp, returned.frame) == (frame.pc, frame.rsp, frame.frame)


def test_red_zone_below_rsp_is_kept() -> None:
    machine = computer(
        {
            CODE: f"mov rbx, 77; mov [rsp - 128], rbx; mov [rsp - 8], rbx; {KILL_SELF}"
            f"mov rbx, [rsp - 128]; sub rbx, [rsp - 8]; {exits('rbx')}",
            HANDLER: "ret",
        }
    )
    install(machine, USR1)
    start(machine)
    assert machine.run() == 0


@pytest.mark.parametrize("offset", range(0, 64, 8))
def test_rsp_at_handler_entry_is_8_modulo_16(offset: int) -> None:
    machine = computer(
        {
            CODE: f"sub rsp, {offset}; {KILL_SELF} {exits('rbx')}",
            HANDLER: "mov rbx, rsp; and rbx, 15; ret",
        }
    )
    install(machine, USR1)
    log = recorded(machine)
    start(machine)
    machine.run()
    assert frames(log)[0].frame % 16 == 8
    assert machine.memory.u64(frames(log)[0].ucontext + OFFSETS["fpstate"]) % 64 == 0


def test_sigaltstack_sets_reads_and_refuses() -> None:
    machine = computer(
        {
            CODE: f"{syscall(SIGALTSTACK, DATA, 0)} {syscall(SIGALTSTACK, DATA + 32, DATA + 64)}"
            f"neg rax; {exits('rax')}"
        }
    )
    machine.memory.write(DATA, AltStack.FORMAT.pack(ALT, 0, ALT_SIZE))
    machine.memory.write(DATA + 32, AltStack.FORMAT.pack(ALT, 0, 2047))
    thread = start(machine)
    assert machine.run() == Errno.ENOMEM
    assert thread.altstack == AltStack(ALT, 0, ALT_SIZE)


def test_onstack_goes_to_the_top_of_the_alternate_stack_and_nests_below() -> None:
    nested = syscall(TGKILL, PID, PID, USR2)
    machine = computer({CODE: f"{KILL_SELF} {exits('1')}", HANDLER: f"{nested} ret", OTHER: "ret"})
    install(machine, USR1, flags=SaFlags.ONSTACK)
    install(machine, USR2, OTHER, flags=SaFlags.ONSTACK)
    log = recorded(machine)
    start(machine).altstack = AltStack(ALT, 0, ALT_SIZE)
    assert machine.run() == 1
    first, second = frames(log)
    assert first.onstack
    assert second.onstack
    assert ALT + ALT_SIZE - 0x600 < first.frame < ALT + ALT_SIZE
    assert second.frame < first.frame - signal_frame.RED_ZONE
    assert second.rsp == first.frame  # interrupted in the handler


def test_without_onstack_the_alternate_stack_is_not_used() -> None:
    machine = computer({CODE: f"{KILL_SELF} {exits('1')}", HANDLER: "ret"})
    install(machine, USR1)
    log = recorded(machine)
    start(machine).altstack = AltStack(ALT, 0, ALT_SIZE)
    machine.run()
    (frame,) = frames(log)
    assert not frame.onstack
    assert frame.frame < stack_top(0)


def test_sigaltstack_while_on_it_is_eperm() -> None:
    machine = computer(
        {
            CODE: f"{KILL_SELF} {exits('rbx')}",
            HANDLER: f"{syscall(SIGALTSTACK, DATA, 0)} neg rax;mov [{DATA} + rbx], rax; ret",
        }
    )
    install(machine, USR1, flags=SaFlags.ONSTACK)
    machine.memory.write(DATA, AltStack.FORMAT.pack(ALT, 0, ALT_SIZE // 2))
    thread = start(machine)
    thread.altstack = AltStack(ALT, 0, ALT_SIZE)
    machine.run()
    assert machine.memory.u64(DATA) == Errno.EPERM
    assert thread.altstack == AltStack(ALT, 0, ALT_SIZE)


def test_overflow_of_the_alternate_stack_is_sigsegv() -> None:
    machine = computer({CODE: KILL_SELF, HANDLER: f"sub rsp, {ALT_SIZE - 0x800}; {KILL_SELF}"})
    install(machine, USR1, flags=SaFlags.ONSTACK | SaFlags.NODEFER)
    start(machine).altstack = AltStack(ALT, 0, ALT_SIZE)
    with pytest.raises(GuestKilled, match="SIGSEGV: no room for the frame of SIGUSR1"):
        machine.run()


def test_autodisarm_turns_the_alternate_stack_off_in_the_handler_and_on_after_it() -> None:
    machine = computer({CODE: f"{KILL_SELF} {exits('1')}", HANDLER: "ret"})
    install(machine, USR1, flags=SaFlags.ONSTACK)
    thread = start(machine)
    thread.altstack = AltStack(ALT, SS_AUTODISARM, ALT_SIZE)
    seen: list[AltStack] = []
    machine.add_breakpoint(HANDLER, lambda t: seen.append(t.altstack))
    machine.run()
    assert seen == [AltStack()]
    assert thread.altstack == AltStack(ALT, SS_AUTODISARM, ALT_SIZE)


def test_stack_that_cannot_hold_the_frame_is_sigsegv() -> None:
    machine = computer({CODE: f"xor esp, esp; {KILL_SELF}"})
    install(machine, USR1)
    start(machine)
    with pytest.raises(GuestKilled, match="SIGSEGV: no room"):
        machine.run()


def test_handler_without_restorer_is_sigsegv() -> None:
    machine = computer({CODE: KILL_SELF})
    machine.linux.actions[USR1] = SigAction(HANDLER)
    start(machine)
    with pytest.raises(GuestKilled, match="SIGSEGV"):
        machine.run()


def mask_in_handler(flags: int = 0, mask: int = 0) -> tuple[int, int]:
    machine = computer({CODE: f"{KILL_SELF} {exits('1')}", HANDLER: "ret"})
    install(machine, USR1, flags=flags, mask=mask)
    thread = start(machine)
    thread.sigmask = bit(Signal.SIGHUP)
    seen: list[int] = []
    machine.add_breakpoint(HANDLER, lambda t: seen.append(t.sigmask))
    machine.run()
    assert thread.sigmask == bit(Signal.SIGHUP)
    return seen[0], thread.sigmask


def test_handler_runs_with_its_signal_and_sa_mask_blocked_and_the_old_mask_comes_back() -> None:
    seen, _ = mask_in_handler(mask=bit(USR2) | bit(Signal.SIGKILL))
    assert seen == bit(Signal.SIGHUP) | bit(USR1) | bit(USR2)


def test_nodefer_does_not_block_the_signal_itself() -> None:
    seen, _ = mask_in_handler(flags=SaFlags.NODEFER, mask=bit(USR2))
    assert seen == bit(Signal.SIGHUP) | bit(USR2)


def test_resethand_leaves_the_default_behind() -> None:
    machine = computer({CODE: f"{KILL_SELF} {KILL_SELF}", HANDLER: "ret"})
    install(machine, USR1, flags=SaFlags.RESETHAND)
    start(machine)
    with pytest.raises(GuestKilled, match="SIGUSR1"):
        machine.run()


def test_blocked_standard_signals_coalesce_and_real_time_signals_queue() -> None:
    twice = "".join(syscall(TGKILL, PID, PID, s) for s in (USR1, USR1, 40, 40))
    unblock = syscall(RT_SIGPROCMASK, 1, DATA, 0, 8)
    machine = computer(
        {
            CODE: f"{twice} {unblock} {exits('rbx')}",
            HANDLER: f"inc byte ptr [rdi + {DATA + 64}]; ret",
        }
    )
    install(machine, USR1)
    install(machine, 40)
    machine.memory.put_u64(DATA, 2**64 - 1)
    start(machine).sigmask = bit(USR1) | bit(40)
    machine.run()
    assert machine.memory.u8(DATA + 64 + USR1) == 1
    assert machine.memory.u8(DATA + 64 + 40) == 2


def test_lowest_number_gets_its_frame_first_so_the_highest_handler_runs_first() -> None:
    machine = computer({CODE: f"nop; {exits('1')}", HANDLER: "ret"})
    for signo in (USR1, USR2, Signal.SIGHUP):
        install(machine, signo)
    log = recorded(machine)
    start(machine)
    for signo in (USR2, USR1, Signal.SIGHUP):
        pend(machine, signo)
    machine.run()
    built = frames(log)
    assert [frame.signal for frame in built] == [Signal.SIGHUP, USR1, USR2]
    assert [frame.pc for frame in built] == [CODE, HANDLER, HANDLER]
    returned = [event.pc for event in log if isinstance(event, SignalReturned)]
    assert returned == [HANDLER, HANDLER, CODE]


def test_what_the_thread_caused_comes_before_lower_numbers() -> None:
    machine = computer({CODE: "nop", HANDLER: "ret"})
    install(machine, Signal.SIGSEGV)
    install(machine, Signal.SIGHUP)
    thread = start(machine)
    pend(machine, Signal.SIGHUP)
    thread.pending.append(SigInfo(Signal.SIGSEGV, 1, address=64))
    log = recorded(machine)
    deliver(machine.linux, thread)
    assert [frame.signal for frame in frames(log)] == [Signal.SIGSEGV, Signal.SIGHUP]


def test_tgkill_between_threads_reaches_one_that_ran_ahead_at_its_next_boundary() -> None:
    machine = computer(
        {
            CODE: f"mov rcx, 50; l: dec rcx; jnz l; {syscall(TGKILL, PID, PID + 1, USR1)} s: jmp s",
            OTHER: "m: inc rbx; jmp m",
            HANDLER: exits("1"),
        },
        slice_ns=1000,
    )
    install(machine, USR1)
    log = recorded(machine)
    start(machine, index=0)
    two = start(machine, OTHER, 1, time=900)
    assert machine.run() == 1
    (sent,) = [event for event in log if isinstance(event, SignalSent)]
    (frame,) = frames(log)
    assert (sent.tid, sent.target, sent.time) == (PID, PID + 1, 106)
    assert (frame.tid, frame.time) == (PID + 1, 900)
    assert two.instructions == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((PID, 77, USR1), Errno.ESRCH),
        ((PID + 1, PID, USR1), Errno.ESRCH),
        ((0, PID, USR1), Errno.EINVAL),
        ((PID, PID, 65), Errno.EINVAL),
        ((PID, PID, 0), 0),
    ],
)
def test_tgkill_errors(arguments: tuple[int, ...], error: int) -> None:
    machine = computer({CODE: f"{syscall(TGKILL, *arguments)} neg rax; {exits('rax')}"})
    start(machine)
    assert machine.run() == error


def test_process_directed_signal_goes_to_a_thread_that_does_not_block_it() -> None:
    machine = computer(
        {CODE: f"{syscall(62, PID, USR1)} s: jmp s", OTHER: "t: jmp t", HANDLER: exits("1")}
    )
    install(machine, USR1)
    log = recorded(machine)
    start(machine, index=0).sigmask = bit(USR1)
    start(machine, OTHER, 1)
    machine.run()
    assert frames(log)[0].tid == PID + 1
