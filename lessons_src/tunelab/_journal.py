"""An append-only JSONL file in which a record is on the disk, whole, before anybody is told so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class DamagedLogError(OSError):
    """A line that was acknowledged once cannot be read any more."""


class Journal:
    """One JSON object a line, one line a write: a killed writer leaves a whole line or a torn one, never half a write."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file; a torn last line, which nobody was ever told of, is cut off."""
        self.path, self._broken = path, False
        path.with_suffix(".new").unlink(missing_ok=True)  # of a rewrite that was killed
        self._file = path.open("ab", buffering=0)  # unbuffered: after an error nothing waits to be written later
        content = path.read_bytes()
        if torn := len(content) - (content.rfind(b"\n") + 1):
            self._file.truncate(len(content) - torn)
        os.fsync(self._file.fileno())
        sync_folder(path.parent)

    def read(self) -> Iterator[dict[str, Any]]:
        """The records from the first to the last.

        Raises:
            DamagedLogError: names the line that is no JSON object.
        """
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                if not isinstance(record, dict):
                    raise DamagedLogError(
                        f"{self.path.name}, line {number}: no JSON object. Restore the file from a copy, or delete this line "
                        "(and what it wrote) to go on with the others"
                    )
                yield record

    def append(self, record: dict[str, Any]) -> None:
        """Writes one record; when this returns, it survives a killed process and a power cut.

        Raises:
            OSError: the disk is full or fails; the file is as it was before.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if self._broken:
            raise OSError(f"{self.path.name}: an earlier write failed and could not be undone; open the store again")
        before = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException:
            self._broken = True
            self._file.truncate(before)  # or the next record would continue the torn line
            os.fsync(self._file.fileno())
            self._broken = False
            raise

    def rewrite(self, records: Iterable[dict[str, Any]]) -> None:
        """Replaces all records at once: a reader finds the old file or the new one."""
        new = self.path.with_suffix(".new")
        with new.open("wb") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._file.close()
        try:
            new.replace(self.path)
            sync_folder(self.path.parent)
        finally:
            self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        """Harmless when called twice."""
        self._file.close()


def sync_folder(folder: Path) -> None:
    """Makes created and renamed names in a folder survive a power cut (Windows has no such call, and needs none)."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
