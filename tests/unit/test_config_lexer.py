"""The tokeniser: which words belong to which option (interface facts 1.1 and 1.2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config_lines import Lines
from vmm_core.config import Info, parse
from vmm_core.config.records import VmConfig
from vmm_core.config.suggest import distance, nearest
from vmm_core.errors import VmmError


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path)


@pytest.mark.parametrize("word", ["-h", "-help"])
def test_help_goes_to_standard_output(word: str) -> None:
    info = parse(["-kernel", "nowhere", word])
    assert isinstance(info, Info)
    assert info.text.startswith("Usage: stratovirt")


@pytest.mark.parametrize("word", ["-V", "-version"])
def test_version_has_stratovirts_form(word: str) -> None:
    info = parse([word])
    assert isinstance(info, Info)
    assert info.text.startswith("StratoVirt 2.5.0 commit-id ")


def test_append_takes_unquoted_words_and_quoted_ones(lines: Lines) -> None:
    assert lines.good("-append console=ttyS0 root=/dev/vda rw").boot.append == "console=ttyS0 root=/dev/vda rw"
    assert lines.good(["-append", "console=ttyS0 root=/dev/vda", "rw"]).boot.append == "console=ttyS0 root=/dev/vda rw"
    assert lines.good("-append a=1 -append b=2").boot.append == "a=1 b=2"
    assert lines.good(["-append", ""]).boot.append == ""


def test_a_parameter_of_the_kernel_may_hold_commas_and_dashes(lines: Lines) -> None:
    assert lines.good("-append memmap=1G,x=2 init=/bin/sh").boot.append == "memmap=1G,x=2 init=/bin/sh"


def test_the_kernels_parameters_have_bounded_values(lines: Lines) -> None:
    assert lines.good(["-append", "a=" + "x" * 255])
    assert "longer than 255" in lines.bad(["-append", "a=" + "x" * 256])


def test_everything_after_two_dashes_is_ignored(lines: Lines) -> None:
    words = ["-kernel", lines.path("vmlinux.bin"), "-serial", "stdio", "--", "-nonsense", "x", "-help"]
    assert isinstance(parse(words), VmConfig)


def test_multi_value_options_repeat_and_take_several_tokens(lines: Lines) -> None:
    config = lines.good("-object iothread,id=a iothread,id=b -object iothread,id=c")
    assert [thread.id for thread in config.iothreads] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("-foo", "Found argument '-foo' which wasn't expected"),
        ("--smp 2", "Found argument '--smp' which wasn't expected"),
        ("-smp=2", "Found argument '-smp=2' which wasn't expected"),
        ("-", "Found argument '-' which wasn't expected"),
        ("stray -name a", "Found argument 'stray' which wasn't expected"),
        ("-daemonize yes", "Found argument 'yes' which wasn't expected"),
        ("-S now", "Found argument 'now' which wasn't expected"),
        ("-name a -name b", "'-name' was provided more than once"),
        ("-S -freeze", "'-S' was provided more than once"),
        ("-smp 1 -smp 1", "'-smp' was provided more than once"),
        ("-name a b", "'-name' only need one value"),
        ("-D a b", "'-D' only need one value"),
        ("-name", "'-name' requires a value, but none was supplied"),
        ("-drive", "'-drive' requires a value, but none was supplied"),
        ("-append", "'-append' requires a value, but none was supplied"),
    ],
)
def test_a_line_that_does_not_tokenise_says_which_word_is_wrong(lines: Lines, text: str, meaning: str) -> None:
    assert meaning in lines.bad(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("-derive x", "-drive"),
        ("-kernal x", "-kernel"),
        ("-deamonize", "-daemonize"),
        ("-drive fiel=@a.img,id=a", "file"),
        ("-device virtio-blk-devise,drive=a", "virtio-blk-device"),
        ("-device virtio_blk_device,drive=a", "virtio-blk-device"),
        ("-chardev sockt,id=a", "socket"),
        ("-machine microvm,mem_share=on", "mem-share"),
    ],
)
def test_a_misspelling_is_answered_with_the_nearest_name(lines: Lines, text: str, name: str) -> None:
    assert f"did you mean '{name}'?" in lines.bad(text)


def test_nonsense_is_not_answered_with_a_guess(lines: Lines) -> None:
    assert "did you mean" not in lines.bad("-qqqqqqqq")
    assert nearest("x" * 100_000, ["drive", "device"]) is None


def test_the_edit_distance_counts_a_swap_as_one_edit() -> None:
    assert distance("drive", "drive") == 0
    assert distance("dirve", "drive") == 1
    assert distance("", "abc") == 3
    assert distance("kitten", "sitting") == 3


@pytest.mark.parametrize("option", ["-overcommit", "-uuid", "-no-user-config", "-nodefaults", "-sandbox", "-msg"])
@pytest.mark.parametrize("value", ["", "x", "mem-lock=off,cpu-pm=off", "=,,="])
def test_libvirts_options_are_swallowed_whatever_they_say(lines: Lines, option: str, value: str) -> None:
    assert lines.good([option, *([value] if value else []), option]) == lines.good("")


@pytest.mark.parametrize("text", ["-rtc base=utc", "-boot strict=on", "-nographic", "-realtime mlock=off", "-usb"])
def test_other_ignored_options_change_nothing(lines: Lines, text: str) -> None:
    assert lines.good(f"{text} -display none") == lines.good("")


@pytest.mark.parametrize("word", ["a\0b", "\ud800", "-na\0me"])
def test_what_no_system_call_takes_is_refused_early(lines: Lines, word: str) -> None:
    assert "cannot be passed on" in lines.bad(["-name", word])


def test_messages_hold_no_control_characters_of_the_line() -> None:
    with pytest.raises(VmmError) as caught:
        parse(["-name\x1b[31m"])
    assert "\x1b" not in str(caught.value)
