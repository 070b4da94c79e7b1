"""Variables of the mark workers, in emulated memory.

runtime/mgc.go: work; mgcpacer.go: gcController. The first worker has the M of a P of its own; the
second is a goroutine, which a P runs that the first has enlisted. Each has a block of these; what
both share stands in the first one's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from emulator.memory import Memory


class Word:
    """A descriptor for word `index` of a block of variables."""

    def __init__(self, index: int) -> None:
        self.offset = 8 * index

    def __get__(self, block: suspending, owner: type | None = None) -> int:
        return block.memory.u64(block.address + self.offset)

    def __set__(self, block: suspending, value: int) -> None:
        block.memory.put_u64(block.address + self.offset, value)


class suspending:  # a frame of Go's
    """The local variables of suspendG, and of the loop over goroutines around it."""

    SIZE: ClassVar[int] = 128

    wanted = Word(0)  # a scan of all stacks is asked for
    scanning = Word(1)
    index = Word(2)  # of the goroutine that is being stopped
    i = Word(3)
    nextYield = Word(4)
    stopped = Word(5)
    asyncM = Word(6)
    asyncGen = Word(7)
    nextPreemptM = Word(8)
    cycles = Word(9)  # scans of all stacks that came to their end
    world = Word(10)  # proc_world.py: what is asked for or under way
    start_at = Word(11)  # when a stopped world is to be started
    busy = Word(12)  # with the goroutine at `index`
    # Of the first worker's block, for all: gcController and work.
    markrootNext = Word(13)
    dedicatedMarkWorkersNeeded = Word(14)

    def __init__(self, memory: Memory, address: int) -> None:
        self.memory = memory
        self.address = address

    def begin(self) -> None:
        """Suspending another goroutine: nothing has been tried."""
        self.memory.write(self.address + 24, bytes(48))
