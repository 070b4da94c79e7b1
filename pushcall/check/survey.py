"""Looks at every boundary of a stretch of a program, at recording speed, and tries them in batches.

Only the undisturbed twin runs. Boundaries become frames (emulator.frame_recorder), which a batch
tries (batch.py). What a batch cannot try or judge, and what is tried directly in any case, is told
by its number; `judged` says what the survey itself makes of such a boundary, where it can.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from emulator.engines import NATIVE, UNICORN
from emulator.frame_recorder import FrameRecorder
from emulator.frames import Frames
from pushcall.check.batch import Batch
from pushcall.check.verdict import Boundary, CheckResult
from pushcall.snippet.crash import place
from runtime_model.preempt import Reason, Verdict, static_verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.frames import FrameList
    from emulator.native.recorder import NativeRecorder
    from pushcall.snippet.crash import Place
    from pushcall.snippet.side import Side
    from runtime_model.boot import Config
    from runtime_model.events import Loss

DIRECT_PER_PC: Final = 2  # first visits of each PC,
DIRECT_EVERY: Final = 10_007  # and one boundary in so many, are tried through the whole runtime
NATIVE_EVERY: Final = 100_003  # where that single-steps the real processor
STRETCH: Final = 8192  # boundaries that are recorded before a batch tries them
SLACK: Final = 64
WORTH: Final = 1 << 15  # boundaries from which on the real processor records
PATIENCE: Final = 16  # boundaries that Unicorn records where it cannot, and more if that is often
SPARSE: Final = 1 << 20  # boundaries in one go where few of them are taken

Outcome = str | list[tuple[Boundary, "Loss"]]  # the reason of a refusal, or what was lost


@dataclass
class Surveyed:
    """What a survey of the boundaries [start, stop) found.

    `result` has the boundaries that are settled. Of the others, `first` are the first visits by PC,
    `direct` samples and those that were wanted; `unjudged` must be tried directly, and `judged` has
    what the survey made of all the others.
    """

    start: int
    stop: int
    result: CheckResult
    taken: int = 0
    first: dict[int, list[int]] = field(default_factory=dict)
    direct: set[int] = field(default_factory=set)
    unjudged: set[int] = field(default_factory=set)
    judged: dict[int, Outcome] = field(default_factory=dict)


class Survey:
    """The twin, and the batch that tries what it comes by."""

    def __init__(self, twin: Side, config: Config, share: tuple[int, int]) -> None:
        self.twin = twin
        self.share = share
        room = STRETCH + SLACK
        if config.engine == NATIVE:
            from emulator.extended_images import Images
            from pushcall.check.native_batch import NativeBatch

            self.frames = Frames(room, Images(room))
            self.batch: Batch = NativeBatch(twin.rt, config.trampoline, self.frames)
        else:
            self.frames = Frames(room)
            self.batch = Batch(twin.rt, config.trampoline, self.frames)
        self.recorder = FrameRecorder(
            twin.machine.cpu,  # type: ignore[arg-type]
            self.frames,
            twin.code(),
            (twin.stack_lo, twin.stack_hi),
            max(self.batch.dead, twin.rt.asyncPreemptStack),
            share,
        )
        self._native = config.engine == NATIVE
        self._may_record = self._native and share == (1, 1)
        self._fast: NativeRecorder | None = None
        self._is_fast = False  # in this part
        self._patience = PATIENCE
        self._by_itself = 0  # boundaries that the real processor recorded in this part
        self._verdicts: dict[int, Verdict] = {}
        self._places: dict[int, Place] = {}

    def run(
        self,
        start: int,
        stop: int,
        wanted: frozenset[int],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Surveyed:
        """Surveys [start, stop). `wanted` will be tried directly, whatever comes of it here."""
        twin = self.twin
        result = CheckResult(str(twin.rt.version), twin.machine.cpu.name)
        found = Surveyed(start, stop, result)
        twin.seek(start)
        self.batch.renew()
        points, of = self.share
        before = start * points // of
        recorder = self.recorder
        recorder.take()
        recorder.begin(start, before)
        self._prepare(stop - start)
        piece = min(STRETCH * of // points, SPARSE)
        at = start
        with recorder:
            while at < stop:
                count = min(piece, stop - at)
                self._advance(count)
                at += count
                if recorder.index != at:
                    raise RuntimeError(f"boundary {recorder.index} where {at} was before")
                self._stretch(found, recorder, wanted)
                progress(at * points // of - before - found.taken)
                found.taken = at * points // of - before
        result.losses.sort(key=lambda each: each.first.index)
        if self._native:
            unicorn = stop - start - self._by_itself
            result.recorded = {NATIVE: self._by_itself, UNICORN: unicorn}
        return found

    def _prepare(self, count: int) -> None:
        """Has the real processor record, if that is asked for and worth its start."""
        self._patience, self._by_itself = PATIENCE, 0
        self._is_fast = self._may_record and count >= WORTH  # by the part alone, whoever does it
        if self._is_fast and self._fast is None:
            from asm.image import Image
            from emulator.native.recorder import NativeRecorder

            rt = self.twin.rt
            if isinstance(rt.user, Image):
                code = [(i.address, i.data) for f in rt.user.functions for i in f.instructions]
                self._fast = NativeRecorder(rt.memory, self.recorder, code)

    def _advance(self, count: int) -> None:
        """Records so many boundaries; what the real processor leaves to Unicorn, Unicorn does."""
        twin, done = self.twin, 0
        while self._is_fast and self._fast is not None and done < count:
            recorded = self._fast.run(twin.registers, count - done)
            twin.skip(recorded)
            done += recorded
            self._by_itself += recorded
            self._patience = PATIENCE if recorded > PATIENCE else 4 * self._patience
            few = min(self._patience, count - done)
            if few:
                twin.advance(few)
            done += few
        if done < count:
            twin.advance(count - done)

    def _stretch(self, found: Surveyed, recorder: FrameRecorder, wanted: frozenset[int]) -> None:
        """Settles what was recorded."""
        frames, result = self.frames, found.result
        lists, odd = recorder.take()
        count = sum(each.count for each in lists) + len(odd)
        unlinked = set(odd)
        special: dict[int, Boundary] = {}  # of the boundaries whose outcome is told apart
        tried: list[FrameList] = []
        for each in lists:
            self._note_first(found, each, special)
        found.direct |= self._samples(count, wanted)
        low, high = self._reach(count)
        for index in [each for each in found.direct if low <= each < high]:
            address = frames.find(index, count)
            if address is not None and address not in unlinked:
                special[index] = self._boundary(index, frames.pc(address))
        by_pc: dict[int, list[int]] = {}
        for index, boundary in special.items():
            by_pc.setdefault(boundary.place.pc, []).append(index)
        for each in lists:
            verdict = self._verdict(each.pc)
            if verdict.safe and verdict.resume == each.pc:
                tried.append(each)
            elif verdict.safe:
                found.unjudged.update(map(frames.index, frames.walk(each)))
            else:
                mine = by_pc.get(each.pc, [])
                for index in mine:
                    found.judged[index] = verdict.reason.value
                result.refuse(verdict.reason.value, each.count - len(mine))
        for address in odd:
            self._judge_odd(found, address)
        attempt = self.batch.attempt(tried)
        recorder.release()
        found.unjudged |= attempt.unjudged
        safe = {each.pc for each in tried}
        mine = [i for i, b in special.items() if b.place.pc in safe and i not in attempt.unjudged]
        result.points += sum(each.count for each in tried) - len(attempt.unjudged) - len(mine)
        for index in mine:
            found.judged[index] = []
        for index, losses in sorted(attempt.lost.items()):
            address = frames.find(index, count)
            assert address is not None
            boundary = self._boundary(index, frames.pc(address))
            for loss in losses:
                outcome = found.judged.get(index)
                if outcome is None:
                    result.lose(boundary, loss)
                elif isinstance(outcome, list):
                    outcome.append((boundary, loss))

    def _note_first(self, found: Surveyed, each: FrameList, special: dict[int, Boundary]) -> None:
        """The first visits of a PC in this survey."""
        first = found.first.setdefault(each.pc, [])
        missing = DIRECT_PER_PC - len(first)
        if missing > 0:
            addresses = list(self.frames.walk(each))[: -missing - 1 : -1]
            indexes = [self.frames.index(address) for address in addresses]
            first += indexes
            special.update({index: self._boundary(index, each.pc) for index in indexes})

    def _reach(self, count: int) -> tuple[int, int]:
        """The numbers between which so many recorded boundaries lie."""
        if not count:
            return 0, 0
        frames = self.frames
        return frames.index(frames.address(0)), frames.index(frames.address(count - 1)) + 1

    def _samples(self, count: int, wanted: frozenset[int]) -> set[int]:
        """Recorded boundaries that are tried directly whatever the batch says."""
        low, high = self._reach(count)
        every = NATIVE_EVERY if self._is_fast else DIRECT_EVERY
        samples = range(-(-low // every) * every, high, every)
        chosen = {*samples, *(index for index in wanted if low <= index < high)}
        return {index for index in chosen if self.frames.find(index, count) is not None}

    def _judge_odd(self, found: Surveyed, address: int) -> None:
        """Boundaries on another stack, or near the end of this one, or with AVX in use."""
        twin, frames = self.twin, self.frames
        registers = frames.registers(address)
        index, rsp = frames.index(address), registers["RSP"]
        if not twin.stack_lo <= rsp < twin.stack_hi:
            found.judged[index] = Reason.NOT_WANTED.value
        elif rsp - twin.stack_lo < twin.rt.asyncPreemptStack:
            found.judged[index] = Reason.NO_STACK.value
        else:
            found.unjudged.add(index)
        first = found.first.setdefault(-registers["RIP"], [])  # apart from those on its own stack
        if len(first) < DIRECT_PER_PC:
            first.append(index)

    def _boundary(self, index: int, pc: int) -> Boundary:
        known = self._places.get(pc)
        if known is None:
            known = self._places[pc] = place(self.twin.rt, pc)
        return Boundary(index, known)

    def _verdict(self, pc: int) -> Verdict:
        """The static part of isAsyncSafePoint: the rest is the same at each boundary of a check."""
        verdict = self._verdicts.get(pc)
        if verdict is None:
            rt = self.twin.rt
            verdict = self._verdicts[pc] = static_verdict(rt.functions, pc, rt.version)
        return verdict
