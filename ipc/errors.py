"""What can go wrong on a wire between two processes that distrust each other; each text is one line."""

from __future__ import annotations


class WireError(Exception):
    """The peer broke the protocol, or the connection failed."""


class PeerClosed(WireError):
    """The peer is gone."""


class WireTimeout(WireError):
    """The peer did not do its part in time."""
