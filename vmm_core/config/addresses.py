"""Kinds of value that are addresses or lists: IP, MAC, PCI, UUID, socket URIs, integer lists (facts 1.1)."""

from __future__ import annotations

from vmm_core.config.kinds import SOCKET_PATH, Integer, Invalid, Kind, decimal, decimal_or_hex

_HEX = set("0123456789abcdefABCDEF")
PORT = Integer(1, 65535)


def is_ipv4(text: str) -> bool:
    """True for four decimal numbers of at most 255, without leading zeros (which some readers take for octal)."""
    parts = text.split(".")
    return len(parts) == 4 and all(
        (value := decimal(part)) is not None and value <= 255 and str(value) == part for part in parts
    )


def _is_ipv6(text: str) -> bool:
    if ":" not in text or not text.isascii():
        return False
    from _socket import AF_INET6, inet_pton

    try:
        return len(inet_pton(AF_INET6, text)) == 16
    except (OSError, ValueError):
        return False


class IpAddress(Kind):
    """An IPv4 or IPv6 literal; names are not looked up."""

    expects = "an IP address such as 127.0.0.1 or ::1"
    metavar = "IP"

    def read(self, text: str) -> str:
        if not is_ipv4(text) and not _is_ipv6(text):
            raise Invalid(self.expects)
        return text


class MacAddress(Kind):
    """Six pairs of hexadecimal digits; unicast, as a network card must have. The value is lower case."""

    expects = "a unicast MAC address such as 52:54:00:12:34:56"
    metavar = "XX:XX:XX:XX:XX:XX"

    def read(self, text: str) -> str:
        pairs = text.split(":")
        if len(pairs) != 6 or any(len(pair) != 2 or set(pair) - _HEX for pair in pairs) or int(pairs[0], 16) & 1:
            raise Invalid(self.expects)
        return text.lower()


class PciAddress(Kind):
    """`slot[.function]`, each decimal or 0x hexadecimal; the value is (slot, function)."""

    expects = "slot[.function] with slot 0 to 31 and function 0 to 7, decimal or 0x hexadecimal"
    metavar = "SLOT[.FUNC]"

    def read(self, text: str) -> tuple[int, int]:
        first, dot, second = text.partition(".")
        slot = decimal_or_hex(first)
        function = decimal_or_hex(second) if dot else 0
        if slot is None or function is None or slot > 31 or function > 7:
            raise Invalid(self.expects)
        return slot, function


class Uuid(Kind):
    """The 36-character form of a UUID."""

    expects = "a UUID of the form 00000000-0000-0000-0000-000000000000"
    metavar = "UUID"

    def read(self, text: str) -> str:
        groups = text.split("-")
        if [len(group) for group in groups] != [8, 4, 4, 4, 12] or set("".join(groups)) - _HEX:
            raise Invalid(self.expects)
        return text.lower()


class HostPciAddress(Kind):
    """`[domain:]bus:device.function` of a device of the host, hexadecimal as in /sys/bus/pci/devices."""

    expects = "a PCI address such as 0000:1a:00.3"
    metavar = "[DOMAIN:]BUS:DEVICE.FUNC"

    def read(self, text: str) -> str:
        full = text if text.count(":") == 2 else f"0000:{text}"
        groups = full.replace(".", ":").split(":")
        if full.count(".") != 1 or [len(group) for group in groups] != [4, 2, 2, 1] or set("".join(groups)) - _HEX:
            raise Invalid(self.expects)
        return full.lower()


class IntegerList(Kind):
    """`a-b:c:d-e`, with or without surrounding brackets; every number greater than the one before."""

    metavar = "N[-N][:N[-N]...]"

    def __init__(self, high: int) -> None:
        self._high = high
        self.expects = f"a list such as 0-3:5 of increasing numbers up to {high}"

    def read(self, text: str) -> tuple[int, ...]:
        if text[:1] == "[" and text[-1:] == "]":
            text = text[1:-1]
        numbers: list[int] = []
        for part in text.split(":"):
            numbers.extend(self._span(part, numbers[-1] if numbers else -1))
        return tuple(numbers)

    def _span(self, text: str, before: int) -> range:
        first, dash, last = text.partition("-")
        low = decimal(first)
        high = decimal(last) if dash else low
        if low is None or high is None or not before < low <= high <= self._high or (dash and low == high):
            raise Invalid(self.expects)
        return range(low, high + 1)


class Descriptors(Kind):
    """Open descriptors of the starter, separated by colons; no number twice."""

    expects = "descriptor numbers separated by colons"
    metavar = "FD[:FD...]"

    def read(self, text: str) -> tuple[int, ...]:
        numbers = [decimal(part) for part in text.split(":")]
        values = tuple(number for number in numbers if number is not None and number < 1 << 20)
        if len(values) != len(numbers) or len(set(values)) != len(values):
            raise Invalid(self.expects)
        return values


class ListenAddress(Kind):
    """`unix:PATH` or `tcp:IP:PORT`; the value is (kind, path, host, port)."""

    expects = "unix:PATH (at most 107 bytes) or tcp:IP:PORT"
    metavar = "unix:PATH|tcp:IP:PORT"
    completions = ("unix:", "tcp:")

    def read(self, text: str) -> tuple[str, str | None, str | None, int | None]:
        scheme, colon, rest = text.partition(":")
        if scheme == "unix" and colon:
            return "unix", SOCKET_PATH.read(rest), None, None
        host, _, port = rest.rpartition(":")
        if scheme != "tcp" or not host:
            raise Invalid(self.expects)
        if host[0] == "[" and host[-1] == "]":
            host = host[1:-1]
        return "tcp", None, IP.read(host), PORT.read(port)


IP = IpAddress()
MAC = MacAddress()
PCI_ADDRESS = PciAddress()
UUID = Uuid()
HOST_PCI_ADDRESS = HostPciAddress()
DESCRIPTORS = Descriptors()
LISTEN_ADDRESS = ListenAddress()
