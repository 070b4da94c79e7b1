"""A batch on the real processor: the same passes (batch.py), in a child under ptrace.

The trampoline and the code around it (asm/go/batch_native_amd64.s) run freely in the child, the
trampoline at the address that it has on Unicorn. The frames, and the images of what AVX adds, are
shared with the child at this process's own addresses. A pass makes no system call and stops only
at a gate, so a point costs nothing but its instructions; PCs may lie close together, since the code
moves its one CALL by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.memory import PAGE, Prot
from emulator.native.free_run import INT3, FreeCpu
from pushcall.check.batch import DONE, LOST, Batch
from pushcall.check.batch_hooks import Word
from runtime_model.assembly import assemble_batch

if TYPE_CHECKING:
    from asm.image import Image
    from asm.source import Source
    from emulator.registers import Registers
    from runtime_model.trampoline import Trampoline

WORDS: Final = 0x3B_0000


class NativeBatch(Batch):
    """A Batch whose processor is this host's. Raises NativeUnavailableError."""

    code_writable = Prot.WRITE
    cpu: FreeCpu

    def _assembled(self, trampoline: Trampoline | Source | None) -> Image:
        known = {"batch.done": DONE, "batch.lost": LOST, "batch.words": WORDS}
        return assemble_batch(self.rt.version, self.rt.layout, known, trampoline, native=True)

    def _block(self) -> memoryview[int]:
        return self._map("words", WORDS, bytes(PAGE), Prot.RW).cast("Q")

    def _prepare_words(self, image: Image) -> None:  # noqa: ARG002  # it knows its own places
        words = self._words
        words[Word.DEAD] = self.dead // 8
        words[Word.BASE] = self.base_word

    def _place(self, address: int) -> int:
        return address

    def _processor(self, image: Image) -> FreeCpu:  # noqa: ARG002  # nothing is to be hooked
        gates = DONE & -PAGE
        self._map("gates", gates, INT3 * PAGE, Prot.READ, executable=True)
        frames, images = self.frames, self.frames.images
        assert images is not None
        self.memory.adopt("frames", frames.base, frames.host, Prot.READ)
        self.memory.adopt("images", images.initial, images.host, Prot.RW)
        cpu = FreeCpu(self.memory, frozenset((DONE, LOST)), WORDS + PAGE // 2)
        images.features &= cpu.features
        words = self._words
        words[Word.FEATURES] = images.features
        words[Word.INITIAL], words[Word.LANDED] = images.initial, images.landed
        return cpu

    def close(self) -> None:
        """Ends the child."""
        self.cpu.child.close()

    def _apart(self, one: int, other: int) -> bool:  # noqa: ARG002  # one CALL at a time
        return True

    def _catch(self, pcs: tuple[int, ...]) -> None:  # noqa: ARG002  # the code does it
        """Has the code begin without a CALL, and without AVX in use."""
        self._words[Word.CAUGHT] = self._words[Word.LAST_EXTENDED] = 0

    def _extended(self, frame: Registers) -> bytes:
        images = self.frames.images
        assert images is not None
        return images.state(images.landed) if frame.extended else b""
