"""The floating-point state in a frame, and user memory, by the SDM and the kernel's rules."""

from __future__ import annotations

import random

import pytest

from emulator.linux import fpstate, signal_frame
from emulator.linux.signal_abi import SaFlags, SigAction, SigInfo
from emulator.linux.uaccess import AccessFault, copy_from_user, copy_to_user
from emulator.memory import Memory, Prot
from emulator.registers import LAYOUT, XMM, Flags, Registers

AREA = 0x1_0000
PAGE = 0x1000

# SDM volume 2, FXRSTOR: exponent, mantissa and the tag that they mean.
TAGS = [
    (0x3FFF, 1 << 63, 0),  # valid: 1.0
    (0, 0, 1),  # zero
    (0x7FFF, 1 << 63, 2),  # special: infinity
    (0x7FFF, 3 << 62, 2),  # not a number
    (0, 1, 2),  # denormal
    (0x3FFF, 1, 2),  # not normalised
]


def memory() -> Memory:
    result = Memory()
    result.map("low", AREA, PAGE, Prot.RW)
    result.map("high", AREA + PAGE, PAGE, Prot.RW)
    result.map("read-only", AREA + 2 * PAGE, PAGE, Prot.READ)
    result.map("guard", AREA + 3 * PAGE, PAGE, Prot.NONE)
    return result


@pytest.mark.parametrize("seed", range(20))
def test_what_a_frame_saves_comes_back_whole(seed: int) -> None:
    rng = random.Random(seed)
    registers = Registers()
    for name, (_, size) in LAYOUT.items():
        if name not in ("RFLAGS", "MXCSR", "FCW", "FSW", "FTW", "RSP", "FS_BASE", "GS_BASE"):
            registers[name] = rng.getrandbits(8 * size)
    full = 0
    for i in range(8):
        exponent, mantissa, tag = rng.choice(TAGS)
        registers[f"ST{i}"] = exponent << 64 | mantissa
        full |= (3 if rng.random() < 0.3 else tag) << 2 * i
    registers["FTW"] = full
    registers["FSW"] = rng.randrange(8) << 11
    registers["FCW"], registers["MXCSR"] = 0x27F, 0x9FC0
    registers["RFLAGS"] = int(Flags.IF | Flags.RESERVED | Flags.CF | Flags.OF | Flags.DF)
    registers["RSP"] = AREA + 2 * PAGE
    before = registers.copy()
    space = memory()
    action = SigAction(0x4000, SaFlags.RESTORER, 0x5000)
    frame = signal_frame.build(space, registers, SigInfo(10), action)
    assert registers["XMM7"] == 0
    signal_frame.restore_sigcontext(space, frame.address, registers)
    assert registers.diff(before) == []


def saved() -> tuple[Memory, Registers]:
    registers = Registers()
    for i, name in enumerate(XMM):
        registers[name] = i + 1
    registers["MXCSR"] = 0x9FC0
    space = memory()
    space.write(AREA, fpstate.pack(registers))
    return space, registers


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (24, 0x1_0000),  # a reserved bit of MXCSR
        (512, 4),  # a component that XCR0 does not have
        (520, 1 << 63),  # the compacted form
        (528, 1),  # a header byte that must be zero
    ],
)
def test_what_makes_xrstor_fault_makes_the_frame_bad(offset: int, value: int) -> None:
    space, registers = saved()
    space.put_u32(AREA + offset, value & 0xFFFF_FFFF)
    space.put_u32(AREA + offset + 4, value >> 32 if offset != 24 else 0xFFFF)
    with pytest.raises(AccessFault):
        fpstate.restore(space, AREA, registers)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(464, 0), (480, 512), (480, 832), (468, 575), (576, 0)],  # magic1, sizes, magic2
)
def test_bad_magics_and_sizes_leave_the_fxsave_image_to_count(offset: int, value: int) -> None:
    space, registers = saved()
    space.put_u32(AREA + offset, value)
    space.put_u64(AREA + 512, 4)  # the header would be bad, but it is not looked at
    other = Registers()
    fpstate.restore(space, AREA, other)
    assert other.diff(registers) == []


def test_alignment_that_xrstor_and_fxrstor_ask_for() -> None:
    space, registers = saved()
    image = fpstate.pack(registers)
    space.write(AREA + 1040, image)
    with pytest.raises(AccessFault):
        fpstate.restore(space, AREA + 1040, registers)
    space.put_u32(AREA + 1040 + 464, 0)
    fpstate.restore(space, AREA + 1040, registers)
    space.write(AREA + 2056, image[:464] + bytes(116))
    with pytest.raises(AccessFault):
        fpstate.restore(space, AREA + 2056, registers)


def test_the_kernel_obeys_page_protection() -> None:
    space = memory()
    data = bytes(range(256))
    copy_to_user(space, AREA + PAGE - 100, data)  # across two regions
    assert copy_from_user(space, AREA + PAGE - 100, 256) == data
    assert copy_from_user(space, AREA + 2 * PAGE, 8) == bytes(8)
    for address in (AREA - 1, AREA + 2 * PAGE - 8, AREA + 3 * PAGE):
        with pytest.raises(AccessFault):
            copy_to_user(space, address, b"\1" * 16)
    assert space.read(AREA + 2 * PAGE - 8, 8) == bytes(8)  # all or nothing
    for address in (AREA + 3 * PAGE, AREA + 4 * PAGE):
        with pytest.raises(AccessFault):
            copy_from_user(space, address, 1)
