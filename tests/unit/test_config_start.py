"""Reading a command line is on the way to the guest's first instruction: it may not import what a guest waits for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.config_lines import Lines

_SLOW = """
    typing re json dataclasses logging subprocess asyncio threading contextlib enum argparse importlib socket _socket
    difflib textwrap collections functools
"""
_COLD = "vmm_core.config.suggest vmm_core.config.helptext vmm_core.config.catalogue vmm_core.config.netdev"


def test_a_documented_line_imports_only_its_own_families(tmp_path: Path) -> None:
    lines = Lines(tmp_path)
    words = lines.words(
        "-kernel @vmlinux.bin -append console=ttyS0 root=/dev/vda -drive file=@a.img,id=rootfs,readonly=false "
        "-device virtio-blk-device,drive=rootfs -qmp unix:/tmp/stratovirt.socket,server,nowait -serial stdio"
    )
    root = Path(__file__).resolve().parents[2]
    program = f"""
import sys
sys.path.insert(0, {str(root)!r})
import vmm_core.config
vmm_core.config.parse({words!r})
print(*sys.modules)
"""
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], text=True, capture_output=True, check=True)
    loaded = set(result.stdout.split())
    assert "vmm_core.config.drive" in loaded
    assert not loaded & {*_SLOW.split(), *_COLD.split()}
