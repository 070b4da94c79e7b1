"""Which processors there are, and the one place that chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from emulator.cpu import Cpu
    from emulator.memory import Memory

UNICORN: Final = "unicorn"
NATIVE: Final = "native"
ENGINES: Final = (UNICORN, NATIVE)


def processor(memory: Memory, engine: str = UNICORN) -> Cpu:
    """A processor for the code of `memory`: Unicorn's, or this host's own.

    Raises NativeUnavailableError where the host's cannot be had.
    """
    if engine == NATIVE:
        from emulator.native.cpu import NativeCpu  # only where it is wanted

        return NativeCpu(memory)
    from emulator.unicorn_cpu import UnicornCpu

    return UnicornCpu(memory)
