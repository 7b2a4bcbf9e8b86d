"""Frozen configuration records, without the import cost of `dataclasses` (25 ms through `inspect`)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda cls: cls


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Record:
    """Base of all configuration records: keyword-only fields, taken from annotations, defaults from class attributes.

    Records are immutable and compare by value; `replace` makes a changed copy.
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = cls.__dict__.get("__annotations__", {})  # noqa: RUF063 - inspect costs 25 ms
        cls._fields = cls._fields + tuple(name for name in own if not name.startswith("_"))

    def __init__(self, **values: Any) -> None:
        store = self.__dict__
        for name in self._fields:
            if name in values:
                store[name] = values.pop(name)
            elif not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__}: field {name!r} is missing")
        if values:
            raise TypeError(f"{type(self).__name__}: unknown field {next(iter(values))!r}")

    def replace(self, **changes: Any) -> Any:
        """Return a copy in which the named fields have new values."""
        return type(self)(**{**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Any]:
        """Return every field and its value, defaults included."""
        return {name: getattr(self, name) for name in self._fields}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot set {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.as_dict().items())))

    def __repr__(self) -> str:
        body = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"{type(self).__name__}({body})"
