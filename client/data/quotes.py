"""Whether what a person wrote quotes the private data: then it becomes no statement. Pure.

Found is whatever stands in a record word for word, of `SURE` bytes or more, and a record that stands in an
answer as a whole. What was reworded is not found.
"""

from __future__ import annotations

from collections.abc import Mapping

PIECE = 40  # bytes
SURE = 2 * PIECE - 1
SHORTEST = 16  # bytes of a record that is looked for as a whole


class Quotes:
    """The answers' texts by key, against which records are held."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = {key: text.encode() for key, text in texts.items()}
        self._pieces = [
            (key, text[start : start + PIECE])
            for key, text in self._texts.items()
            for start in range(0, len(text) - PIECE + 1, PIECE)
        ]

    def found_in(self, record: bytes) -> str:
        """The key of the text that quotes the record; "" if none does."""
        for key, piece in self._pieces:
            if piece in record:
                return key
        whole = record.strip()
        if len(whole) >= SHORTEST:
            return next((key for key, text in self._texts.items() if whole in text), "")
        return ""
