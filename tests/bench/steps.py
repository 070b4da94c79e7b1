"""Single steps, and recordings of all registers of every step."""

from __future__ import annotations

from emulator.recording import Recorder
from emulator.registers import Registers
from tests.bench.measure import Contender, Group
from tests.bench.programs import processor


def groups(scale: float) -> list[Group]:
    """Stepping; recording."""
    steps = int(50_000 * scale)
    recorded = int(300_000 * scale)

    def step(*, save: bool) -> Contender:
        cpu, registers = processor("golang-nuts"), Registers()

        def run() -> float:
            for _ in range(steps):
                cpu.run(1, armed=False)
                if save:
                    cpu.save(registers)
            return steps

        return Contender("step and save registers" if save else "step", run)

    def record(counting: str | None, *, stores: bool, count: int) -> Contender:
        cpu = processor("golang-nuts", counting)

        def run() -> float:
            with Recorder(cpu, stores=stores):
                cpu.run(count)
            return count

        name = "registers and stores" if stores else "registers"
        return Contender(f"{name}, hooks in Python" if counting == "python" else name, run)

    return [
        Group("single steps", "steps", [step(save=False), step(save=True)]),
        Group(
            "recording",
            "steps",
            [
                record(None, stores=False, count=recorded),
                record(None, stores=True, count=recorded),
                record("python", stores=True, count=recorded // 100),
            ],
        ),
    ]
