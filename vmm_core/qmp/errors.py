"""QMP's error classes (facts 2.1)."""

from __future__ import annotations


class QmpError(Exception):
    """An answer with `error`: its class and a description of one line."""

    def __init__(self, description: str, error_class: str = "GenericError") -> None:
        super().__init__(description)
        self.error_class = error_class
