"""sigctxt: the signal's context, read and changed in the frame (runtime/signal_amd64.go).

Offsets are Linux's `struct sigcontext` within `struct ucontext` (arch/x86/include/uapi/asm/
sigcontext.h), through the layout of the runtime's own declarations (defs_linux_amd64.go).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime_model.events import PushedCall

if TYPE_CHECKING:
    from runtime_model.runtime import Runtime

SHOWN_WORDS = 6  # how much of the stack PushedCall carries


class sigctxt:  # Go's name
    """A view of one signal frame's ucontext."""

    __slots__ = ("_rip", "_rsp", "rt")

    def __init__(self, rt: Runtime, ctxt: int) -> None:
        self.rt = rt
        context = ctxt + rt.layout.offset("ucontext", "uc_mcontext")
        self._rip = context + rt.layout.offset("sigcontext", "rip")
        self._rsp = context + rt.layout.offset("sigcontext", "rsp")

    def sigpc(self) -> int:
        """The interrupted PC."""
        return self.rt.memory.u64(self._rip)

    def sigsp(self) -> int:
        """The interrupted stack pointer."""
        return self.rt.memory.u64(self._rsp)

    def set_rip(self, value: int) -> None:
        """Changes where the thread goes on."""
        self.rt.memory.put_u64(self._rip, value)

    def set_rsp(self, value: int) -> None:
        """Changes the stack that it goes on with."""
        self.rt.memory.put_u64(self._rsp, value)

    def pushCall(self, targetPC: int, resumePC: int) -> None:  # noqa: N803
        """Makes it look as if the code at resumePC had just called targetPC."""
        before = self.sigsp()
        shown_before = self._words(before)
        sp = before - 8
        self.rt.memory.put_u64(sp, resumePC)
        self.set_rsp(sp)
        self.set_rip(targetPC)
        self.rt.machine.events.emit(
            PushedCall(
                tid=self.rt.thread.tid,
                target=targetPC,
                resume=resumePC,
                rsp_before=before,
                rsp_after=sp,
                stack_before=shown_before,
                stack_after=self._words(sp),
            )
        )

    def _words(self, sp: int) -> tuple[int, ...]:
        region = self.rt.memory.find(sp)
        count = min(SHOWN_WORDS, (region.end - sp) // 8) if region is not None else 0
        return tuple(self.rt.memory.u64(sp + 8 * i) for i in range(count))
