"""Machine.step does what Machine.run would do, one instruction at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from small_computer import CODE, EXIT_GROUP, WATCHED, computer, start, syscall

if TYPE_CHECKING:
    from emulator.linux.threads import Thread
    from emulator.machine import Machine

LOOP = "mov ecx, 5; xor eax, eax; again: add rax, rcx; dec rcx; jne again; "


class _Stop:
    """Stops the machine after so many instructions."""

    def __init__(self, machine: Machine, count: int) -> None:
        self.machine = machine
        self.count: int | None = count

    def due(self, thread: Thread) -> int | None:
        return None if self.count is None else self.count - thread.user_instructions

    def fire(self, thread: Thread) -> None:  # noqa: ARG002
        self.count = None
        self.machine.stop()


def test_steps_lead_through_the_states_of_a_run() -> None:
    text = {CODE: LOOP + syscall(EXIT_GROUP, 3)}
    stepped, whole = computer(text), computer(text)
    thread, reference = start(stepped), start(whole)
    whole.step_all = True
    whole.events.executed_wanted = True
    states: list[bytes] = []
    whole.events.subscribe(
        lambda event: states.append(bytes(event.after.block)) if hasattr(event, "after") else None
    )
    assert whole.run() == 3
    assert not stepped.step()  # nobody's turn yet: run begins
    stepped.timer = _Stop(stepped, 1)
    assert stepped.run() is None
    seen = [bytes(thread.registers.block)]
    while stepped.step():
        seen.append(bytes(thread.registers.block))
    assert seen == states[: len(seen)]
    assert len(seen) == len(states) - 1  # the last one makes the call that ends the process
    assert stepped.linux.exit_status == 3
    assert thread.instructions == reference.instructions
    assert thread.user_instructions == reference.user_instructions
    assert thread.time == reference.time


def test_a_step_does_not_enter_watched_code() -> None:
    machine = computer({CODE: f"nop; jmp {WATCHED}", WATCHED: syscall(EXIT_GROUP, 0)})
    machine.watch(WATCHED, WATCHED + 64)
    thread = start(machine)
    machine.timer = _Stop(machine, 1)
    assert machine.run() is None
    assert not machine.step()  # the jump is executed, and what follows is not for step
    assert thread.registers["RIP"] == WATCHED
    assert thread.user_instructions == 2
    assert not machine.step()
    assert thread.registers["RIP"] == WATCHED


def test_a_step_leaves_a_pending_signal_to_run() -> None:
    machine = computer({CODE: LOOP + syscall(EXIT_GROUP, 0)})
    thread = start(machine)
    machine.timer = _Stop(machine, 2)
    assert machine.run() is None
    assert machine.step()
    thread.sigpending = True
    before = thread.registers.copy()
    assert not machine.step()
    assert thread.registers == before
