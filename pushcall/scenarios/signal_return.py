"""What a kernel's rt_sigreturn did to a preempted thread, against what the frame says it is to do.

The frame holds the interrupted registers but for what pushCall changed in it: RSP and RIP. Whatever
else a thread goes on with, the kernel has lost; no trampoline can bring it back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from emulator.events import FrameBuilt, SignalReturned
from pushcall.snippet import run as running
from pushcall.snippet.crash import place
from pushcall.snippet.injection import Injection
from pushcall.snippet.text import where
from runtime_model.events import PushedCall
from runtime_model.policy import Policy

if TYPE_CHECKING:
    from emulator.events import Event
    from emulator.registers import Registers
    from pushcall.snippet.program import Program
    from runtime_model.runtime import Runtime


class _Witness:
    """A listener that follows the first preemption."""

    def __init__(self, rt: Runtime) -> None:
        self.rt = rt
        self.lines: list[str] = []
        self._interrupted: Registers | None = None
        self._pushed: PushedCall | None = None
        rt.machine.events.subscribe(self._listen)

    def _listen(self, event: Event) -> None:
        if self.lines:
            return
        if isinstance(event, FrameBuilt):
            self._interrupted = event.interrupted
        elif isinstance(event, PushedCall):
            self._pushed = event
        elif isinstance(event, SignalReturned) and self._pushed is not None:
            self._compare(self.rt.machine.threads[event.tid].registers, self._pushed)

    def _compare(self, found: Registers, pushed: PushedCall) -> None:
        expected = self._interrupted
        assert expected is not None
        expected = expected.copy()
        expected["RIP"], expected["RSP"] = pushed.target, pushed.rsp_after
        at = where(place(self.rt, pushed.pc or pushed.resume))
        for name in expected.diff(found):
            if name == "RIP":
                meant, is_ = (where(place(self.rt, r["RIP"])) for r in (expected, found))
                text = f"goes on at {is_}, not at {meant}"
            else:
                text = f"leaves {name} = {found[name]:#x}, not {expected[name]:#x}"
            self.lines.append(f"rt_sigreturn, of the signal at {at}, {text}")


def differences(program: Program, index: int) -> list[str]:
    """What rt_sigreturn loses when the program is preempted at a boundary, in words."""
    config = replace(program.config, policy=Policy(force_preempt_ns=None), goroutines=1, procs=1)
    witnesses: list[_Witness] = []
    running.run(
        replace(program, config=replace(config, budget=index + 100_000)),
        Injection(at=(index,)),
        prepare=lambda rt: witnesses.append(_Witness(rt)),
    )
    return witnesses[0].lines
