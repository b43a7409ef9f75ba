"""Which lines are done: of several records of a line, from several tries, the best counts."""

from __future__ import annotations

from typing import Any


class Done:
    """What is known of lines by their records, that are told one after the other in any order.

    Attributes:
        lines: a byte for each number of a line: whether it has a record.
        failed: by the number of each line of which no try worked, how often it was tried.
    """

    def __init__(self) -> None:
        self.lines = bytearray()
        self.failed: dict[int, int] = {}

    def __len__(self) -> int:
        """How many lines have a record."""
        return self.lines.count(1)

    def __contains__(self, number: int) -> bool:
        """Whether a line has a record."""
        return number < len(self.lines) and self.lines[number] == 1

    def note(self, record: dict[str, Any]) -> bool:
        """Takes a record in.

        Returns:
            Whether it is the best of its line so far: one that worked is, then the latest try.
        """
        number, tries = record["line"], record.get("try", 1)
        worked = record.get("error") is None
        if number in self:
            before = self.failed.get(number)
            if before is None or not (worked or tries > before):
                return False
        self._mark(number)
        if worked:
            self.failed.pop(number, None)
        else:
            self.failed[number] = tries
        return True

    def forget(self, number: int) -> None:
        """Has a line done again; how often it was tried stays known."""
        self.lines[number] = 0

    def _mark(self, number: int) -> None:
        if number >= len(self.lines):
            self.lines.extend(bytes(max(number + 1 - len(self.lines), len(self.lines))))
        self.lines[number] = 1
