"""Why a register was lost: which instruction saved it where, and which one restored what.

The first boundary at which it was lost is preempted again, alone and slowly (provenance.py). What
is then said is what was seen to happen there; a loss that does not show again says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.fault import GuestStopped
from pushcall.check.provenance import PLACE, Follower, base_register
from pushcall.check.verdict import Explanation, Part
from pushcall.trampoline.symbols import WIDTHS, Byte, Sum, bytes_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from pushcall.check.provenance import Followed, Step, Store
    from pushcall.check.verdict import CheckResult, RegisterLoss
    from pushcall.trampoline.symbols import Bytes
    from runtime_model.boot import Config

MAX_EXPLAINED: Final = 64  # losses; more are of one cause
_RED_ZONE: Final = "a value kept below RSP"


def attach(config: Config, result: CheckResult) -> None:
    """Explains each loss of a check of this program, in `explanation`; none after a Ctrl-C."""
    if result.interrupted:
        return
    try:
        explained = explain(config, result.losses)
    except KeyboardInterrupt:
        result.interrupted = True
        return
    for loss, explanation in zip(result.losses, explained, strict=True):
        loss.explanation = explanation


def explain(config: Config, losses: Sequence[RegisterLoss]) -> list[Explanation]:
    """Explains each loss at its first boundary."""
    if not losses:
        return []
    chosen = sorted(losses, key=lambda loss: loss.first.index)[:MAX_EXPLAINED]
    followed: dict[int, Followed | str] = {}
    follower = Follower(config)
    for loss in chosen:
        index = loss.first.index
        if index not in followed:
            try:
                followed[index] = follower.follow(index)
            except GuestStopped as stopped:
                followed[index] = str(stopped)
    out = []
    for loss in losses:
        found = followed.get(loss.first.index, "too many losses to explain each")
        if isinstance(found, str):
            out.append(Explanation(f"not replayed: {found}"))
        else:
            out.append(_explain(found, loss))
    return out


def _named(step: Step) -> str:
    """An instruction as a sentence speaks of it."""
    at = step.at
    place = f" at {at.symbol}" if at.symbol else f" at {at.pc:#x}"
    source = at.source or step.disassembly
    return f"`{source}`{place}"


def _explain(seen: Followed, loss: RegisterLoss) -> Explanation:
    if loss.note == _RED_ZONE and loss.address is not None:
        return _red_zone(seen, loss)
    if not seen.steps:
        return Explanation("no preemption came to asyncPreempt there when it was tried alone")
    if seen.landed is None:
        return _never_landed(seen)
    if loss.register == "RIP":
        return _wrong_return(seen)
    if loss.register == "RSP":
        return _unbalanced(seen)
    if loss.register == "MEMORY" and loss.address is not None:
        return _memory(seen, loss.address)
    if seen.interrupted[loss.register] == seen.landed[loss.register] and not loss.note:
        return Explanation(
            f"{loss.register} was kept when this boundary was preempted alone: its loss depends on "
            "an earlier preemption, or on how often the trampoline ran"
        )
    if loss.register in WIDTHS and loss.register != "MXCSR":
        return _register(seen, loss.register)
    return _control(seen, loss.register)


# Control flow.


def _never_landed(seen: Followed) -> Explanation:
    last = seen.steps[-1]
    if last is seen.call:
        return Explanation(
            f"it never came back from asyncPreempt2, which {_named(last)} called: {seen.died}",
            (Part("called", last),),
        )
    where = _named(last)
    taken = _return_value(seen, last)
    if taken is not None:
        return Explanation(f"{taken}; then: {seen.died}", _return_parts(seen, last))
    pointer = _pointer(seen, last)
    by = f" through what {_named(pointer)} made" if pointer is not None else ""
    parts = (Part("changed", pointer),) if pointer is not None else ()
    return Explanation(
        f"{where} was the last of asyncPreempt{by}: {seen.died}", (*parts, Part("died", last))
    )


def _pointer(seen: Followed, last: Step) -> Step | None:
    """The instruction that made the pointer that another one went through."""
    base = base_register(last.insn)
    if base == "RSP":
        moved = [step for step, _ in _moves(seen) if step.number < last.number]
    else:
        moved = [s for name, s in seen.written if name == base and s.number < last.number]
    return moved[-1] if moved else None


def _wrong_return(seen: Followed) -> Explanation:
    last = seen.steps[-1]
    taken = _return_value(seen, last)
    if taken is not None:
        return Explanation(taken, _return_parts(seen, last))
    return Explanation(f"{_named(last)} led out of asyncPreempt", (Part("changed", last),))


def _return_value(seen: Followed, step: Step) -> str | None:
    """What a RET took for the PC, if it is a RET."""
    loaded = seen.loads.get(step.number)
    if not loaded or not str(step.disassembly).startswith("ret"):
        return None
    address = loaded[0][0]
    where = f"{_named(step)} took the PC from {address:#x}"
    if all(byte == Byte("interrupted PC", n) for n, (_, byte) in enumerate(loaded)):
        return f"{where}, where the interrupted PC was"
    pushed = f"; the interrupted PC was at {seen.pushed:#x}" if seen.pushed != address else ""
    store = seen.writer(address, step)
    if store is None:
        return f"{where}, where asyncPreempt had written nothing{pushed}"
    what = _content([byte for _, byte in loaded], seen)
    return f"{where}, where {_named(store.step)} had put {what}{pushed}"


def _return_parts(seen: Followed, step: Step) -> tuple[Part, ...]:
    loaded = seen.loads.get(step.number)
    store = seen.writer(loaded[0][0], step) if loaded else None
    parts = (Part("restored", step, loaded[0][0] if loaded else None),)
    if store is None:
        return (*parts, *_unmatched_parts(seen))
    return (Part("overwrote", store.step, loaded[0][0] if loaded else None), *parts)


def _moves(seen: Followed) -> list[tuple[Step, int]]:
    """The instructions that moved RSP, and how far."""
    return [
        (step, _signed(step.after["RSP"] - step.before["RSP"]))
        for step in seen.steps
        if step is not seen.call and step.after["RSP"] != step.before["RSP"]
    ]


def _unmatched(seen: Followed) -> list[tuple[Step, int]]:
    """Moves of RSP down that no move up takes back, and the reverse, innermost first."""
    open_: list[tuple[Step, int]] = []
    for step, distance in _moves(seen):
        if distance < 0:
            open_.append((step, distance))
        elif open_ and open_[-1][1] == -distance:
            open_.pop()
        elif not open_ and distance == 8:
            continue  # the RET, which takes back pushCall's own
        elif open_:
            return [open_[-1], (step, distance)]
        else:
            return [(step, distance)]
    return open_[-1:]


def _unmatched_parts(seen: Followed) -> tuple[Part, ...]:
    return tuple(Part("changed", step) for step, _ in _unmatched(seen))


def _unbalanced(seen: Followed) -> Explanation:
    assert seen.landed is not None
    off = _signed(seen.landed["RSP"] - seen.interrupted["RSP"])
    unmatched = _unmatched(seen)
    what = " and ".join(f"{_named(step)} moves it by {distance:+}" for step, distance in unmatched)
    said = f": {what}, which nothing matches" if len(unmatched) == 1 else f": {what}"
    side = "higher" if off > 0 else "lower"
    return Explanation(
        f"asyncPreempt leaves RSP {abs(off)} bytes {side} than it was{said if what else ''}",
        _unmatched_parts(seen),
    )


# Registers.


def _saves(seen: Followed, register: str) -> list[Store]:
    """Stores of the register's value at entry, whole or in part, in order."""
    first = set(_at_entry(register))
    return [store for store in seen.stores if first & set(store.data.values())]


def _at_entry(register: str) -> Bytes:
    if register == "RFLAGS" or WIDTHS[register] != 8:
        return tuple(Byte(register, n) for n in range(WIDTHS[register]))
    return bytes_of(Sum(register, 0))


def _place_of(store: Store, register: str) -> int:
    first = set(_at_entry(register))
    return min(at for at, byte in store.data.items() if byte in first)


def _register(seen: Followed, register: str) -> Explanation:
    saves, writer = _saves(seen, register), seen.writers.get(register)
    wanted = _at_entry(register)
    final = seen.state.registers[register]
    parts: list[Part] = []
    saved = f"nothing saved {register}"
    if saves:
        save = saves[0]
        at = _place_of(save, register)
        count = len(set(wanted) & set(save.data.values()))
        some = f"{count} of its {len(wanted)} bytes were" if count < len(wanted) else "it was"
        saved = f"{some} saved at {at:#x} by {_named(save.step)}"
        parts.append(Part("saved", save.step, at))
    else:
        early = next((step for name, step in seen.written if name == register), None)
        called = seen.call.number if seen.call is not None else len(seen.steps)
        if early is not None and early.number < called:
            saved = f"nothing had saved {register} when {_named(early)} overwrote it"
            parts.append(Part("overwrote", early))
    if writer is None:
        return Explanation(
            f"no instruction of asyncPreempt wrote {register}: it changed before or behind it",
            tuple(parts),
        )
    called = seen.call.number if seen.call is not None else len(seen.steps)
    if writer.number <= called:
        parts.append(Part("overwrote", writer))
        instead = _instead(seen, final, wanted)
        said, by = "", "asyncPreempt2" if writer is seen.call else _named(writer)
        if instead is not None:
            parts.append(instead)
            said = f"; {_named(instead.step)} {instead.role} it instead"
        return Explanation(
            f"nothing restores {register}, which {by} overwrote; {saved}{said}",
            tuple(parts),
        )
    loaded = seen.loads.get(writer.number, [])
    # What an instruction loads for its address or as its stack word is not all that it writes.
    source = [(at, byte) for at, byte in loaded if byte in final]
    if not source:
        parts.append(Part("changed", writer))
        return Explanation(
            f"{_named(writer)} changed {register} and nothing restored it behind that; {saved}",
            tuple(parts),
        )
    first = source[0][0]
    parts.append(Part("restored", writer, first))
    scratch, block, size = seen.moved
    where = f"{first:#x}"
    if block <= first < block + size:
        where += f" (asyncPreempt2 had moved there what was at {first - block + scratch:#x})"
    right = [byte for byte in final if byte in wanted]
    if 0 < len(right) < len(wanted) and all(byte in wanted for _, byte in source):
        return Explanation(
            f"{_named(writer)} restored only {len(source)} of the {len(wanted)} bytes of "
            f"{register}, from {where}; {saved}",
            tuple(parts),
        )
    wrong = next(((at, byte) for at, byte in source if byte not in wanted), source[0])
    store = seen.writer(wrong[0], writer)
    earlier = next((s for s in saves if wrong[0] in s.data), None)
    if store is None:
        if saves and base_register(saves[0].step.insn) not in ("RSP", ""):
            pointer = _pointer(seen, saves[0].step)
            if pointer is not None:
                parts.insert(0, Part("changed", pointer))
                saved += f" through what {_named(pointer)} made"
        return Explanation(
            f"{_named(writer)} restored {register} from {where}, where asyncPreempt had written "
            f"nothing{'' if wrong[0] == first else f' from {wrong[0]:#x} on'}; {saved}",
            tuple(parts),
        )
    what = _content([byte for _, byte in source], seen)
    role = "overwrote" if earlier is not None and earlier is not store else "stored"
    if all(part.step is not store.step for part in parts):
        parts.insert(-1, Part(role, store.step, wrong[0]))
    if role == "overwrote":
        return Explanation(
            f"{saved}, but {_named(store.step)} overwrote it before {_named(writer)} restored "
            f"{what}",
            tuple(parts),
        )
    maker = _maker(seen, wrong[1].value)
    if maker is not None:
        parts.insert(0, Part("changed", maker))
    return Explanation(
        f"{_named(writer)} restored {register} from {where}, where {_named(store.step)} had put "
        f"{what}; {saved}",
        tuple(parts),
    )


def _instead(seen: Followed, final: Bytes, wanted: Bytes) -> Part | None:
    """What was done behind the call with a register or its slot, where nothing restored it."""
    if seen.call is None:
        return None
    for store in seen.stores:
        if store.step.number > seen.call.number and set(final) & set(store.data.values()):
            return Part("stored", store.step, min(store.data))
    for step in seen.steps[seen.call.number + 1 :]:
        loaded = seen.loads.get(step.number, [])
        if any(byte in wanted for _, byte in loaded):
            return Part("loaded", step, loaded[0][0])
    return None


def _content(data: list[Byte], seen: Followed) -> str:
    """What some bytes are, in words."""
    names: list[str] = []
    for byte in data:
        value = byte.value
        if isinstance(value, Sum) and isinstance(value.origin, str) and value.origin != PLACE:
            name = value.origin
            name += f"{_signed(value.distance):+#x}" if value.distance else ""
        elif isinstance(value, Sum):
            name = "an address"
        elif isinstance(value, str):
            name = f"the {value}" if " " in value else value
        elif isinstance(value, tuple) and value and value[0] == "asyncPreempt2":
            name = f"what asyncPreempt2 left in {value[1]}"
        elif isinstance(value, tuple) and value and value[0] == "unwritten":
            name = "nothing"
        elif isinstance(value, tuple) and value and value[0] == "constant":
            name = "a constant"
        else:
            maker = _maker(seen, value)
            name = f"what {_named(maker)} computed" if maker is not None else "a computed value"
        if name not in names:
            names.append(name)
    return " and ".join(names)


def _maker(seen: Followed, value: Hashable) -> Step | None:
    """The instruction that computed a value, where none moved it there."""
    computed = isinstance(value, tuple) and not isinstance(value, Sum)
    return seen.computed.get(value) if computed else None


def _control(seen: Followed, register: str) -> Explanation:
    """MXCSR, x87 and what else is only seen as numbers: the last change that stayed."""
    before = seen.interrupted[register]
    right = [step for step in seen.steps if step.before[register] == before]
    last = right[-1] if right else seen.steps[0]
    if last.after[register] == before:
        return Explanation(
            f"{register} was as before when asyncPreempt ended: it changed behind it"
        )
    if last is seen.call:
        return Explanation(
            f"{register} changed while asyncPreempt2 ran, and nothing restored it",
            (Part("called", last),),
        )
    change = f"from {before:#x} to {last.after[register]:#x}"
    return Explanation(
        f"{_named(last)} changed {register} {change}, and nothing restored it",
        (Part("changed", last),),
    )


# Memory.


def _memory(seen: Followed, address: int) -> Explanation:
    writes = [s for s in seen.stores if any(address <= at < address + 8 for at in s.data)]
    if not writes:
        return Explanation(
            f"no instruction of asyncPreempt wrote to {address:#x}: what it calls did, or what "
            "runs with the registers that it lost"
        )
    where = "the goroutine's stack" if address >= seen.interrupted["RSP"] else "memory"
    last = writes[-1].step
    return Explanation(
        f"{_named(last)} wrote to {address:#x}, which is not asyncPreempt's: {where} of the "
        "interrupted function",
        (Part("overwrote", last, address),),
    )


def _red_zone(seen: Followed, loss: RegisterLoss) -> Explanation:
    address = loss.address
    assert address is not None
    below = seen.interrupted["RSP"] - address
    why = f"the word lies {below} bytes below RSP, where Go has no red zone"
    if seen.pushed == address:
        return Explanation(f"{why}: pushCall put the interrupted PC there")
    writes = [s for s in seen.stores if any(address <= at < address + 8 for at in s.data)]
    if writes:
        first = writes[0].step
        return Explanation(
            f"{why}: {_named(first)} overwrote it", (Part("overwrote", first, address),)
        )
    return Explanation(f"{why}: what runs during a preemption overwrites it")


def _signed(distance: int) -> int:
    distance %= 2**64
    return distance - 2**64 if distance >> 63 else distance
