"""A run of an executable in a file: `pushcall run BINARY --save FILE`, `pushcall run FILE`.

    MAGIC, version (4 bytes), SHA-256 of all that follows, length of the document (8 bytes),
    the document (JSON of emulator.plain, zlib), the pages of memory (zlib)

Numbers are little-endian. The document names the executable, with its own SHA-256: it is not in
the file. What a hostile file can do is what a hostile executable can: be run, in the sandbox.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from emulator import plain, saved_machine
from emulator.saved_machine import BadStateError, SavedMachine
from pushcall.booted.run import Report
from pushcall.content import SAVED_MAGIC as MAGIC
from pushcall.usage import UsageError
from runtime_model.booted import Booted, Entered, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from runtime_model.version import GoVersion

VERSION: Final = 2
_HEAD: Final = struct.Struct("<I32sQ")
_LONGEST: Final = 2 << 30  # bytes of the document
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """What is in the file beside the pages."""

    binary: str
    sha256: str
    go: str
    settings: Settings
    machine: SavedMachine
    entered: dict[int, Entered]
    report: Report


def save(path: Path, booted: Booted, settings: Settings, report: Report) -> None:
    """Writes the state of a machine that stands; UsageError where the file cannot be written."""
    binary = booted.binary
    fresh = Booted(binary, settings)
    known = {each.name: getattr(report, each.name) for each in fields(Report)}
    document = Document(
        str(binary.path.resolve()),
        _digest(binary.path),
        _version(binary.version),
        settings,
        saved_machine.save(booted.machine, fresh.memory),
        booted.entered,
        Report(**known),
    )
    text = zlib.compress(json.dumps(plain.dump(document)).encode(), 1)
    pages = saved_machine.contents(booted.machine, document.machine)
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file:
            digest = hashlib.sha256(len(text).to_bytes(8, "little"))
            file.write(MAGIC + _HEAD.pack(VERSION, bytes(32), len(text)))
            for piece in (text, *_compressed(pages)):
                digest.update(piece)
                file.write(piece)
            file.seek(len(MAGIC))
            file.write(_HEAD.pack(VERSION, digest.digest(), len(text)))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"--save {path}: {error.strerror}") from None


def _version(version: GoVersion) -> str:
    return str(version) if version.patch is None else f"{version}.{version.patch}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compressed(pages: Iterable[memoryview]) -> Iterator[bytes]:
    packer = zlib.compressobj(1)
    for page in pages:
        yield packer.compress(page)
    yield packer.flush()


class SavedRun:
    """A file that `save` wrote, opened: what it says, and the pages to come.

    Raises UsageError, naming the file, for one that cannot be gone on from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._document, self._pages = self._read(file)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        self.binary = Path(self._document.binary)
        self.go = self._document.go
        self.settings = self._document.settings

    def _read(self, file: BinaryIO) -> tuple[Document, bytes]:
        head = file.read(len(MAGIC) + _HEAD.size)
        if len(head) < len(MAGIC) + _HEAD.size:
            raise self._damaged("it is cut off")
        version, digest, size = _HEAD.unpack_from(head, len(MAGIC))
        if version != VERSION:
            raise UsageError(
                f"{self.path}: a saved run of version {version}; this Pushcall has {VERSION}"
            )
        content = file.read()
        if hashlib.sha256(size.to_bytes(8, "little") + content).digest() != digest:
            raise self._damaged("its checksum is wrong")
        unpacker = zlib.decompressobj()
        try:
            text = unpacker.decompress(content[:size], _LONGEST)
            if not unpacker.eof:
                raise self._damaged("its document has no end")
            document = plain.Loader().load(Document, json.loads(text))
        except (plain.NotPlainError, zlib.error, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from None
        assert isinstance(document, Document)
        return document, content[size:]

    def _damaged(self, why: str) -> UsageError:
        return UsageError(f"{self.path}: not a saved run that one can go on from: {why}")

    def check_binary(self) -> None:
        """The executable must be there, and the same."""
        try:
            digest = _digest(self.binary)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f"{self.path}: its executable {self.binary}: {why}") from None
        if digest != self._document.sha256:
            raise UsageError(f"{self.path}: {self.binary} is not the executable that it was")

    def restore(self, booted: Booted, report: Report) -> None:
        """Brings a machine that has just been booted with `settings` to the saved state."""
        pages = _Unpacker(self._pages)
        try:
            saved_machine.restore(booted.machine, self._document.machine, pages.read)
            pages.end()
        except (BadStateError, zlib.error) as error:
            raise self._damaged(str(error)) from None
        booted.entered.update(self._document.entered)
        if booted.entered:
            booted.watch_returns()
        for each in fields(Report):
            setattr(report, each.name, getattr(self._document.report, each.name))


class _Unpacker:
    """The pages, as much at a time as is asked for."""

    def __init__(self, data: bytes) -> None:
        self._unpacker = zlib.decompressobj()
        self._rest = data

    def read(self, size: int) -> bytes:
        """So many bytes; BadStateError where there are fewer."""
        found = bytearray()
        while len(found) < size:
            piece = self._unpacker.decompress(self._rest, min(size - len(found), _PIECE))
            self._rest = self._unpacker.unconsumed_tail
            if not piece:
                raise BadStateError("pages are missing")
            found += piece
        return bytes(found)

    def end(self) -> None:
        """Nothing may be left."""
        if self._unpacker.decompress(self._rest, 1):
            raise BadStateError("there are more pages than it says")
