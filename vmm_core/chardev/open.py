"""From a `-chardev` record to its Chardev."""

from __future__ import annotations

from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.chardev.base import Chardev
    from vmm_core.config.records import ChardevConfig
    from vmm_core.loop import EventLoop


def open_chardev(config: ChardevConfig, loop: EventLoop, on_quit: Callable[[], None]) -> Chardev:
    """Open the host's side of a character device; only the module of its kind is imported."""
    if config.kind == "stdio":
        from vmm_core.chardev.stdio import StdioChardev

        return StdioChardev(config, loop, on_quit)
    if config.kind == "pty":
        from vmm_core.chardev.pty import PtyChardev

        return PtyChardev(config, loop)
    if config.kind == "file":
        from vmm_core.chardev.file import FileChardev

        return FileChardev(config, loop)
    if config.kind == "socket":
        from vmm_core.chardev.socket import SocketChardev

        return SocketChardev(config, loop)
    raise VmmError(f"chardev {config.id}: kind {config.kind!r} is not built yet")
