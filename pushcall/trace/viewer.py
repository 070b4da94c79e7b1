"""The viewer: a recorded run in the terminal, forwards and backwards (Textual).

Every pane computes the lines that are visible, and no others, from the step at which we are; so a
run of a million steps scrolls as one of a hundred does. Keys do everything; see `HELP`.
"""

from __future__ import annotations

import bisect
import os
from typing import TYPE_CHECKING, ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static

from pushcall.snippet.crash import place
from pushcall.trace import walk
from pushcall.trace.panes import HEAD, HERE, Page, Panes
from pushcall.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual import events
    from textual.app import ComposeResult

    from pushcall.trace.recorded import RecordedRun, Writer

WIDE: Final = (120, 36)  # columns and rows from which all panes are shown at once
SMALL: Final = 24  # rows for which the heights of panes are made
LOWER: Final = ("stack", "fields", "events", "timeline")

HELP: Final = """\
 → ↓ j   one instruction on             ← ↑ k   one instruction back
 n       on, over calls and handlers    N       back over them
 e       to the next event              E       to the last one
 p       to the next preemption         P       to the last one
 PgDn    a page on                      PgUp    a page back
 Home <  to the start                   End >   to the end
 g       go to the step of a number     b       back to where we came from
 /       search SYMBOL+OFFSET, 0xPC     ?       search backwards
 w       who wrote this last? A register, 0xADDRESS, or SP+OFFSET; goes there
 o       another goroutine's stack      O       on to where it runs next
 [ ]     the stack, lower and higher    d       code as run, or as written
 u       vectors; flags and x87         Tab     the lower pane, if small
 h       this help                      q       leave

 > comes next   * has changed   + safe point   - none   ~ restart
 In the timeline: v we are here, ! a preemption, · idle."""


def _end(run: RecordedRun) -> str:
    """What to know of a run that was not recorded to its end."""
    if run.outcome.interrupted:
        return f"interrupted: {len(run)} steps were recorded"
    return f"only the first {len(run)} steps were recorded (--steps)" if run.cut else ""


class Pane(Widget):
    """A titled pane of lines, made for its present size when it is drawn."""

    def __init__(self, name: str, content: Callable[[int, int], list[Text]]) -> None:
        super().__init__(id=name)
        self.content = content
        self._lines: list[Text] = []

    def lines(self) -> None:
        """Computes what is visible."""
        width, height = self.size
        self._lines = self.content(width, height - 1) if height > 1 else []
        self.refresh()

    def on_resize(self) -> None:
        """The terminal, or the layout, gave it another size."""
        self.lines()

    def render_line(self, y: int) -> Strip:
        """A line of the terminal."""
        width = self.size.width
        if y == 0:
            text = Text(f"─ {self.id} ".ljust(width, "─"), "dim")
        elif y <= len(self._lines):
            text = self._lines[y - 1]
        else:
            text = Text()
        segments = text.render(self.app.console)
        # A filter, as of NO_COLOR, wants a style everywhere.
        styled = [Segment(s.text, s.style or Style.null()) for s in segments if s.text != "\n"]
        return Strip(styled).adjust_cell_length(width, Style.null())


class Help(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar = [Binding("escape,q,h,enter,f1", "app.pop_screen", "Close")]
    CSS = "Help { align: center middle; } #help { width: 80; height: auto; border: solid white; }"

    def compose(self) -> ComposeResult:
        """The text."""
        yield Static(HELP, id="help", markup=False)


class Viewer(App[None]):
    """The application. `at` is the step before whose instruction we are."""

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None
    CSS = """
    Screen { layers: base; }
    #upper { height: 1fr; }
    #left { width: 5fr; } #right { width: 4fr; margin-left: 1; }
    #code { height: 1fr; } #events { height: 14; }
    #registers { height: 11; } #stack { height: 1fr; } #fields { height: 17; }
    #timeline { height: auto; max-height: 12; }
    #status, #keys { height: 1; }
    #prompt { height: 1; border: none; padding: 0; display: none; }
    .narrow #upper { layout: vertical; }
    .narrow #left, .narrow #right { width: 100%; margin: 0; }
    .narrow #left { height: 1fr; } .narrow #right { height: 15; }
    .narrow #registers { height: 8; }
    .narrow #stack, .narrow #fields, .narrow #events, .narrow #timeline { display: none; }
    .narrow.show-stack #stack, .narrow.show-fields #fields { display: block; height: 1fr; }
    .narrow.show-events #events, .narrow.show-timeline #timeline { display: block; height: 7; }
    .narrow.show-events #right, .narrow.show-timeline #right { height: 8; }
    .unfolded #registers { height: 17; }
    .narrow.unfolded #right { height: 17; }
    .narrow.unfolded #stack, .narrow.unfolded #fields { display: none; }
    """
    BINDINGS: ClassVar = [
        Binding("right,down,j,s", "go('forward')"),
        Binding("left,up,k,S", "go('back')"),
        Binding("n", "go('over')"),
        Binding("N", "go('back_over')"),
        Binding("e", "go('next_event')"),
        Binding("E", "go('last_event')"),
        Binding("p", "go('next_preemption')"),
        Binding("P", "go('last_preemption')"),
        Binding("pagedown", "page(1)"),
        Binding("pageup", "page(-1)"),
        Binding("home,less_than_sign", "start"),
        Binding("end,greater_than_sign", "end"),
        Binding("g", "ask('go to step: ')"),
        Binding("slash", "ask('search: ')"),
        Binding("question_mark", "ask('search back: ')"),
        Binding("w", "ask('who wrote: ')"),
        Binding("o", "ask('goroutine (empty: whoever runs): ')"),
        Binding("O", "run_on"),
        Binding("left_square_bracket", "scroll_stack(-4)"),
        Binding("right_square_bracket", "scroll_stack(4)"),
        Binding("d", "listing"),
        Binding("u", "unfold"),
        Binding("tab", "lower", priority=True),
        Binding("b", "return"),
        Binding("h,f1", "help"),
        Binding("q,ctrl+c", "quit"),
        Binding("escape", "cancel"),
    ]

    def __init__(self, run: RecordedRun) -> None:
        super().__init__()
        self.run_ = run
        self.panes = Panes(run)
        self.at = 0
        self.message = _end(run)
        self._written = False  # code as written, not as executed
        self._came_from: list[int] = []
        self._ask = ""
        self._searched = ""

    def compose(self) -> ComposeResult:
        """The panes."""
        with Horizontal(id="upper"):
            with Vertical(id="left"):
                yield Pane("code", self._code)
                yield Pane("events", self._events)
            with Vertical(id="right"):
                yield Pane("registers", lambda w, _: self.panes.registers(self.at, w))
                yield Pane("stack", lambda _, h: self.panes.stack(self.at, h))
                yield Pane("fields", lambda w, h: self.panes.fields(self.at, w, h))
        yield Pane("timeline", lambda w, _: self.panes.timeline(self.at, w))
        yield Static(id="status")
        yield Static(id="keys", markup=False)
        yield Input(id="prompt")

    def on_mount(self) -> None:
        """The first screen."""
        self._layout(self.size.width, self.size.height)
        self.add_class("show-stack")
        self._show()

    def on_resize(self, event: events.Resize) -> None:
        """The terminal has another size."""
        self._layout(event.size.width, event.size.height)

    def _layout(self, width: int, height: int) -> None:
        wide = width >= WIDE[0] and height >= WIDE[1]
        self.set_class(not wide, "narrow")
        timeline = min(len(self.panes.timeline(self.at, 20)) + 1, 12)
        self.query_one("#timeline", Pane).styles.height = timeline if wide else None
        # Registers have 11 rows, status and keys 2; the stack gets 9 at least.
        fields = min(17, height - timeline - 13 - 9)
        self.query_one("#fields", Pane).styles.height = fields if wide else None
        # In the smallest terminals code and the panes below it shrink alike.
        right = (height - 2) * 15 // 22 if height < SMALL else None
        self.query_one("#right").styles.height = None if wide else right

    # What is shown.

    def _show(self) -> None:
        for pane in self.query(Pane):
            pane.lines()
        self.query_one("#status", Static).update(self.panes.status(self.at))
        keys = "→← step  n/N over  e/E event  p/P preemption  w writer  / search  h help  q quit"
        self.query_one("#keys", Static).update(
            Text(self.message or keys, HEAD if self.message else "dim")
        )

    def _code(self, width: int, height: int) -> list[Text]:
        function = self.panes.function(self.at) if self._written else None
        if function is not None:
            pc = self.run_.registers(self.at)["RIP"]
            here = next((i for i, n in enumerate(function.instructions) if n.address == pc), 0)
            first, last = _window(here, len(function.instructions), height)
            return [self.panes.code_line(function, i, pc) for i in range(first, last)]
        first, last = _window(self.at, len(self.run_) + 1, height)
        lines = []
        for step in range(first, last):
            line = self.panes.step_line(step, width).copy()
            mark = Text("> " if step == self.at else "  ", HERE if step == self.at else "")
            lines.append(mark.append_text(line))
        return lines

    def _events(self, width: int, height: int) -> list[Text]:
        del width
        marked = self.run_.events
        here = bisect.bisect_right(marked, self.at, key=lambda m: m.step)
        first, last = _window(max(0, here - 1), len(marked), height)
        lines = []
        for index in range(first, last):
            near = marked[index].step == self.at
            mark = Text("> " if near else "  ", HERE if near else "")
            lines.append(mark.append_text(self.panes.event_line(index)))
        return lines

    # Going.

    def _go(self, step: int, *, far: bool = True) -> None:
        if far and step != self.at:
            self._came_from.append(self.at)
        self.at = step
        self.panes.scrolled = 0
        self._show()

    def action_go(self, way: str) -> None:
        """By one of the ways of pushcall.trace.walk."""
        self.message = ""
        step = getattr(walk, way)(self.run_, self.at)
        if step == self.at:
            what = "preemption" if "preemption" in way else "step"
            self.message = f"no further {what} that way"
        self._go(step, far=way not in ("forward", "back"))

    def action_page(self, pages: int) -> None:
        """By as many steps as the code pane shows."""
        self.message = ""
        rows = max(1, self.query_one("#code", Pane).size.height - 2)
        self._go(min(max(0, self.at + pages * rows), len(self.run_)), far=False)

    def action_start(self) -> None:
        """To the first step."""
        self.message = ""
        self._go(0)

    def action_end(self) -> None:
        """Behind the last step."""
        self.message = ""
        self._go(len(self.run_))

    def action_return(self) -> None:
        """To where the last jump began."""
        self.message = "" if self._came_from else "no jump to go back from"
        if self._came_from:
            self._go(self._came_from.pop(), far=False)

    def action_run_on(self) -> None:
        """To where the chosen goroutine, or another than this, runs next."""
        goid = self.panes.goid
        if goid is None:
            now = self.run_.who(self.at).g
            others = self.run_.spans_of(
                self.at, lambda span: span.g > 0 and span.g != now, back=False
            )
            span = next(others, None)
            step = span.start if span is not None else None
        else:
            step = walk.of_goroutine(self.run_, self.at, goid)
        self.message = "" if step is not None else "it does not run any more"
        self._go(self.at if step is None else step)

    # What else keys do.

    def action_scroll_stack(self, slots: int) -> None:
        """Shows the stack further up or down."""
        self.panes.scrolled = max(0, self.panes.scrolled + slots)
        self._show()

    def action_listing(self) -> None:
        """Changes between code as executed and as written."""
        self._written = not self._written
        self._show()

    def action_unfold(self) -> None:
        """The next page of registers."""
        self.panes.page = Page((self.panes.page.value + 1) % len(Page))
        self.set_class(self.panes.page is not Page.GENERAL, "unfolded")
        self.call_after_refresh(self._show)

    def action_lower(self) -> None:
        """Another lower pane, where there is room for one only."""
        now = next(name for name in LOWER if self.has_class(f"show-{name}"))
        self.remove_class(f"show-{now}")
        self.add_class(f"show-{LOWER[(LOWER.index(now) + 1) % len(LOWER)]}")
        self.call_after_refresh(self._show)

    def action_help(self) -> None:
        """The keys."""
        self.push_screen(Help())

    # Questions.

    def action_ask(self, question: str) -> None:
        """Opens the prompt."""
        self._ask = question
        prompt = self.query_one("#prompt", Input)
        prompt.value = ""
        prompt.placeholder = question
        prompt.styles.display = "block"
        self.query_one("#keys", Static).styles.display = "none"
        prompt.focus()

    def action_cancel(self) -> None:
        """Closes the prompt."""
        prompt = self.query_one("#prompt", Input)
        prompt.styles.display = "none"
        self.query_one("#keys", Static).styles.display = "block"
        self.set_focus(None)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """An answer."""
        self.action_cancel()
        self.message = ""
        try:
            self._answer(event.value.strip())
        except UsageError as error:
            self.message = str(error)
            self._show()

    def _answer(self, text: str) -> None:
        if self._ask.startswith("go to"):
            self._go(walk.number(self.run_, text))
        elif self._ask.startswith("search"):
            self._search(text or self._searched, backwards="back" in self._ask)
        elif self._ask.startswith("who"):
            self._who_wrote(text)
        else:
            self._choose(text)

    def _search(self, text: str, *, backwards: bool) -> None:
        step = walk.search(self.run_, self.at, text, backwards=backwards)
        self._searched = text
        if step is None:
            self.message = f"{text} is not executed {'before' if backwards else 'after'} this"
        self._go(self.at if step is None else step)

    def _choose(self, text: str) -> None:
        known = self.run_.goroutines.keys()
        digits = text.removeprefix("G").removeprefix("g")
        if digits and (not digits.isdigit() or int(digits) not in known):
            raise UsageError(f"{text}: no goroutine; there are G{min(known)} to G{max(known)}")
        self.panes.goid = int(digits) if digits else None
        self._go(self.at)

    def _who_wrote(self, text: str) -> None:
        what, writer = walk.who_wrote(self.run_, self.at, text or "SP", self.panes.goid)
        if writer is None:
            self.message = f"{what}: nobody wrote it before this step"
            self._show()
            return
        self.message = f"{what}: {self._told(writer)}"
        self._go(writer.step)

    def _told(self, writer: Writer) -> str:
        if writer.by_instruction:
            at = place(self.run_.rt, self.run_.pc(writer.step))
            return f"written by step {writer.step}, {at.symbol}: {at.source}"
        told = walk.telling(self.run_, writer.step)
        what = self.panes.event_text(told) if told is not None else "the kernel or the runtime"
        return f"written before step {writer.step}: {what}"


def _window(here: int, count: int, height: int) -> tuple[int, int]:
    """Which of `count` lines are visible around one."""
    first = max(0, min(here - height // 2, count - height))
    return first, min(count, first + max(0, height))


def view(run: RecordedRun) -> None:
    """Opens the viewer and returns when it is left."""
    for name in ("COLUMNS", "LINES"):  # where exported, they would hold against a resize
        os.environ.pop(name, None)
    Viewer(run).run(mouse=False)
