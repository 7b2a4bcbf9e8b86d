"""Each kind of value reads strictly what the interface facts (1.1) allow, and no more."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_core.config import addresses, kinds
from vmm_core.config.catalogue import bodies
from vmm_core.config.display import VncAddress
from vmm_core.config.kinds import GIB, KIB, MIB, Choice, Integer, Invalid, Kind, Path, Size
from vmm_core.config.options import OPTIONS
from vmm_core.config.platform import StateUri
from vmm_core.config.table import Body, Key
from vmm_core.errors import VmmError

_SIZE = Size(1, 512 * GIB)
_LIST = addresses.IntegerList(9)
_KEYS: list[tuple[Body, Key]] = [(body, key) for option in OPTIONS for body in bodies(option) for key in body.keys]
_KINDS: list[Kind] = [key.kind for _, key in _KEYS] + [option.kind for option in OPTIONS if option.kind]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (kinds.BOOL, "yes", True),
        (kinds.BOOL, "off", False),
        (kinds.TRUE_FALSE, "true", True),
        (kinds.FLAG, "no", False),
        (_SIZE, "1", MIB),
        (_SIZE, "3k", 3 * KIB),
        (_SIZE, "007M", 7 * MIB),
        (_SIZE, "512G", 512 * GIB),
        (Integer(0, 255, hexadecimal=True), "0xfF", 255),
        (Integer(3, 1024, power_of_two=True), "4", 4),
        (addresses.PCI_ADDRESS, "0x1f.7", (31, 7)),
        (addresses.PCI_ADDRESS, "0x3.0x0", (3, 0)),
        (addresses.PCI_ADDRESS, "10", (10, 0)),
        (addresses.MAC, "12:34:56:78:9A:BC", "12:34:56:78:9a:bc"),
        (addresses.UUID, "12345678-1234-1234-1234-123456789ABC", "12345678-1234-1234-1234-123456789abc"),
        (addresses.HOST_PCI_ADDRESS, "1a:00.3", "0000:1a:00.3"),
        (addresses.HOST_PCI_ADDRESS, "0001:1A:00.3", "0001:1a:00.3"),
        (_LIST, "0-3:5:7-9", (0, 1, 2, 3, 5, 7, 8, 9)),
        (_LIST, "[4]", (4,)),
        (addresses.DESCRIPTORS, "3:5:4", (3, 5, 4)),
        (addresses.IP, "255.0.0.1", "255.0.0.1"),
        (addresses.IP, "fe80::1", "fe80::1"),
        (addresses.LISTEN_ADDRESS, "unix:/x", ("unix", "/x", None, None)),
        (addresses.LISTEN_ADDRESS, "tcp:1.2.3.4:65535", ("tcp", None, "1.2.3.4", 65535)),
        (addresses.LISTEN_ADDRESS, "tcp:[::1]:1", ("tcp", None, "::1", 1)),
        (VncAddress(), "127.0.0.1:59635", ("127.0.0.1", 65535)),
        (StateUri(), "file:/d", ("file", "/d")),
        (StateUri(), "tcp:1.2.3.4:5", ("tcp", "1.2.3.4:5")),
        (Path(5), "/abcd", "/abcd"),
    ],
)
def test_good_values(kind: Kind, text: str, value: Any) -> None:
    assert kind.read(text) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (kinds.BOOL, ["ON", "1", "", " on", "y"]),
        (kinds.TRUE_FALSE, ["on", "off", "yes", "True"]),
        (Integer(1, 9), ["0", "10", "", "+1", "-1", "1_0", " 1", "1 ", "1.0", "0x1", "\u0661", "\u00b2", "9" * 5000]),
        (Integer(0, 255, hexadecimal=True), ["0x", "0x100", "0x-1", "0x1_0", "x1", "0x" + "0" * 17]),
        (Integer(3, 1024, power_of_two=True), ["3", "5", "1023", "2048"]),
        (_SIZE, ["", "M", "1KB", "1KiB", "1 M", "-1M", "1e3", "513G", "0", "5\u212a", "\uff11", "9" * 21]),
        (addresses.PCI_ADDRESS, ["", "32", "1.8", "1.", ".1", "1.1.1", "0x1.0x", "a", "-1", "1:2"]),
        (addresses.MAC, ["", "12:34:56:78:9a", "12:34:56:78:9a:bc:de", "1:2:3:4:5:6", "12-34-56-78-9a-bc", "zz:" * 6]),
        (addresses.MAC, ["01:00:5e:00:00:01", "12:34:56:78:9a:\uff11\uff11"]),
        (addresses.UUID, ["", "12345678123412341234123456789abc", "g2345678-1234-1234-1234-123456789abc"]),
        (addresses.HOST_PCI_ADDRESS, ["", "1a", "1a:00", "1a:00.33", "0:1a:00.3", "1a:00:3", "1a.00.3"]),
        (_LIST, ["", "[]", "1-", "-1", "3-1", "1-1", "1:1", "2:1", "0-10", "1:", "1,2", "[1"]),
        (addresses.DESCRIPTORS, ["", "3:3", "3:", "-1", "a", "99999999"]),
        (addresses.IP, ["", "1.2.3", "1.2.3.256", "01.2.3.4", "localhost", "::g", "1.2.3.4.5", "::1%lo"]),
        (addresses.LISTEN_ADDRESS, ["", "unix", "unix:", "tcp:", "tcp:1.2.3.4", "tcp::1", "udp:1.2.3.4:5", "/x"]),
        (VncAddress(), ["", ":1", "1.2.3.4", "1.2.3.4:", "1.2.3.4:59636", "::1:1"]),
        (StateUri(), ["", "file", "file:", "exec:x", "tcp:::1:5", "tcp:1.2.3.4:0"]),
        (Path(5), ["", "/abcde", "/\0", "/\ud800"]),
        (Path(must_be_absolute=True), ["x", "./x", ""]),
    ],
)
def test_bad_values(kind: Kind, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(Invalid):
            kind.read(text)


@pytest.mark.parametrize("kind", {id(kind): kind for kind in _KINDS}.values(), ids=lambda kind: type(kind).__name__)
def test_every_number_of_the_table_ends_where_its_range_says(kind: Kind) -> None:
    if not isinstance(kind, Integer):
        assert kind.expects
        return
    low, high = kind.limits
    assert kind.read(str(high)) == high
    for outside in (str(low - 1), str(high + 1)):
        with pytest.raises(Invalid):
            kind.read(outside)


@given(st.sampled_from(_KINDS), st.text(st.characters(), max_size=40))
def test_any_text_is_read_or_refused(kind: Kind, text: str) -> None:
    with contextlib.suppress(Invalid, VmmError):
        kind.read(text)


def test_a_default_that_is_shown_is_a_value_that_is_taken() -> None:
    for body, key in _KEYS:
        if key.default is not None and isinstance(key.kind, Choice | Integer):
            assert key.kind.read(key.kind.show(key.default)) == key.default, (body.name, key.name)
