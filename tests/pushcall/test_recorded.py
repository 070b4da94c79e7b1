"""A recorded run gives back every state that the run passed, and is itself as if not recorded.

The truth is the same program run to that step and stopped there, without any recording.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
from small_examples import EXAMPLES, NAMES, shortened

from emulator.events import SignalReturned
from emulator.history import GROUP
from emulator.memory import Memory, Prot
from emulator.recording import STRETCH
from emulator.run_log import RunLog
from emulator.unicorn_cpu import UnicornCpu
from pushcall import api
from pushcall.snippet import run as running
from pushcall.snippet.event_json import event_json
from pushcall.snippet.injection import Injection
from pushcall.trace.recorded import RecordedRun, Writer, record
from runtime_model.events import Entered, PushedCall
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from pushcall.snippet.program import Program
    from runtime_model.runtime import Runtime

NUTS = "golang_nuts.s"
EDGE = GROUP * STRETCH  # records of a group
# At none of the steps below does a request run machine code on another thread: there the thread
# that is stopped is not the one that executes.
EVERY = 1100


def program(name: str, go: str, **more: int) -> Program:
    return api.program(shortened(name, 9), EXAMPLES, go=go, policy=Policy(None), **more)


@functools.cache
def long_run() -> RecordedRun:
    """30 goroutines on two Ps, over several groups."""
    loaded = api.program(EXAMPLES / NUTS, go="1.22", policy=Policy(None))
    return record(loaded, Injection(every=EVERY))


def writable(rt: Runtime) -> dict[int, bytes]:
    regions = rt.memory.regions
    return {r.start: bytes(r.view) for r in regions if r.prot & Prot.WRITE}


def recorded_from_boot(loaded: Program, every: int) -> tuple[RecordedRun, dict[int, bytes]]:
    """A recorded run, and all memory that it began with."""
    boot: dict[int, bytes] = {}
    logs: list[RunLog] = []

    def prepare(rt: Runtime) -> None:
        boot.update(writable(rt))
        logs.append(RunLog(rt.machine))
        logs[0].start()

    rt, out = running.run(loaded, Injection(every=every), prepare=prepare)
    logs[0].stop()
    return RecordedRun(rt, out, logs[0], 1 << 40), boot


def differing(run: RecordedRun, step: int, expected: dict[int, bytes]) -> list[str]:
    past = run.memory(step)
    return [hex(start) for start, data in expected.items() if past.read(start, len(data)) != data]


@pytest.mark.parametrize("go", ["1.13", "1.22", "1.26"])
@pytest.mark.parametrize("name", NAMES)
def test_undone_to_the_first_step_memory_is_that_of_boot(name: str, go: str) -> None:
    run, boot = recorded_from_boot(program(name, go, budget=20_000), every=7)
    assert differing(run, 0, boot) == []
    assert differing(run, len(run), writable(run.rt)) == []
    assert differing(run, len(run), boot) != []


def test_a_write_past_the_journal_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def past(memory: Memory, address: int, value: int) -> None:
        view, offset = memory.locate(address, 4)
        view[offset : offset + 4] = (value & 0xFFFF_FFFF).to_bytes(4, "little")

    monkeypatch.setattr(Memory, "put_u32", past)
    run, boot = recorded_from_boot(program("nested.s", "1.22"), every=7)
    assert differing(run, 0, boot) != []


@pytest.mark.parametrize("step", [1, 700, 5000, EDGE - 1, EDGE, EDGE + 1, 2 * EDGE, 3 * EDGE + 77])
def test_every_step_has_the_state_of_a_run_that_stops_there(step: int) -> None:
    run = long_run()
    loaded = api.program(EXAMPLES / NUTS, go="1.22", policy=Policy(None), budget=step)
    rt, out = running.run(loaded, Injection(every=EVERY))
    assert out.instructions == step
    thread = rt.machine.scheduler.current
    assert thread is not None
    assert run.who(step).tid == thread.tid
    assert (run.who(step).m, run.who(step).g) == rt.identity(thread.tid)
    assert run.registers(step) == thread.registers
    assert differing(run, step, writable(rt)) == []
    assert run.memory(step).read(rt.heap, 64) == rt.memory.read(rt.heap, 64)


@pytest.mark.parametrize("go", ["1.13", "1.22", "1.27"])
def test_a_run_is_the_same_with_and_without_recording(go: str) -> None:
    injection = Injection(every=50)
    loaded = program(NUTS, go)
    rt, out = running.run(loaded, injection, keep_events=True)
    run, _ = recorded_from_boot(program(NUTS, go), every=50)
    assert len(run) == out.instructions
    assert [event_json(m.event) for m in run.events] == [event_json(e) for e in out.events]
    out.events = []
    assert running.to_json(run.rt, run.outcome) == running.to_json(rt, out)


def test_without_machine_code_the_recording_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = program("carry_chain.s", "1.22")
    expected, _ = recorded_from_boot(loaded, every=20)
    monkeypatch.setattr(
        "emulator.unicorn_cpu.UnicornCpu", functools.partial(UnicornCpu, counting="python")
    )
    slow, boot = recorded_from_boot(loaded, every=20)
    assert "python" in slow.rt.machine.cpu.name
    assert len(slow) == len(expected) > 1000
    for step in range(len(slow) + 1):
        assert slow.registers(step) == expected.registers(step)
    assert slow.spans == expected.spans
    assert differing(slow, 0, boot) == []
    assert [m.step for m in slow.events] == [m.step for m in expected.events]


def test_the_recording_ends_at_its_limit() -> None:
    loaded = program(NUTS, "1.22")
    run = record(loaded, Injection(every=50), limit=3000)
    assert (len(run), run.cut) == (3000, True)
    whole = record(loaded, Injection(every=50))
    assert not whole.cut
    assert whole.who(3000).tid == run.who(3000).tid
    assert whole.registers(3000) == run.registers(3000)


def test_registers_behind_an_instruction_are_its_own_work() -> None:
    """Of a SYSCALL the processor's part is RIP (emulator.cpu); the context is the kernel's."""
    run = long_run()
    sigreturn = next(m.step for m in run.events if isinstance(m.event, SignalReturned))
    before, behind = run.registers(sigreturn - 1), run.behind(sigreturn - 1)
    assert before["RAX"] == behind["RAX"] == 15  # rt_sigreturn
    assert behind["RIP"] == before["RIP"] + 2
    assert run.registers(sigreturn - 1).diff(run.behind(sigreturn - 1)) == ["RIP"]
    assert run.registers(sigreturn)["RIP"] == run.rt.symbol("asyncPreempt")


def test_the_pushed_pc_was_written_by_pushcall_and_a_return_address_by_its_call() -> None:
    run = long_run()
    step, event = next((m.step, m.event) for m in run.events if isinstance(m.event, PushedCall))
    slot = event.rsp_after
    assert run.wrote_memory(step, slot) == Writer(step, by_instruction=False)
    later = run.recording.find(run.rt.symbol("asyncPreempt"), step)
    assert later is not None
    assert run.memory(later).u64(slot) == event.resume
    assert run.wrote_memory(later, slot + 7) == Writer(step, by_instruction=False)
    # PUSHQ BP is asyncPreempt's first instruction.
    assert run.wrote_memory(later + 1, slot - 8) == Writer(later, by_instruction=True)
    assert run.memory(later + 1).u64(slot - 8) == run.registers(later)["RBP"]
    assert run.wrote_register(later + 1, "RSP") == Writer(later, by_instruction=True)
    # The SP that asyncPreempt begins with came with the signal's context.
    assert run.wrote_register(later, "RSP") == Writer(later, by_instruction=False)
    assert run.wrote_memory(0, slot) is None


def test_who_wrote_it_agrees_with_a_search_step_by_step() -> None:
    run, _ = recorded_from_boot(program("float_loop.s", "1.22", goroutines=2), every=30)
    checked = 0
    for step in range(20, len(run), 61):
        tid = run.who(step).tid
        mine = [s for s in range(step) if run.who(s).tid == tid] + [step]
        for name in ("RAX", "RSP", "XMM0", "RFLAGS", "R14"):
            expected = None
            for one, following in zip(mine[-2::-1], mine[:0:-1], strict=True):
                behind = run.behind(one)[name]
                if run.registers(following)[name] != behind:
                    expected = Writer(following, by_instruction=False)
                elif run.registers(one)[name] != behind:
                    expected = Writer(one, by_instruction=True)
                if expected is not None:
                    break
            assert run.wrote_register(step, name) == expected
            checked += expected is not None
    assert checked > 50


def test_steps_that_execute_an_address_are_found_both_ways() -> None:
    run, _ = recorded_from_boot(program("float_loop.s", "1.22"), every=30)
    pcs = [run.pc(step) for step in range(len(run))]
    for pc in sorted(set(pcs))[::7]:
        for start in range(0, len(run), 501):
            ahead = next((s for s in range(start, len(run)) if pcs[s] == pc), None)
            back = next((s for s in range(start - 1, -1, -1) if pcs[s] == pc), None)
            assert run.recording.find(pc, start) == ahead
            assert run.recording.find(pc, start, back=True) == back


def test_events_are_tied_to_their_steps() -> None:
    """Entered names the PC that the step executes, where the thread comes to machine code."""
    run = long_run()
    tied = [m for m in run.events if isinstance(m.event, Entered) and m.event.pc]
    assert len(tied) > 500
    for marked in tied[::5]:
        assert run.pc(marked.step) == marked.event.pc
        assert run.who(marked.step).tid == marked.event.tid
