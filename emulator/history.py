"""Memory at every step of a recording, and who wrote it.

What instructions and Python overwrote is kept in order; undone from the end backwards, it gives
memory as it was. So that any step is near, records are taken together in groups, and the lines of
memory that a group changes are kept as they were at its start: memory at a step is the line from
the start of the next group that changes it, with the rest of the step's own group undone.

Places in a recording are numbers of records that were before. A change that belongs to place n came
with record n - 1, or from Python behind it and before record n.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from emulator.memory import Memory, UnmappedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emulator.memory import Region
    from emulator.recording import Recording

GROUP: Final = 16  # stretches
LINE: Final = 512  # bytes
_SHIFT: Final = LINE.bit_length() - 1
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class Overwritten:
    """Python wrote at a place; `before` is what was there."""

    place: int
    address: int
    before: bytes


@dataclass(frozen=True, slots=True)
class Mapped:
    """At a place, `[start, end)` was mapped, or else unmapped."""

    place: int
    start: int
    end: int
    there: bool


@dataclass(frozen=True, slots=True)
class Change:
    """The last change of a word: its place, and whether an instruction made it."""

    place: int
    by_instruction: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """`lines` are as at its start; `last` has the mark of each word's last change."""

    lines: dict[int, bytes]
    last: dict[int, int]


# Changes in order have rising marks: twice the place, and 1 more where Python wrote.
# A change is its mark, its address, or offset in a line, and the bytes before.
_Change = tuple[int, int, bytes]


class History:
    """The past of a memory that does not change any more."""

    def __init__(
        self,
        memory: Memory,
        recording: Recording,
        writes: Sequence[Overwritten],
        maps: Sequence[Mapped],
    ) -> None:
        """`writes` and `maps` are Python's, in order.

        What was unmapped counts as overwritten there, what was mapped as zero before.
        """
        self.memory = memory
        self._recording = recording
        self._writes = writes
        self._maps = maps
        self._touched = [(r.start, r.end) for r in memory.regions]
        self._touched += [(m.start, m.end) for m in maps]
        stretches = recording.stretches() or [0]
        self._stretches = len(recording.stretches())
        self._starts = stretches[::GROUP]
        self._changes = lru_cache(maxsize=8)(self._read_lines)
        self._line = lru_cache(maxsize=256)(self._read_line)
        self._pieces = lru_cache(maxsize=16)(self._find_pieces)
        self._groups: list[_Group] = []
        self._dirty: dict[int, list[int]] = {}  # line -> groups that change it, rising
        self._build()

    def read(self, place: int, address: int, size: int) -> bytes:
        """Memory at a place. Raises UnmappedError for what was not mapped, or not in one region."""
        pieces = self.mapped(place)
        index = bisect.bisect_right(pieces, (address, 1 << 64)) - 1
        if index < 0 or address + size > pieces[index][1]:
            raise UnmappedError(address, size)
        first, last = address >> _SHIFT, address + size - 1 >> _SHIFT
        data = b"".join(self._line(line, place) for line in range(first, last + 1))
        start = address - (first << _SHIFT)
        return data[start : start + size]

    def at(self, place: int) -> PastMemory:
        """All memory at a place."""
        return PastMemory(self, place)

    def mapped(self, place: int) -> list[tuple[int, int]]:
        """What was mapped at a place, as rising [start, end)."""
        return self._pieces(bisect.bisect_right(self._maps, place, key=lambda each: each.place))

    def _find_pieces(self, count: int) -> list[tuple[int, int]]:
        """What is mapped after so many changes of the map."""
        found = [(region.start, region.end) for region in self.memory.regions]
        for change in reversed(self._maps[count:]):
            if change.there:
                found = [
                    piece
                    for start, end in found
                    for piece in ((start, min(end, change.start)), (max(start, change.end), end))
                    if piece[0] < piece[1]
                ]
            else:
                found = sorted([*found, (change.start, change.end)])
        return found

    def last_change(self, place: int, address: int) -> Change | None:
        """Who changed the aligned word that holds an address last, at `place` or before it."""
        word = address // _WORD
        line = address >> _SHIFT
        groups = self._dirty.get(line, [])
        now = self._group(place)
        for index in reversed(groups[: bisect.bisect_right(groups, now)]):
            found = self._groups[index].last.get(word)
            if found is not None and found >> 1 > place:
                found = self._last_until(place, index, line, word)
            if found is not None:
                return _changed(found)
        return None

    def values(self, addresses: Sequence[int]) -> list[list[tuple[int, int]]]:
        """For each aligned word: (place, value behind) of all its changes, in order."""
        near = {  # stores that may touch a word, and which
            word + shift: number
            for number, word in enumerate(addresses)
            for shift in range(1 - _WORD, _WORD)
        }
        found: list[list[tuple[int, bytes]]] = [[] for _ in addresses]  # with what was before
        for index, group in enumerate(self._groups):
            if not any(word // _WORD in group.last for word in addresses):
                continue
            changes = self._writes_of(index)
            for stretch in self._stretches_of(index):
                columns = zip(*self._recording.overwritten(stretch), strict=True)
                changes += [
                    (2 * n, a, b.to_bytes(8, "little")[:s]) for n, a, s, b in columns if a in near
                ]
            for mark, address, before in sorted(changes, key=itemgetter(0)):
                touched = [near[address]] if address in near else range(len(addresses))
                for number in touched:
                    word = addresses[number]
                    if address < word + _WORD and address + len(before) > word:
                        whole = address <= word and address + len(before) >= word + _WORD
                        old = before[word - address :][:_WORD] if whole else b""
                        found[number].append((mark >> 1, old))
        values = []
        for address, known in zip(addresses, found, strict=True):
            behind = [*(before for _, before in known[1:]), b""]
            values.append(
                [
                    (place, int.from_bytes(data or self.read(place, address, _WORD), "little"))
                    for (place, _), data in zip(known, behind, strict=False)
                ]
            )
        return values

    def _last_until(self, place: int, index: int, line: int, word: int) -> int | None:
        start = word * _WORD - (line << _SHIFT)
        changes = self._changes(index).get(line, [])
        for number in range(bisect.bisect_left(changes, (2 * place + 2,)) - 1, -1, -1):
            mark, offset, before = changes[number]
            if offset < start + _WORD and offset + len(before) > start:
                return mark
        return None

    def _group(self, place: int) -> int:
        # Place n came with record n - 1; what Python did before the first record is the first's.
        return max(0, bisect.bisect_left(self._starts, place) - 1)

    def _read_line(self, line: int, place: int) -> bytes:
        groups = self._dirty.get(line)
        if groups is None:
            return self._final(line)
        now = self._group(place)
        following = bisect.bisect_right(groups, now)
        if following < len(groups):
            data = self._groups[groups[following]].lines[line]
        else:
            data = self._final(line)
        if not following or groups[following - 1] != now:
            return data
        found = bytearray(data)
        for mark, offset, before in reversed(self._changes(now).get(line, [])):
            if mark >> 1 <= place:
                break
            found[offset : offset + len(before)] = before
        return bytes(found)

    def _final(self, line: int) -> bytes:
        address = line << _SHIFT
        return self.memory.read(address, LINE) if self.memory.find(address) else bytes(LINE)

    def _read_changes(self, index: int) -> list[_Change]:
        """What a group changes, in order."""
        found: list[_Change] = []
        for stretch in self._stretches_of(index):
            columns = zip(*self._recording.overwritten(stretch), strict=True)
            found += [(2 * n, a, b.to_bytes(8, "little")[:s]) for n, a, s, b in columns]
        writes = self._writes_of(index)
        if writes:
            found += writes
            found.sort(key=itemgetter(0))
        return found

    def _stretches_of(self, index: int) -> range:
        return range(index * GROUP, min(index * GROUP + GROUP, self._stretches))

    def _writes_of(self, index: int) -> list[_Change]:
        """Python's writes of a group, in order."""
        writes = self._writes
        first = self._starts[index] if index else -1
        last = self._starts[index + 1] if index + 1 < len(self._starts) else 2**62
        low = bisect.bisect_right(writes, first, key=lambda write: write.place)
        high = bisect.bisect_right(writes, last, key=lambda write: write.place)
        return [(2 * w.place + 1, w.address, w.before) for w in writes[low:high]]

    def _summary(self, index: int) -> tuple[list[_Change], dict[int, int]]:
        """What suffices to undo a group, in order; and the mark of each word's last change.

        Of stores to the same place the first tells what was there before all of them.
        """
        numbers: list[int] = []
        places: list[tuple[int, int]] = []
        before: list[int] = []
        for stretch in self._stretches_of(index):
            columns = self._recording.overwritten(stretch)
            numbers += columns[0]
            places += zip(columns[1], columns[2], strict=True)
            before += columns[3]
        backwards = zip(reversed(numbers), reversed(before), strict=True)
        first = dict(zip(reversed(places), backwards, strict=True))
        changes = [
            (2 * number, address, data.to_bytes(8, "little")[:size])
            for (address, size), (number, data) in first.items()
        ]
        latest = [(2 * n, a, s) for (a, s), n in dict(zip(places, numbers, strict=True)).items()]
        writes = self._writes_of(index)
        latest += [(mark, address, len(data)) for mark, address, data in writes]
        last: dict[int, int] = {}
        for mark, address, size in sorted(latest):
            end = -(-(address + size) // _WORD)
            last.update(dict.fromkeys(range(address // _WORD, end), mark))
        return sorted(changes + writes, key=itemgetter(0)), last

    def _read_lines(self, index: int) -> dict[int, list[_Change]]:
        return self._by_line(self._read_changes(index))

    def _by_line(self, changes: list[_Change]) -> dict[int, list[_Change]]:
        """The changes of each line in order, with offsets in the line."""
        lines: dict[int, list[_Change]] = {}
        ever = self._ever_mapped
        for mark, address, before in changes:
            line = address >> _SHIFT
            offset = address & LINE - 1
            if offset + len(before) <= LINE:
                found = lines.get(line)
                if found is not None:
                    found.append((mark, offset, before))
                elif ever(address):  # else the instruction has faulted
                    lines[line] = [(mark, offset, before)]
                continue
            if not ever(address) or not ever(address + len(before) - 1):
                continue
            done = 0
            while done < len(before):
                part = before[done : done + LINE - offset]
                lines.setdefault(line, []).append((mark, offset, part))
                done += len(part)
                line, offset = line + 1, 0
        return lines

    def _ever_mapped(self, address: int) -> bool:
        return any(start <= address < end for start, end in self._touched)

    def _build(self) -> None:
        images: dict[int, bytearray] = {}
        groups: list[_Group] = []
        for index in range(len(self._starts) - 1, -1, -1):
            changes, last = self._summary(index)
            lines = self._by_line(changes)
            for line, undo in lines.items():
                image = images.get(line)
                if image is None:
                    image = images[line] = bytearray(self._final(line))
                for _, offset, before in reversed(undo):
                    image[offset : offset + len(before)] = before
            groups.append(_Group({line: bytes(images[line]) for line in lines}, last))
        groups.reverse()
        self._groups = groups
        for index, group in enumerate(groups):
            for line in group.lines:
                self._dirty.setdefault(line, []).append(index)


def _changed(mark: int) -> Change:
    return Change(mark >> 1, by_instruction=not mark & 1)


class PastMemory(Memory):
    """Memory as it was at one place; it can be read only."""

    def __init__(self, history: History, place: int) -> None:
        super().__init__()
        self._history = history
        self.place = place

    def find(self, address: int) -> Region | None:
        """Not to be had: what is past has no backing memory."""
        raise TypeError(f"memory of the past has no regions: read it at {address:#x}")

    def locate(self, address: int, size: int) -> tuple[memoryview, int]:
        """A copy of the bytes."""
        return memoryview(self._history.read(self.place, address, size)), 0
