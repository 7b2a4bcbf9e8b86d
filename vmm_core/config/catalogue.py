"""The whole option table at once: for `-help`, the manual page, completion and tests. The parser never loads this."""

from __future__ import annotations

from vmm_core.config.table import ANY, MANY, OPTIONAL, Body, Key, Option

IGNORED_MARK = "L"


def bodies(option: Option) -> tuple[Body, ...]:
    """Return the tables of an option's sub-parameters; an option with one plain value, or none, has none."""
    if not option.family:
        return ()
    if option.family == "devices":
        from vmm_core.config import devices

        return devices.bodies()
    module = __import__(f"vmm_core.config.{option.family}", None, None, ("BODIES",))
    found: tuple[Body, ...] = module.BODIES[option.name]
    return found


def spelling(key: Key) -> str:
    """Return `name=VALUE`, or the bare name of a flag."""
    return f"{key.name}={key.kind.metavar}" if key.kind.metavar else key.name


def documented_keys(body: Body) -> tuple[Key, ...]:
    """Return the keys to show: a place on a PCI bus turns an MMIO driver into its PCI twin, so it is shown there."""
    hidden = ("bus", "addr", "multifunction") if body.transport == "mmio" else ()
    return tuple(key for key in body.keys if key.name not in hidden)


def body_synopsis(body: Body) -> list[str]:
    """Return `class`, `,needed=VALUE`, `[,more=VALUE]`...: pieces between which a line may be broken."""
    pieces = [body.name] if body.name else []
    for key in documented_keys(body):
        word = f"[{key.name}=]{key.kind.metavar}" if key.name == body.first else spelling(key)
        comma = "," if pieces else ""
        pieces.append(f"{comma}{word}" if key.required or not pieces else f"[{comma}{word}]")
    return pieces


def value_synopsis(option: Option) -> str:
    """Return what follows the option's name, for an option without tables."""
    if option.family == "boot":
        return "WORD..."
    name = option.kind.metavar if option.kind else ""
    if option.values == OPTIONAL:
        return f"[{name}]"
    return "[...]" if option.values == ANY else f"{name}..." if option.values == MANY else name


def state(mark: str, built: bool) -> str:
    """Return a remark for what does not work in full, or nothing."""
    if mark == IGNORED_MARK:
        return ""
    return "" if built else "not built yet"
