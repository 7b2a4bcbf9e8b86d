"""Write the `stratovirt` program of the virtual environment: an interpreter without site, straight into `vmm_core.cli`.

pip's console script costs 10 ms before our first line (site, .pth files, `re`), half of the whole start.
`-I` keeps the user's environment and directory out, `-S` keeps site out; the two places that imports may come from are
written down, and the image that holds most of them. `python -m vmm_core` does the same, slower.
"""

from __future__ import annotations

import os
import sys
import sysconfig

from tools.paths import ROOT

SHEBANG_LIMIT = 120  # the kernel allows 255 bytes since 5.1, 127 before

BODY = """\
import gc, sys
gc.disable()
sys.path += [{root!r}, {packages!r}]
from vmm_core.start_image import use
use({image!r})
from vmm_core.cli import main
sys.exit(main(sys.argv[1:]))
"""


def launcher_text(python: str, root: str, packages: str, image: str) -> str:
    """The program's text. A path that a #! line cannot carry (blanks, length) goes through sh, for 1 ms."""
    body = BODY.format(root=root, packages=packages, image=image)
    if len(python) <= SHEBANG_LIMIT and not any(character.isspace() for character in python):
        return f"#!{python} -IS\n{body}"
    quoted = python.replace("'", "'\"'\"'")
    return f"#!/bin/sh\n''':'\nexec '{quoted}' -IS \"$0\" \"$@\"\n'''\n{body}"


def main(target: str, image: str) -> int:
    text = launcher_text(sys.executable, str(ROOT), sysconfig.get_path("platlib"), image)
    new = f"{target}.new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(new, 0o755)
    os.replace(new, target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
