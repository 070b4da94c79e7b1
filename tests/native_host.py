"""Whether tests of the real processor can run here, and the reason that names why not."""

from __future__ import annotations

from functools import cache

from emulator.host_cpuid import NativeUnavailableError
from emulator.memory import Memory
from emulator.native.fenced_child import FencedChild


@cache
def native_objection(features: int = 0) -> str:
    """Why the real processor cannot be used, or lacks some of these bits of XCR0; empty if not."""
    try:
        child = FencedChild(Memory())
    except NativeUnavailableError as error:
        return f"the real processor cannot be used: {error}"
    try:
        missing = features & ~child.features
        return f"this processor has no state components {missing:#x} of XCR0" if missing else ""
    finally:
        child.close()
