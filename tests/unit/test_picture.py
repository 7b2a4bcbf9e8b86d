"""The recorded terminal of the README: valid, self-contained, and complete also where nothing moves."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tools.picture import PICTURE, Line, draw

LINES = [Line(0.0, "guest", "# load"), Line(0.5, "host", "# kill <-9> & more"), Line(0.51, "log", "data: was killed")]


def texts(svg: str) -> str:
    return "".join(ElementTree.fromstring(svg).itertext()).replace("\xa0", " ")


def test_every_line_is_drawn_and_appears_in_its_time() -> None:
    svg = draw(LINES, "tcg")
    assert all(line.text in texts(svg) for line in LINES)
    assert "1 times kill -9" in texts(svg)
    assert re.findall(r"kill-appear 1ms ([0-9.]+)s both", svg) == ["0.000", "0.500", "0.510"]
    assert len(set(re.findall(r'<text [^>]*clip-path="(url\(#kill-line-\d+\))"', svg))) >= len(LINES)


def test_the_picture_in_the_readme_needs_nothing_from_elsewhere_and_ends_well() -> None:
    svg = PICTURE.read_text()
    assert re.findall(r"(?:href=|src=|url\()[\"']?(?:https?:)?//", svg) == []
    assert "@font-face" not in svg
    told = texts(svg)
    assert told.count("was killed by SIGKILL") == told.count("its backend is back after")
    assert "VERIFY ok" in told
