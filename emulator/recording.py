"""All registers before each instruction, and the bytes that stores overwrote.

A recording holds what changed from one instruction to the next (emulator.record_hooks), in
stretches that begin with all registers, so that any step is found by decoding one stretch.
Instructions that did not come to their end, because they faulted, are in it but not counted as
steps.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import struct
from ctypes import c_uint64
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self

from emulator import extended
from emulator.counting_cpu import CountingCpu
from emulator.extended_history import ExtendedHistory
from emulator.hooks import CODE_HOOK, Field, host_address, machine_code_hooks
from emulator.record_hooks import (
    BITMAP,
    LONGEST,
    RECORD,
    STORE,
    STORE_CODE,
    WORDS,
    Word,
)
from emulator.register_batch import RegisterBatch
from emulator.registers import LAYOUT, SIZE, Registers
from emulator.unicorn_raw import CTL_TB_FLUSH, HOOK_MEM_WRITE, function_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emulator.native.cpu import NativeCpu

STRETCH: Final = 1024  # records between two that are whole
STORES_ROOM: Final = 128 * STRETCH  # FXSAVE makes 64 stores,
LARGEST: Final = 512  # XSAVE less than so many
_RIP: Final = LAYOUT["RIP"][0]
_STORE: Final = struct.Struct("<QQQ8s")


@dataclass(frozen=True, slots=True)
class Store:
    """A store of up to 8 bytes: where, and which bytes were there before."""

    address: int
    before: bytes


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Records one after another, all registers before the first, and their stores."""

    first: int
    count: int
    whole: bytes
    records: bytes
    stores: bytes


class Recording:
    """What was recorded. Steps are numbered from 0 in the order in which they were executed."""

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []
        self._starts: list[int] = []
        self._records = 0
        self._dropped: list[int] = []  # numbers of records that are no steps
        self._extended = ExtendedHistory()  # by number of the record
        self._decoded = lru_cache(maxsize=4)(self._decode)
        self.end = Registers()  # behind the last step

    def __len__(self) -> int:
        return self._records - len(self._dropped)

    def steps(self, records: int) -> int:
        """How many of the first so many records are steps."""
        return records - bisect.bisect_left(self._dropped, records)

    def records(self, step: int) -> int:
        """How many records there are before a step."""
        return self._records if step == len(self) else self._record(step)

    def stretches(self) -> list[int]:
        """The numbers of the records that stretches begin with, rising."""
        return list(self._starts)

    def overwritten(self, stretch: int) -> tuple[list[int], list[int], list[int], list[int]]:
        """All stores of a stretch in order, dropped ones too, as columns.

        They are: record number + 1; address; size; the bytes that were there, little-endian, of
        which only `size` count.
        """
        view = memoryview(self._stretches[stretch].stores).cast("Q")
        numbers, addresses, sizes, before = (view[column::4].tolist() for column in range(4))
        return numbers, addresses, sizes, before

    def find(self, pc: int, step: int, *, back: bool = False) -> int | None:
        """The next step from `step` on that executes the instruction at pc, or the last before."""
        wanted = pc.to_bytes(8, "little")
        place = slice(_RIP, _RIP + 8)
        bound = self.records(step)
        start = max(0, bisect.bisect_right(self._starts, bound) - 1)
        order = range(start, -1, -1) if back else range(start, len(self._stretches))
        for index in order:
            stretch = self._stretches[index]
            if wanted not in stretch.records and stretch.whole[place] != wanted:
                continue
            numbers = range(stretch.first, stretch.first + stretch.count)
            pairs = zip(numbers, self._decoded(index), strict=True)
            for number, block in reversed(list(pairs)) if back else pairs:
                if block[place] == wanted and (number < bound if back else number >= bound):
                    found = self.steps(number)
                    if self._record(found) == number:  # else it is no step
                        return found
        return None

    def changes(self, name: str, step: int) -> Iterator[int]:
        """The steps before which a register is not as before the step before them; falling.

        They begin with `step`, if it is one.
        """
        words, beyond = _words(name)
        mask = sum(1 << word for word in words)
        bound = self.records(step)
        further = self._extended.changes(bound) if beyond else []
        for index in range(bisect.bisect_right(self._starts, bound) - 1, -1, -1):
            first = self._stretches[index].first
            bitmaps = enumerate(self._bitmaps(index), first)
            numbers = {number for number, bitmap in bitmaps if bitmap & mask and number <= bound}
            while further and further[-1] >= first:
                numbers.add(further.pop())
            for number in sorted(numbers, reverse=True):
                yield self.steps(number)

    def _bitmaps(self, index: int) -> Iterator[int]:
        """Which words each record of a stretch has."""
        stretch = self._stretches[index]
        records, place = stretch.records, 0
        for _ in range(stretch.count):
            bitmap = int.from_bytes(records[place : place + BITMAP], "little")
            place += BITMAP + 8 * bitmap.bit_count()
            yield bitmap

    def registers(self, step: int) -> Registers:
        """The registers before a step; behind the last one for `len(recording)`."""
        if step == len(self):
            return self.end.copy()
        record = self._record(step)
        return Registers(self._block(record), self._extended.at(record))

    def pc(self, step: int) -> int:
        """The address of the instruction that a step executed."""
        block = self._block(self._record(step))
        return int.from_bytes(block[_RIP : _RIP + 8], "little")

    def stores(self, step: int) -> list[Store]:
        """The stores of a step, in order. Undone in reverse order, they give memory before it."""
        record = self._record(step)
        # A store knows how many records there were.
        data = self._stretches[bisect.bisect_right(self._starts, record) - 1].stores
        return [
            Store(address, before[:size])
            for number, address, size, before in _STORE.iter_unpack(data)
            if number == record + 1
        ]

    def __iter__(self) -> Iterator[Registers]:
        for step in range(len(self)):
            yield self.registers(step)

    def size(self) -> int:
        """Bytes that the records and stores take."""
        return self._extended.size() + sum(
            len(part)
            for stretch in self._stretches
            for part in (stretch.whole, stretch.records, stretch.stores)
        )

    def _record(self, step: int) -> int:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        record = step
        while (shift := bisect.bisect_right(self._dropped, record)) != record - step:
            record = step + shift
        return record

    def _block(self, record: int) -> bytes:
        index = bisect.bisect_right(self._starts, record) - 1
        return self._decoded(index)[record - self._starts[index]]

    def _decode(self, index: int) -> list[bytes]:
        """The registers of all records of a stretch."""
        stretch = self._stretches[index]
        block, blocks, place = bytearray(stretch.whole), [], 0
        records = stretch.records
        for _ in range(stretch.count):
            bitmap = int.from_bytes(records[place : place + BITMAP], "little")
            place += BITMAP
            while bitmap:
                low = bitmap & -bitmap
                at = 8 * (low.bit_length() - 1)
                block[at : at + 8] = records[place : place + 8]
                place += 8
                bitmap ^= low
            blocks.append(bytes(block))
        return blocks

    def add(self, whole: bytes, records: bytes, stores: bytes, count: int) -> None:
        """Appends a stretch."""
        self._starts.append(self._records)
        self._stretches.append(_Stretch(self._records, count, whole, records, stores))
        self._records += count

    def extend(self, record: int, state: bytes) -> None:
        """Says what AVX adds from a record on (emulator.extended)."""
        self._extended.add(record, state)

    def drop(self, record: int) -> None:
        """Says that a record, the last so far, is no step."""
        self._dropped.append(record)


class Recorder:
    """Records everything that a processor executes, from `start` to `stop` or as a context.

    `stores` asks for what stores overwrite, too; `progress` is told now and then how many records
    there are. The program runs as before, by single instructions.
    """

    def __init__(
        self,
        cpu: CountingCpu | NativeCpu,
        *,
        stores: bool = True,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.recording = Recording()
        self.noted = (0, 0)  # position and address of the last store of Python's
        self._cpu = cpu
        self._stores = stores
        self._progress = progress
        self._frames = memoryview(bytearray(2 * SIZE))
        self._batch = RegisterBatch(self._frames[:SIZE])
        self._records = memoryview(mmap.mmap(-1, STRETCH * LONGEST))
        self._overwritten = memoryview(mmap.mmap(-1, STORES_ROOM * STORE))
        self._block = memoryview(bytearray(8 * len(Word))).cast("Q")
        self._whole = bytes(SIZE)
        self._collected = 0  # records that the recording has
        self._hook: int | None = None
        codes = {"RECORD": RECORD, "STORE": STORE_CODE}
        counted = isinstance(cpu, CountingCpu) and cpu.counting != "python"
        machine = machine_code_hooks(codes) if counted else None
        if machine is not None:
            self._kept: object = machine[0]
            self._addresses = machine[1]
        else:
            callbacks = CODE_HOOK(self._on_instruction), STORE_HOOK(self._on_store)
            self._kept = callbacks
            self._addresses = {
                name: ctypes.cast(callback, ctypes.c_void_p).value or 0
                for name, callback in zip(codes, callbacks, strict=True)
            }
        self._prepare()

    def _prepare(self) -> None:
        block = self._block
        block[Word.FRAME] = host_address(self._frames)
        block[Word.NUMBERS], block[Word.PLACES], block[Word.COUNT] = self._batch.arguments
        block[Word.READ_BATCH] = function_address("uc_reg_read_batch")
        block[Word.MEM_READ] = function_address("uc_mem_read")
        first = host_address(self._overwritten)
        block[Word.LAST_STORE] = first + len(self._overwritten)
        block[Word.NEXT_STORE] = first
        block[Word.NEXT] = host_address(self._records)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begins to record, or goes on."""
        self._cpu.record(self)
        if isinstance(self._cpu, CountingCpu):
            self._hook_into(self._cpu)

    def _hook_into(self, cpu: CountingCpu) -> None:
        words, engine = cpu.control.words, cpu.engine
        words[Field.RECORD_BLOCK] = host_address(self._block.cast("B"))
        words[Field.RECORD] = self._addresses["RECORD"]
        if self._stores:
            block = words[Field.RECORD_BLOCK]
            self._hook = engine.hook(HOOK_MEM_WRITE, self._addresses["STORE"], block)
            engine.control(CTL_TB_FLUSH)

    def stop(self) -> None:
        """Ends the recording."""
        self.collect()
        self._cpu.save(self.recording.end)
        self._cpu.record(None)
        if isinstance(self._cpu, CountingCpu):
            self._cpu.control.words[Field.RECORD] = 0
            if self._hook is not None:
                self._cpu.engine.unhook(self._hook)
                self._hook = None

    @property
    def position(self) -> int:
        """How many records there are so far."""
        return self._block[Word.RECORDS]

    @property
    def room(self) -> int:
        """How many instructions may be executed before `collect` must be called."""
        block = self._block
        if block[Word.LAST_STORE] - block[Word.NEXT_STORE] < LARGEST * STORE:
            return 0
        return self._collected + STRETCH - block[Word.RECORDS]

    def collect(self) -> None:
        """Takes the records out of the machine code's buffer."""
        block = self._block
        count = block[Word.RECORDS] - self._collected
        if not count:
            return
        if block[Word.LOST]:
            raise RuntimeError(f"{block[Word.LOST]} stores had no room in the recording")
        first, stores = host_address(self._records), host_address(self._overwritten)
        self.recording.add(
            self._whole,
            bytes(self._records[: block[Word.NEXT] - first]),
            bytes(self._overwritten[: block[Word.NEXT_STORE] - stores]),
            count,
        )
        self._whole = bytes(self._frames[SIZE:])
        self._collected += count
        block[Word.NEXT], block[Word.NEXT_STORE] = first, stores
        self._progress(self._collected)

    def drop(self) -> None:
        """The last record was no step: its instruction did not come to its end."""
        self.recording.drop(self._block[Word.RECORDS] - 1)

    def _on_instruction(self, engine: int, address: int, _size: int, _data: int) -> None:
        """What RECORD_TEXT does."""
        self._batch.read(engine)
        self._add(address)

    def _add(self, address: int) -> None:
        """Adds a record of the registers in the frame, with this RIP."""
        frame = self._frames
        struct.pack_into("<Q", frame, _RIP, address)
        place = self._block[Word.NEXT] - host_address(self._records)
        bitmap, at = 0, place + BITMAP
        for word in range(WORDS):
            part = slice(8 * word, 8 * word + 8)
            if frame[part] != frame[SIZE:][part]:
                bitmap |= 1 << word
                self._records[at : at + 8] = frame[part]
                at += 8
        self._records[place : place + BITMAP] = bitmap.to_bytes(BITMAP, "little")
        frame[SIZE:] = frame[:SIZE]
        self._block[Word.NEXT] += at - place
        self._block[Word.RECORDS] += 1

    def note(self, engine: int, address: int) -> None:
        """Records an instruction that Python is about to execute."""
        self._on_instruction(engine, address, 0, 0)

    def note_registers(self, registers: Registers) -> None:
        """Records an instruction that a processor is about to execute, which tells all itself."""
        self.note_extended(registers.extended)
        self._frames[:SIZE] = registers.block
        self._add(registers["RIP"])

    def note_extended(self, state: bytes) -> None:
        """The state of AVX before the next instruction."""
        self.recording.extend(self._block[Word.RECORDS], state)

    def note_store(self, address: int, size: int) -> None:
        """Records what a store of Python's, in the guest's name, is about to overwrite."""
        self.noted = (self.position, address)
        for at in range(address, address + size, 8) if self._stores else ():
            self._on_store(0, 0, at, min(8, address + size - at), 0, 0)

    def _on_store(
        self, _engine: int, _kind: int, address: int, size: int, _value: int, _data: int
    ) -> None:
        """What STORE_TEXT does."""
        block = self._block
        if block[Word.NEXT_STORE] >= block[Word.LAST_STORE]:
            block[Word.LOST] += 1
            return
        at = block[Word.NEXT_STORE] - host_address(self._overwritten)
        region = self._cpu.memory.find(address)
        before = bytes(8)
        if region is not None:
            start = address - region.start
            before = bytes(region.view[start : start + size])
        _STORE.pack_into(self._overwritten, at, block[Word.RECORDS], address, size, before)
        block[Word.NEXT_STORE] += STORE


def _words(name: str) -> tuple[set[int], bool]:
    """The 64-bit words of Registers.block that a register lies in, and whether it goes beyond."""
    place = LAYOUT.get(name)
    pieces = extended.pieces(name) if place is None else ((False, *place),)
    words = {
        word
        for beyond, offset, size in pieces
        if not beyond
        for word in range(offset // 8, (offset + size - 1) // 8 + 1)
    }
    return words, any(beyond for beyond, _, _ in pieces)


STORE_HOOK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)
