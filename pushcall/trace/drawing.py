"""The timeline of a recorded run and its first pushCall, as one SVG (W3C's SVG 1.1).

Colours are Okabe and Ito's, which the colour-blind tell apart; every bar has its goroutine's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from pushcall.snippet.crash import place
from pushcall.trace import slots
from pushcall.trace.panes import Piece, pieces
from runtime_model.events import PushedCall

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pushcall.trace.recorded import RecordedRun

WIDTH: Final = 1240
_LEFT: Final = 60  # where time begins
_ROW: Final = 26
_CELL: Final = 24
_COLOURS: Final = (
    "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#0072b2", "#d55e00", "#999999",
)  # fmt: skip
_STYLE: Final = (
    "text{font:13px monospace;fill:#111}.h{font-weight:bold}.d{fill:#555}"
    ".g{font-size:11px}.m{stroke:#d55e00;stroke-width:2}.c{fill:#fff;stroke:#333}"
    ".n{fill:#fde9c8;stroke:#333}"
)


def svg(run: RecordedRun) -> str:
    """The whole drawing."""
    parts = [f'<text x="10" y="24" class="h">{escape(_title(run))}</text>']
    body, height = _timeline(run, 44)
    parts += body
    event = next((m.event for m in run.events if isinstance(m.event, PushedCall)), None)
    if event is not None:
        body, height = _stacks(run, event, height + 30)
        parts += body
    content = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">\n<title>{escape(_title(run))}</title>\n'
        f'<style>{_STYLE}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f"{content}\n</svg>\n"
    )


def _title(run: RecordedRun) -> str:
    count = len(run.preemptions)
    return f"{len(run)} instructions, {count} preemption{'s' * (count != 1)}, Go {run.rt.version}"


def _timeline(run: RecordedRun, top: int) -> tuple[list[str], int]:
    """Ps and Ms over the steps, with a mark for each preemption."""
    found = pieces(run)
    scale = (WIDTH - _LEFT - 20) / max(1, len(run))
    parts, y = [], top
    for kind in ("P", "M"):
        for number in sorted({piece.p if kind == "P" else piece.m for piece in found}):
            parts.append(f'<text x="10" y="{y + 17}" class="h">{kind}{number}</text>')
            mine = [p for p in found if (p.p if kind == "P" else p.m) == number]
            parts += list(_bars(mine, y, scale))
            y += _ROW
    for step in run.preemptions:
        x = _LEFT + step * scale
        parts.append(f'<line class="m" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{y}"/>')
    parts.append(
        f'<text x="{_LEFT}" y="{y + 16}" class="d">step 0 to {len(run)}; a bar is a goroutine, '
        "a vertical line a preemption</text>"
    )
    return parts, y + 20


def _bars(mine: Iterable[Piece], y: int, scale: float) -> Iterable[str]:
    for piece in mine:
        x, width = _LEFT + piece.start * scale, max(1.0, (piece.end - piece.start) * scale)
        colour = _COLOURS[piece.goid % len(_COLOURS)]
        yield (
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 4}" fill="{colour}">'
            f"<title>G{piece.goid}: steps {piece.start} to {piece.end}</title></rect>"
        )
        if width > 26:
            yield f'<text x="{x + 4:.1f}" y="{y + 16}" class="g">G{piece.goid}</text>'


def _stacks(run: RecordedRun, event: PushedCall, top: int) -> tuple[list[str], int]:
    """The goroutine's stack before and after pushCall, side by side, high addresses on top."""
    step = next(m.step for m in run.events if m.event is event)
    after = {slot.address: slot for slot in slots.stack(run, step, above=9, below=0).slots}
    interrupted, target = place(run.rt, event.resume), place(run.rt, event.target)
    parts = [
        f'<text x="10" y="{top}" class="h">before pushCall</text>',
        f'<text x="10" y="{top + 18}">PC = {interrupted.pc:#x} {escape(interrupted.symbol)}</text>',
        f'<text x="610" y="{top}" class="h">after</text>',
        f'<text x="610" y="{top + 18}">PC = {target.pc:#x} {escape(target.symbol)}</text>',
    ]
    y = top + 30
    for address in sorted(after, reverse=True):
        slot = after[address]
        for x, rsp in ((10, event.rsp_before), (610, event.rsp_after)):
            if address < rsp:
                continue
            fresh = address == event.rsp_after
            parts.append(
                f'<rect class="{"n" if fresh else "c"}" x="{x}" y="{y}" width="300" '
                f'height="{_CELL}"/><text x="{x + 6}" y="{y + 17}">{address:#x} '
                f"{slot.value:016x}</text>"
            )
            note = ("← SP " if address == rsp else "") + slot.what
            parts.append(f'<text x="{x + 308}" y="{y + 17}" class="d">{escape(note[:34])}</text>')
        y += _CELL
    return parts, y + 16
