"""Imports point down: pushcall → runtime_model → emulator; asm beside emulator, run by neither."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "asm": {"asm"},
    "emulator": {"emulator"},
    "runtime_model": {"runtime_model", "emulator", "asm"},
    "pushcall": {"pushcall", "runtime_model", "emulator", "asm"},
}
# The rooms and files of pushcall/, from below; each imports only what stands before it.
FLOORS = (
    {"usage", "processes"},
    {"content", "show"},
    {"snippet"},
    {"trampoline", "audit", "trace"},
    {"check"},
    {"booted", "signals"},
    {"failure"},
    {"scenarios"},
    {"api", "cli"},
    {"pytest_files", "mkdrawings", "__main__"},
    {"pytest_plugin"},
)


def imported_rooms(path: Path) -> set[str]:
    """The project's packages that a file imports, wherever in it the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            rooms.add(node.module.split(".")[0])
    return rooms & MAY_IMPORT.keys()


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_down(room: str) -> None:
    upward = {
        str(path.relative_to(ROOT)): sorted(imported_rooms(path) - MAY_IMPORT[room])
        for path in sorted((ROOT / room).rglob("*.py"))
        if imported_rooms(path) - MAY_IMPORT[room]
    }
    assert not upward


def test_the_emulator_does_not_know_go() -> None:
    """No identifier or string of emulator/ speaks of Go's runtime."""
    words = ("goroutine", "runtime_model", "asyncPreempt", "gsignal")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in sorted((ROOT / "emulator").rglob("*.py"))
        for word in words
        if word in path.read_text("utf-8")
    ]
    assert not found


def rooms_of_pushcall(path: Path) -> set[str]:
    """The rooms and files of pushcall/ that a file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, *inner = node.module.split(".")
            if package == "pushcall":
                rooms |= {inner[0]} if inner else {alias.name for alias in node.names}
    return rooms


def test_the_rooms_of_pushcall_import_down() -> None:
    files = sorted((ROOT / "pushcall").rglob("*.py"))
    room = {path: path.relative_to(ROOT / "pushcall").with_suffix("").parts[0] for path in files}
    known = set().union(*FLOORS)
    assert known == set(room.values()) - {"__init__"}
    upward = {}
    for number, floor in enumerate(FLOORS):
        below = set().union(*FLOORS[:number])
        for path in files:
            if room[path] in floor:
                wrong = rooms_of_pushcall(path) - below - {room[path]}
                if wrong:
                    upward[str(path.relative_to(ROOT))] = sorted(wrong)
    assert not upward
