"""The preprocessor of Go's assembler (cmd/asm/internal/lex/input.go).

It works on tokens, not on text: a macro's body is a list of tokens, an argument is substituted
as tokens, and what comes out is rescanned for further macros. A token that came out of a macro
keeps the place of the invocation, for carets, and the place in the definition, for notes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from asm.lexer import IDENT, INT, NEWLINE, STRING, Token, tokenize
from asm.literal import unquote
from asm.source import Diagnostics, Fault, Source, near_miss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

MAX_DEPTH = 100  # of nested includes and of nested macro invocations, as in Go
MAX_TOKENS = 200_000  # that macros may produce in one file

DIRECTIVES = ("define", "else", "endif", "ifdef", "ifndef", "include", "line", "undef")


class Macro(NamedTuple):
    """A definition; `parameters` is None for a macro without parentheses."""

    name: str
    parameters: tuple[str, ...] | None
    body: tuple[Token, ...]


def object_macro(name: str, value: str) -> Macro:
    """A macro from outside the text: `-D NAME=VALUE`."""
    lines, faults = tokenize(Source(f"-D {name}", value))
    if faults:
        raise faults[0]
    return Macro(name, None, tuple(lines[0]))


@dataclass(slots=True, eq=False, repr=False)
class _Condition:
    opened: Token
    active: bool
    enclosing: bool
    seen_else: bool = False


class Preprocessor:
    """Turns one source text into the token lists of its statements."""

    def __init__(
        self,
        diagnostics: Diagnostics,
        macros: Mapping[str, Macro],
        headers: Mapping[str, str],
        include_dirs: Sequence[Path],
        fallbacks: Mapping[str, Callable[[], Source]] | None = None,
    ) -> None:
        """`headers` come before files of the same name, `fallbacks` after them."""
        self._fallbacks = fallbacks or {}
        self._diagnostics = diagnostics
        self._macros = dict(macros)
        self._headers = headers
        self._include_dirs = include_dirs
        self._produced = 0
        self.sources: list[Source] = []

    def defined(self) -> Iterable[str]:
        """The macros that are defined at this point."""
        return self._macros

    def statements(self, source: Source) -> Iterator[list[Token]]:
        """Yields the tokens of each statement, macros expanded."""
        yield from self._file(source, 0)

    def _file(self, source: Source, depth: int) -> Iterator[list[Token]]:
        self.sources.append(source)
        lines, faults = tokenize(source)
        for fault in faults:
            self._diagnostics.add(fault)
        conditions: list[_Condition] = []
        enabled = True
        index = 0
        while index < len(lines):
            line = lines[index]
            index += 1
            if not line:
                continue
            if line[0].text == "#":
                line = [*line]
                while line[-1].text == "\\" and index < len(lines):
                    line.append(self._newline(line[-1]))
                    line += lines[index]
                    index += 1
                try:
                    included = self._directive(line, conditions, enabled=enabled)
                except Fault as fault:
                    self._diagnostics.add(fault)
                    included = None
                if included is not None and depth < MAX_DEPTH:
                    yield from self._file(included, depth + 1)
                elif included is not None:
                    self._diagnostics.add(Fault(line[0].span, "includes are nested too deeply"))
                enabled = not conditions or conditions[-1].active
                continue
            if not enabled:
                continue
            try:
                # A macro's arguments may run over the end of a line of ours only within
                # parentheses of its own line: Go ends them at the newline, and so do we.
                expanded = self._expand(line, 0)
            except Fault as fault:
                self._diagnostics.add(fault)
                continue
            statement: list[Token] = []
            for token in expanded:
                if token.kind is NEWLINE or token.text == ";":
                    if statement:
                        yield statement
                    statement = []
                else:
                    statement.append(token)
            if statement:
                yield statement
        for condition in conditions:
            self._diagnostics.add(Fault(condition.opened.span, "#if without #endif"))

    @staticmethod
    def _newline(after: Token) -> Token:
        return after._replace(kind=NEWLINE, text="\n")

    def _directive(
        self, line: list[Token], conditions: list[_Condition], *, enabled: bool
    ) -> Source | None:
        if len(line) < 2 or line[1].kind is not IDENT:
            raise Fault(line[0].span, "expected a directive after #")
        word, rest = line[1], line[2:]
        match word.text:
            case "ifdef" | "ifndef":
                # An enclosing condition that is false keeps everything within it out.
                name = self._macro_name(word, rest)
                self._end_of_directive(word, rest[1:])
                wanted = word.text == "ifdef"
                active = enabled and ((name.text in self._macros) == wanted)
                conditions.append(_Condition(word, active, enabled))
            case "else":
                self._end_of_directive(word, rest)
                if not conditions:
                    raise Fault(word.span, "#else without #ifdef")
                condition = conditions[-1]
                if condition.seen_else:
                    raise Fault(word.span, "a second #else for the same #ifdef")
                condition.seen_else = True
                condition.active = condition.enclosing and not condition.active
            case "endif":
                self._end_of_directive(word, rest)
                if not conditions:
                    raise Fault(word.span, "#endif without #ifdef")
                conditions.pop()
            case "define" if enabled:
                self._define(word, rest)
            case "undef" if enabled:
                name = self._macro_name(word, rest)
                self._end_of_directive(word, rest[1:])
                if self._macros.pop(name.text, None) is None:
                    note = near_miss(name.text, self._macros)
                    raise Fault(name.span, f"#undef of {name.text}, which is not defined", note)
            case "include" if enabled:
                return self._include(word, rest)
            case "line" if enabled:
                # Generated files name their origin; positions stay those of the text at hand.
                if len(rest) != 2 or rest[0].kind is not INT or rest[1].kind is not STRING:
                    raise Fault(word.span, '#line takes a number and a "file"')
            case _ if enabled:
                note = near_miss(word.text, DIRECTIVES)
                raise Fault(word.span, f"unknown directive #{word.text}", note)
        return None

    @staticmethod
    def _macro_name(word: Token, rest: list[Token]) -> Token:
        if not rest or rest[0].kind is not IDENT:
            at = rest[0] if rest else word
            raise Fault(at.span, f"#{word.text} needs a name")
        return rest[0]

    @staticmethod
    def _end_of_directive(word: Token, rest: list[Token]) -> None:
        if rest:
            raise Fault(rest[0].span, f"unexpected {rest[0].text} after #{word.text}")

    def _include(self, word: Token, rest: list[Token]) -> Source:
        if len(rest) != 1 or rest[0].kind is not STRING:
            raise Fault(word.span, '#include needs a "file"')
        name = unquote(rest[0])
        if name in self._headers:
            return Source(name, self._headers[name])
        beside = Path(word.source.name).parent
        for directory in (beside, *self._include_dirs):
            path = directory / name
            try:
                if path.is_file():
                    return Source(str(path), path.read_text(encoding="utf-8-sig"))
            except (OSError, UnicodeDecodeError, ValueError) as error:
                raise Fault(rest[0].span, f"cannot read {name}: {error}") from None
        if name in self._fallbacks:
            return self._fallbacks[name]()
        note = near_miss(name, (*self._headers, *self._fallbacks))
        raise Fault(rest[0].span, f"no file {name} to include", note)

    def _define(self, word: Token, rest: list[Token]) -> None:
        name = self._macro_name(word, rest)
        parameters: list[str] | None = None
        at = 1
        # C's rule: a parenthesis that touches the name opens parameters, another is body.
        if len(rest) > 1 and rest[1].text == "(" and rest[1].start == name.end:
            parameters = []
            at = 2
            expect_name = True
            while at < len(rest) and rest[at].text != ")":
                token = rest[at]
                if expect_name and token.kind is IDENT:
                    if token.text in parameters:
                        raise Fault(token.span, f"a second parameter {token.text}")
                    parameters.append(token.text)
                elif expect_name or token.text != ",":
                    raise Fault(token.span, f"unexpected {token.text} among the parameters")
                expect_name = not expect_name
                at += 1
            if at == len(rest):
                raise Fault(name.span, f"the parameters of {name.text} are not closed")
            at += 1
        body: list[Token] = []
        while at < len(rest):
            token = rest[at]
            if token.text == "\\" and token.kind is not NEWLINE:
                following = rest[at + 1] if at + 1 < len(rest) else None
                if following is None or following.text not in {"\n", "\\"}:
                    raise Fault(token.span, "\\ may only stand before a newline or another \\")
                token = following
                at += 1
            body.append(token)
            at += 1
        if name.text in self._macros:
            raise Fault(name.span, f"macro {name.text} is already defined")
        self._macros[name.text] = Macro(
            name.text, None if parameters is None else tuple(parameters), tuple(body)
        )

    def _expand(self, tokens: Sequence[Token], depth: int) -> list[Token]:
        macros = self._macros
        if not any(token.kind is IDENT and token.text in macros for token in tokens):
            return list(tokens)
        if depth >= MAX_DEPTH:
            raise Fault(tokens[0].span, "macros are nested too deeply: one invokes itself")
        out: list[Token] = []
        index = 0
        while index < len(tokens):
            token = tokens[index]
            index += 1
            macro = macros.get(token.text) if token.kind is IDENT else None
            if macro is None:
                out.append(token)
                continue
            end = token.end
            actual: dict[str, list[Token]] = {}
            if macro.parameters is not None:
                if index >= len(tokens) or tokens[index].text != "(":
                    out.append(token)
                    continue
                actual, index, end = self._arguments(macro, token, tokens, index + 1)
            body: list[Token] = []
            for part in macro.body:
                if part.kind is IDENT and part.text in actual:
                    body.extend(actual[part.text])
                else:
                    body.append(
                        Token(part.kind, part.text, token.source, token.start, end, part.span)
                    )
                if self._produced + len(body) > MAX_TOKENS:
                    raise Fault(token.span, "the macros of this file expand to too much")
            self._produced += len(body)
            out.extend(self._expand(body, depth + 1) if body else ())
        return out

    @staticmethod
    def _arguments(
        macro: Macro, name: Token, tokens: Sequence[Token], index: int
    ) -> tuple[dict[str, list[Token]], int, int]:
        arguments: list[list[Token]] = [[]]
        nesting = 0
        while True:
            if index == len(tokens):
                raise Fault(name.span, f"the arguments of {macro.name} are not closed")
            token = tokens[index]
            index += 1
            if nesting == 0 and token.text == ")":
                break
            if nesting == 0 and token.text == ",":
                arguments.append([])
                continue
            nesting += (token.text == "(") - (token.text == ")")
            arguments[-1].append(token)
        parameters = macro.parameters or ()
        if not parameters and arguments == [[]]:
            arguments = []
        if len(arguments) != len(parameters):
            raise Fault(
                name.span,
                f"macro {macro.name} takes {len(parameters)} arguments, {len(arguments)} given",
            )
        return dict(zip(parameters, arguments, strict=True)), index, token.end
