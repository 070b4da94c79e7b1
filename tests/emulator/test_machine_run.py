"""The machine: scheduling, gates, timers, watched code, breakpoints, snapshots, nested calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from small_computer import (
    CODE,
    DATA,
    EXIT,
    HANDLER,
    NANOSLEEP,
    OTHER,
    PID,
    TGKILL,
    WATCHED,
    assemble,
    computer,
    exits,
    install,
    stack_top,
    start,
    syscall,
)

from emulator.events import Executed
from emulator.fault import BudgetExhausted, Deadlock, GuestFault, GuestStopped
from emulator.linux.signal_abi import SI_TKILL, SigInfo
from emulator.linux.signals import send
from emulator.linux.threads import Thread, ThreadState

if TYPE_CHECKING:
    from emulator.machine import Machine

LOOP = "l: inc rbx; dec rcx; jnz l;"
ENDLESS = "l: inc rbx; jmp l"
SIGNAL = 10


@dataclass
class Timer:
    """Fires after these numbers of unwatched instructions, and notes where."""

    at: list[int]
    machine: Machine
    signo: int = 0
    fired: list[tuple[int, int]] = field(default_factory=list)

    def due(self, thread: Thread) -> int | None:
        return self.at[0] - thread.user_instructions if self.at else None

    def fire(self, thread: Thread) -> None:
        self.at.pop(0)
        self.fired.append((thread.user_instructions, thread.registers["RIP"]))
        if self.signo:
            info = SigInfo(self.signo, SI_TKILL, PID, 1000)
            send(self.machine.linux, info, thread, thread)


@dataclass
class Watcher:
    """Notes what an observer is told."""

    seen: list[tuple[str, int]] = field(default_factory=list)

    def stepping(self, thread: Thread, rip: int) -> None:
        del thread
        self.seen.append(("step", rip))

    def left(self, thread: Thread) -> None:
        self.seen.append(("left", thread.registers["RIP"]))

    def entered(self, thread: Thread) -> None:
        self.seen.append(("entered", thread.registers["RIP"]))


def test_exit_group_ends_the_run_with_its_status() -> None:
    machine = computer({CODE: f"mov rcx, 5; {LOOP} {exits('rbx')}"})
    thread = start(machine)
    assert machine.run() == 5
    assert thread.instructions == machine.instructions == machine.now == 1 + 15 + 3


def test_an_instruction_takes_one_nanosecond_of_its_threads_time() -> None:
    machine = computer({CODE: f"mov rcx, 100; {LOOP} {syscall(EXIT, 0)}"})
    one, two = start(machine), start(machine, time=7)
    assert machine.run() == 0
    assert (one.time, two.time) == (1 + 300 + 3, 7 + 1 + 300 + 3)


@pytest.mark.parametrize("slice_ns", [1, 10, 1000])
def test_no_ready_thread_is_left_behind_by_more_than_a_slice(slice_ns: int) -> None:
    machine = computer({CODE: ENDLESS}, slice_ns=slice_ns, budget=5000)
    threads = [start(machine) for _ in range(3)]
    with pytest.raises(BudgetExhausted):
        machine.run()
    times = [thread.time for thread in threads]
    assert max(times) - min(times) <= slice_ns
    assert sum(times) == 5000


def test_a_sleeper_wakes_exactly_at_its_time() -> None:
    machine = computer(
        {CODE: f"{syscall(NANOSLEEP, DATA, 0)} {ENDLESS}", OTHER: ENDLESS}, budget=3000
    )
    machine.memory.put_u64(DATA + 8, 1234)
    sleeper, other = start(machine), start(machine, OTHER)
    stops: list[int] = []
    behind = CODE + len(assemble(syscall(NANOSLEEP, DATA, 0), CODE))
    machine.add_breakpoint(behind, lambda thread: stops.append(thread.time))
    with pytest.raises(BudgetExhausted):
        machine.run()
    assert stops[0] == 4 + 1234
    assert sleeper.time <= other.time + 10_000


def test_budget_counts_all_threads_and_names_the_place() -> None:
    machine = computer({CODE: ENDLESS}, budget=1001)
    start(machine)
    with pytest.raises(BudgetExhausted, match="1001 instructions is used up at 0x400003") as caught:
        machine.run()
    assert caught.value.tid == PID
    assert caught.value.registers is not None
    assert caught.value.registers["RBX"] == 501
    assert machine.instructions == 1001
    machine.budget = 2000
    with pytest.raises(BudgetExhausted):
        machine.run()
    assert machine.threads[PID].registers["RBX"] == 1000


def test_deadlock_names_who_waits_for_what() -> None:
    machine = computer({CODE: syscall(202, DATA, 128, 0, 0)})
    start(machine)
    with pytest.raises(Deadlock, match="thread 1000 in futex on 0x500000"):
        machine.run()


def test_unknown_system_call_is_refused_by_number_name_and_place() -> None:
    machine = computer({CODE: syscall(59)})
    start(machine)
    with pytest.raises(GuestStopped, match=r"system call 59 \(execve\) at 0x400005"):
        machine.run()


def test_fault_without_handler_ends_the_run_with_the_registers_there() -> None:
    machine = computer({CODE: "mov rax, 0x1234; mov rbx, [rax]"})
    start(machine)
    with pytest.raises(GuestFault, match="read of unmapped memory at 0x1234") as caught:
        machine.run()
    assert caught.value.fault.pc == CODE + 7
    assert caught.value.registers is not None
    assert caught.value.registers["RAX"] == 0x1234
    assert caught.value.registers["RIP"] == CODE + 7


def test_system_call_loses_rcx_and_r11_to_rip_and_rflags() -> None:
    machine = computer({CODE: f"stc; {syscall(39)} hlt"})
    thread = start(machine)
    with pytest.raises(GuestFault):
        machine.run()
    registers = thread.registers
    assert registers["RAX"] == PID
    assert registers["RCX"] == registers["RIP"]
    assert registers["R11"] == registers["RFLAGS"] & ~0x10000 == 0x203


# Gates


def test_gate_that_returns_none_acts_as_ret() -> None:
    machine = computer({CODE: "nop"})

    def double(thread: Thread) -> None:
        thread.registers["RBX"] *= 2

    gate = machine.gate("double", double)
    code = assemble(f"mov rbx, 21; movabs rax, {gate}; call rax; {exits('rbx')}", CODE)
    machine.memory.write(CODE, code)
    thread = start(machine)
    before = thread.registers["RSP"]
    assert machine.run() == 42
    assert thread.registers["RSP"] == before
    assert machine.gates.names[gate] == "double"


def test_gate_that_returns_an_address_goes_on_there_with_rsp_untouched() -> None:
    machine = computer({OTHER: "mov rbx, rsp; hlt"})
    gate = machine.gate("jump", lambda _: OTHER)
    machine.memory.write(CODE, assemble(f"movabs rax, {gate}; call rax", CODE))
    thread = start(machine)
    rsp = thread.registers["RSP"]
    with pytest.raises(GuestFault):
        machine.run()
    assert thread.registers["RBX"] == rsp - 8


def test_gates_cost_neither_time_nor_instructions() -> None:
    machine = computer({CODE: exits("7")})
    gate = machine.gate("nothing", lambda _: CODE)
    start(machine, gate)
    assert machine.run() == 7
    assert machine.now == machine.instructions == 3


def test_gates_that_lead_to_each_other_for_ever_end_the_run() -> None:
    machine = computer({})
    gates: list[int] = []
    gates.append(machine.gate("a", lambda _: gates[1]))
    gates.append(machine.gate("b", lambda _: gates[0]))
    start(machine, gates[0])
    machine._idle = 999_000
    with pytest.raises(GuestStopped, match="without an instruction between"):
        machine.run()


def test_address_between_gates_is_a_fault() -> None:
    machine = computer({})
    gate = machine.gate("gate", lambda _: None)
    start(machine, gate + 1)
    with pytest.raises(GuestFault, match="not a gate"):
        machine.run()


# Nested calls


def test_nested_call_returns_registers_and_restores_the_threads() -> None:
    machine = computer({OTHER: "mov rax, rdi; add rax, rsi; mov rbx, rsp; mov r15, 1; ret"})
    results = []

    def gate(thread: Thread) -> int:
        before = thread.registers.copy()
        results.append(machine.call(thread, OTHER, RDI=40, RSI=2))
        assert thread.registers == before
        return CODE

    machine.memory.write(CODE, assemble(exits("r15"), CODE))
    thread = start(machine, machine.gate("gate", gate))
    thread.registers["R15"] = 9
    assert machine.run() == 9
    assert results[0]["RAX"] == 42
    assert results[0]["RBX"] % 16 == 8
    assert results[0]["RBX"] < stack_top(0) - 0x100 - 128  # the red zone is kept
    assert machine.instructions == 5 + 3


def test_signals_wait_until_a_nested_call_is_over() -> None:
    machine = computer({OTHER: f"{syscall(TGKILL, PID, PID, SIGNAL)} mov rax, rbx; ret"})
    machine.memory.write(HANDLER, assemble("inc rbx; mov r12, 77; ret", HANDLER))
    machine.memory.write(CODE, assemble(exits("5"), CODE))
    install(machine, SIGNAL)
    results = []

    def gate(thread: Thread) -> int:
        results.append(machine.call(thread, OTHER, RBX=3)["RAX"])
        return CODE

    handled = []
    start(machine, machine.gate("gate", gate))
    machine.add_breakpoint(HANDLER, lambda thread: handled.append(thread.registers["RIP"]))
    assert machine.run() == 5
    assert results == [3]
    assert handled == [HANDLER]


def test_nested_call_may_nest_and_use_gates() -> None:
    machine = computer({CODE: exits("rbx")})
    inner = machine.gate("inner", lambda thread: thread.registers.__setitem__("RAX", 5))
    machine.memory.write(OTHER, assemble(f"movabs rax, {inner}; call rax; add rax, 1; ret", OTHER))
    outer = machine.gate(
        "outer",
        lambda thread: thread.registers.__setitem__("RAX", machine.call(thread, OTHER)["RAX"] * 2),
    )
    machine.memory.write(WATCHED, assemble(f"movabs rax, {outer}; call rax; ret", WATCHED))

    def start_gate(thread: Thread) -> int:
        thread.registers["RBX"] = machine.call(thread, WATCHED)["RAX"]
        return CODE

    start(machine, machine.gate("start", start_gate))
    assert machine.run() == 12


def test_nested_call_outside_of_a_run() -> None:
    machine = computer({OTHER: "lea rax, [rdi + rdi]; ret"})
    thread = start(machine)
    assert machine.call(thread, OTHER, RDI=21)["RAX"] == 42
    assert thread.registers["RIP"] == CODE


def test_nested_call_that_would_wait_is_an_error() -> None:
    machine = computer({OTHER: syscall(202, DATA, 128, 0, 0)})
    thread = start(machine)
    with pytest.raises(GuestStopped, match="waits or exits in a call from Python"):
        machine.call(thread, OTHER)
    assert thread.state is ThreadState.RUNNABLE


def test_fault_in_a_nested_call_is_not_given_to_a_handler() -> None:
    machine = computer({OTHER: "ud2"})
    install(machine, 4)
    thread = start(machine)
    with pytest.raises(GuestFault, match="invalid instruction"):
        machine.call(thread, OTHER)
    assert thread.registers["RIP"] == CODE


# Timers


@pytest.mark.parametrize("every", [1, 2, 3, 7, 1000])
def test_timer_due_after_n_fires_before_instruction_n_plus_1(every: int) -> None:
    machine = computer({CODE: f"mov rcx, 1000; {LOOP} {exits('1')}"})
    start(machine)
    timer = Timer(list(range(every, 3001, every)), machine)
    machine.timer = timer
    assert machine.run() == 1
    assert [count for count, _ in timer.fired] == list(range(every, 3001, every))
    # mov at +0 (7 bytes), then inc (3), dec (3), jnz (2) in turn.
    places = [CODE + 7, CODE + 10, CODE + 13]
    assert [rip for _, rip in timer.fired] == [places[(count - 1) % 3] for count, _ in timer.fired]


def test_timers_signal_comes_before_the_next_instruction_and_changes_nothing() -> None:
    machine = computer({CODE: f"mov rcx, 200; {LOOP} {exits('rbx')}", HANDLER: "ret"})
    install(machine, SIGNAL)
    machine.watch(HANDLER, OTHER)
    machine.watch(OTHER + 0x2000, OTHER + 0x3000)  # the restorer
    thread = start(machine)
    timer = Timer(list(range(1, 601)), machine, SIGNAL)
    machine.timer = timer
    frames: list[int] = []
    machine.events.subscribe(
        lambda event: frames.append(event.pc) if type(event).__name__ == "FrameBuilt" else None
    )
    assert machine.run() == 200
    assert len(frames) == 600
    assert frames == [rip for _, rip in timer.fired]
    assert thread.user_instructions == 1 + 600 + 3


# Watched code and breakpoints


def test_observer_hears_of_every_crossing_and_every_watched_step() -> None:
    machine = computer({WATCHED: "nop; nop; ret"})
    gate = machine.gate("gate", lambda _: None)
    text = f"mov rax, {WATCHED}; call rax; movabs rax, {gate}; call rax; {exits('1')}"
    machine.memory.write(CODE, assemble(text, CODE))
    machine.watch(WATCHED, WATCHED + 0x100)
    watcher = Watcher()
    machine.observer = watcher
    thread = start(machine)
    machine.run()
    assert watcher.seen == [
        ("entered", WATCHED),
        ("step", WATCHED),
        ("step", WATCHED + 1),
        ("step", WATCHED + 2),
        ("left", CODE + 9),
        ("entered", gate),
        ("left", CODE + 21),
    ]
    assert thread.instructions - thread.user_instructions == 3


def test_changes_of_an_observer_reach_the_processor() -> None:
    machine = computer({CODE: f"mov rax, {WATCHED}; call rax; {exits('rbx')}", WATCHED: "ret"})
    machine.watch(WATCHED, WATCHED + 0x100)

    class Changer(Watcher):
        def entered(self, thread: Thread) -> None:
            thread.registers["RBX"] = 1

        def stepping(self, thread: Thread, rip: int) -> None:
            del rip
            machine.registers(thread)["RBX"] += 10

        def left(self, thread: Thread) -> None:
            thread.registers["RBX"] += 100

    machine.observer = Changer()
    start(machine)
    assert machine.run() == 111


def test_breakpoint_is_called_each_time_before_its_instruction() -> None:
    machine = computer({CODE: f"mov rcx, 5; {LOOP} {exits('rbx')}"})
    seen: list[tuple[int, int]] = []
    start(machine)
    machine.add_breakpoint(
        CODE + 10, lambda t: seen.append((t.registers["RBX"], t.user_instructions))
    )
    assert machine.run() == 5
    assert seen == [(i + 1, 2 + 3 * i) for i in range(5)]


def test_breakpoint_fires_again_when_a_signal_took_the_thread_elsewhere() -> None:
    machine = computer({CODE: f"nop; {exits('rbx')}", HANDLER: "ret"})
    install(machine, SIGNAL)
    seen: list[int] = []

    def hit(thread: Thread) -> None:
        seen.append(thread.instructions)
        if len(seen) < 3:
            send(machine.linux, SigInfo(SIGNAL, SI_TKILL), thread, thread)

    start(machine)
    machine.add_breakpoint(CODE + 1, hit)
    machine.run()
    assert seen == [1, 1 + 3, 1 + 6]  # handler and restorer have three instructions


def test_stop_resumes_exactly_where_it_was() -> None:
    text = {CODE: f"mov rcx, 500; {LOOP} {syscall(EXIT, 0)}"}

    def timeline(stops: int) -> tuple[list[tuple[int, int, int]], int]:
        machine = computer(text, slice_ns=100)
        first, _ = start(machine), start(machine)
        log: list[tuple[int, int, int]] = []
        hits = [0]

        def hit(thread: Thread) -> None:
            log.append((thread.tid, thread.time, thread.registers["RBX"]))
            hits[0] += 1
            if stops and hits[0] % stops == 0:
                machine.stop()

        machine.add_breakpoint(CODE + 7, hit)
        while machine.run() is None:
            pass
        return log, first.instructions

    assert timeline(0) == timeline(1) == timeline(7)


def test_step_all_changes_nothing_and_shows_every_instruction() -> None:
    machine = computer({CODE: f"mov rcx, 3; {LOOP} {exits('rbx')}"}, step_all=True)
    machine.events.executed_wanted = True
    executed: list[Executed] = []
    machine.events.subscribe(
        lambda event: executed.append(event) if isinstance(event, Executed) else None
    )
    thread = start(machine)
    assert machine.run() == 3
    assert [event.index for event in executed] == list(range(thread.instructions))
    assert [event.pc for event in executed[:5]] == [CODE, *(CODE + o for o in (7, 10, 13, 7))]


def test_rdtsc_shows_virtual_time() -> None:
    machine = computer({CODE: f"nop; nop; rdtsc; mov rbx, rax; {exits('rbx')}"})
    start(machine)
    assert machine.run() == 2


def test_nested_call_on_a_thread_that_waits_leaves_it_waiting() -> None:
    machine = computer(
        {CODE: syscall(202, DATA, 128, 0, 0), OTHER: f"{syscall(39)} inc rax; ret", WATCHED: "nop"}
    )
    waiter = start(machine)

    def gate(thread: Thread) -> int:
        del thread
        assert waiter.state is ThreadState.FUTEX
        assert machine.call(waiter, OTHER)["RAX"] == PID + 1
        return CODE + 0x800

    machine.memory.write(CODE + 0x800, assemble(exits("3"), CODE + 0x800))
    start(machine, machine.gate("gate", gate), time=100)
    assert machine.run() == 3
    assert waiter.state is ThreadState.FUTEX
    assert machine.linux.futex_queue == [PID]


def test_executed_events_carry_the_registers_before_and_after() -> None:
    machine = computer({WATCHED: f"mov ebx, 5; inc ebx; {syscall(39)} ud2"})
    machine.watch(WATCHED, WATCHED + 0x100)
    machine.events.executed_wanted = True
    executed: list[Executed] = []
    machine.events.subscribe(
        lambda event: executed.append(event) if isinstance(event, Executed) else None
    )
    start(machine, WATCHED)
    with pytest.raises(GuestFault):
        machine.run()
    changes = [e.before.diff(e.after) for e in executed if e.before and e.after]
    assert changes == [["RBX", "RIP"], ["RBX", "RIP", "RFLAGS"], ["RAX", "RIP"], ["RIP"]]
