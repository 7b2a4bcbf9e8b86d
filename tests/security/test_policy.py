"""Policy files: whoever gets one wrong is told where, and what is right means what it says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ipc.confine.compiler import compile_rules
from ipc.confine.policy import ALLOW, TRAP, PolicyError, read_policy
from ipc.confine.seccomp import compile_policy
from tests.security.forked import Outcome, forked
from tools.paths import ROOT


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    return tmp_path / "test.policy"


def test_names_conditions_and_actions(policy_file: Path) -> None:
    policy_file.write_text(
        "# comment\n@default return EPERM\nread\n\nfcntl: arg1 == F_GETFL || arg1 == 4 && arg2 == O_NONBLOCK # both\n"
        "openat: return ENOENT\nexecve: trap\nmmap: arg2 ~ PROT_EXEC == 0\n"
    )
    policy = read_policy(str(policy_file))
    actions = [(rule.name, rule.action, len(rule.compares)) for rule in policy.rules]
    assert actions == [
        ("read", ALLOW, 0),
        ("fcntl", ALLOW, 1),
        ("fcntl", ALLOW, 2),
        ("openat", 0x50000 | errno.ENOENT, 0),
        ("execve", TRAP, 0),
        ("mmap", ALLOW, 1),
    ]
    assert policy.default == 0x50000 | errno.EPERM
    both = policy.rules[2].compares
    assert [(compare.argument, compare.value) for compare in both] == [(1, 4), (2, os.O_NONBLOCK)]


def test_what_nobody_names_is_deadly_unless_said_otherwise(policy_file: Path) -> None:
    policy_file.write_text("read\n")
    assert read_policy(str(policy_file)).default == TRAP


def test_includes_are_relative_to_the_file_that_includes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "common.policy").write_text("read\n")
    (tmp_path / "a" / "test.policy").write_text("@include ../common.policy\nwrite\n")
    policy = read_policy(str(tmp_path / "a" / "test.policy"))
    assert [rule.name for rule in policy.rules] == ["read", "write"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("oben", "there is no system call 'oben'"),
        ("fcntl: arg6 == 1", "'arg6' is not an argument"),
        ("fcntl: arg1 = 1", "neither argN OP VALUE nor"),
        ("fcntl: arg1 == F_NOSUCH", "'F_NOSUCH' is neither a number nor a known name"),
        ("fcntl: arg1 == -1", "does not fit in 64 bits"),
        ("fcntl: arg1 == 1 ||", "neither argN OP VALUE nor"),
        ("fcntl:", "nothing after 'fcntl'"),
        ("fcntl: return EWHAT", "there is no error 'EWHAT'"),
        ("@default allow", "neither trap nor return"),
        ("@include", "neither @include FILE nor"),
        ("@include nosuch.policy", "cannot read"),
        ("@include test.policy", "has a rule at"),
        ("read", "read has a rule at"),
        ("write; close", "there is no system call 'write; close'"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(policy_file: Path, line: str, complaint: str) -> None:
    policy_file.write_text(f"\nread\n{line}\n")
    with pytest.raises(PolicyError) as error:
        read_policy(str(policy_file))
    assert complaint in str(error.value)
    assert str(error.value).startswith(f"{policy_file}:")


def test_a_file_that_includes_itself_is_no_endless_loop(policy_file: Path) -> None:
    policy_file.write_text("@include test.policy\n")
    with pytest.raises(PolicyError, match="includes more than"):
        read_policy(str(policy_file))


def test_a_compiled_filter_is_kept_until_a_file_changes(tmp_path: Path) -> None:
    common, policy_file = tmp_path / "common.policy", tmp_path / "test.policy"
    common.write_text("read\n")
    policy_file.write_text("@include common.policy\n")
    first = compile_policy(str(policy_file)).program
    kept = tmp_path / "__pycache__" / "test.policy.bpf"
    assert kept.read_bytes().endswith(first)
    assert compile_policy(str(policy_file)).program == first
    common.write_text("read\nwrite\n")
    assert compile_policy(str(policy_file)).program != first


@pytest.mark.parametrize("damage", [b"", b"stratocell filter 2\n\n", b"\xff" * 64, b"other\n1 2 3\n\nx"])
def test_a_damaged_memory_of_a_filter_is_not_believed(policy_file: Path, damage: bytes) -> None:
    policy_file.write_text("read\n")
    right = compile_policy(str(policy_file)).program
    (policy_file.parent / "__pycache__" / "test.policy.bpf").write_bytes(damage)
    assert compile_policy(str(policy_file)).program == right


def test_a_directory_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "test.policy").write_text("read\n")
    (tmp_path / "__pycache__").write_text("in the way")
    assert compile_policy(str(tmp_path / "test.policy")).program


@pytest.mark.parametrize("policy", sorted(ROOT.glob("*/**/*.policy")), ids=lambda path: path.name)
def test_every_policy_of_the_project_compiles(policy: Path) -> None:
    if ".venv" not in policy.parts:
        assert len(compile_rules(read_policy(str(policy)))) > 100


ENOUGH = "write\nexit_group\nrt_sigreturn\nfutex\n"


def enforced(policy_file: Path, text: str, action: str) -> Outcome:
    """Run `action` in a process that is confined by the policy `text`."""
    policy_file.write_text(ENOUGH + text)
    filter_ = compile_policy(str(policy_file))
    return forked(filter_.load, action)


def test_an_allowed_call_works_and_an_unnamed_one_kills(policy_file: Path) -> None:
    assert enforced(policy_file, "getppid\n", "os.getppid()").done
    outcome = enforced(policy_file, "getppid\n", "os.getpgid(0)")
    assert outcome.signal == "SIGSYS"
    assert "seccomp: forbidden system call, number" in outcome.said
    assert "121" in outcome.said


def test_a_returned_error_reaches_the_caller(policy_file: Path) -> None:
    assert enforced(policy_file, "getpgid: return EACCES\n", "os.getpgid(0)").error == errno.EACCES


def test_conditions_look_at_arguments(policy_file: Path) -> None:
    rule = "@default return EPERM\nlseek: arg0 == 0 && arg2 == 1 || arg0 == 1\n"
    assert enforced(policy_file, rule, "os.lseek(0, 0, 1)").error != errno.EPERM
    assert enforced(policy_file, rule, "os.lseek(0, 0, 0)").error == errno.EPERM
    assert enforced(policy_file, rule, "os.lseek(1, 0, 0)").error != errno.EPERM


def test_a_mask_looks_at_some_bits_only(policy_file: Path) -> None:
    rule = "@default return EPERM\npipe2: arg1 ~ O_NONBLOCK == 0\n"
    assert enforced(policy_file, rule, "os.pipe2(os.O_CLOEXEC)").done
    assert enforced(policy_file, rule, "os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)").error == errno.EPERM


def test_self_is_the_process_that_loads_the_filter(policy_file: Path) -> None:
    rule = "@default return EPERM\ngetpid\nkill: arg0 == SELF\n"
    assert enforced(policy_file, rule, "os.kill(os.getpid(), 0)").done
    assert enforced(policy_file, rule, "os.kill(1, 0)").error == errno.EPERM


def test_threads_that_run_already_are_confined_too(policy_file: Path) -> None:
    rule = "@default return EPERM\ngettid\n"
    assert enforced(policy_file, rule, "in_thread(lambda: os.getpgid(0))").error == errno.EPERM
