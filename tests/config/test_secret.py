"""secret.py: text that never shows, and a file that is read again when it has changed."""

from __future__ import annotations

import copy
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from exporter.config.secret import Secret, SecretReader, SecretSource, exposed, read_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CANARY = "canary-4711"


def secret_file(path: Path, text: str = CANARY) -> Path:
    path.write_text(text, newline="")
    path.chmod(0o600)
    return path


def test_a_secret_shows_as_a_constant_mask() -> None:
    """repr, str, format and f-strings show the same mask, whatever the secret and the format spec."""
    secret = Secret(CANARY)

    assert {"**********"} == {
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>40}",
        format(Secret("x"), "d"),
    }


def test_a_secret_compares_by_value_and_is_revealed_on_demand() -> None:
    """Equality and hash are those of the value, and never those of a plain string."""
    secret = Secret(CANARY)

    assert CANARY == secret.reveal()
    assert {Secret(CANARY)} == {secret, copy.deepcopy(secret), copy.copy(secret)}
    assert secret not in (CANARY, Secret("other"))


def test_a_secret_does_not_slip_out() -> None:
    """It is neither pickled nor iterated, nor has it a __dict__ or a length."""
    secret = Secret(CANARY)

    leaks: list[Callable[[Any], object]] = [pickle.dumps, list, len, vars, lambda value: value.__getstate__()]
    for leak in leaks:
        with pytest.raises(TypeError) as caught:
            leak(secret)
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize("text", [f"{CANARY}\n", f"{CANARY} \t\r\n\n", f"\ufeff{CANARY}", CANARY])
def test_what_editors_add_to_a_secret_file_is_stripped(tmp_path: Path, text: str) -> None:
    """Spaces, tabs, CR and LF at the end and a byte order mark are not the secret."""
    source = SecretSource(Secret("old"), file=secret_file(tmp_path / "secret", text))

    assert Secret(CANARY) == SecretReader(source).current()


def test_a_rotated_secret_file_is_read_again(tmp_path: Path) -> None:
    """A file of another stamp is seen by changed(), read by current(), and then no longer changed."""
    path = secret_file(tmp_path / "secret")
    reader = SecretReader(SecretSource(Secret(CANARY), file=path))
    before = reader.changed()
    secret_file(path, "rotated-4712")

    assert (False, True) == (before, reader.changed())
    assert (Secret("rotated-4712"), False) == (reader.current(), reader.changed())


def test_a_replaced_file_of_the_same_time_and_size_is_read_again(tmp_path: Path) -> None:
    """A rename over the file shows in the inode even where mtime and size are the same."""
    path, other = secret_file(tmp_path / "secret", "aaaa"), secret_file(tmp_path / "other", "bbbb")
    reader = SecretReader(SecretSource(Secret("aaaa"), file=path))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)

    assert Secret("bbbb") == reader.current()


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    """Same mtime, inode and size: the stat is all that is done."""
    path = secret_file(tmp_path / "secret", "aaaa")
    reader = SecretReader(SecretSource(Secret("aaaa"), file=path))
    status = path.stat()
    path.write_text("bbbb")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert Secret("aaaa") == reader.current()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty"),
        (b"canary-4711\xff", "is not UTF-8"),
        (b"canary-4711\nsecond", "holds a line break"),
        (b"canary-4711" * 400, "is longer than 4096 bytes"),
    ],
)
def test_a_bad_secret_file_keeps_the_last_good_secret(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """Missing, empty or odd: the last good secret stays, the problem says why, and goes when it is mended."""
    path = secret_file(tmp_path / "secret")
    reader = SecretReader(SecretSource(Secret(CANARY), file=path))
    path.unlink() if content is None else path.write_bytes(content)

    assert Secret(CANARY) == reader.current()
    assert reason in str(reader.problem)
    assert CANARY not in str(reader.problem)
    assert not reader.changed()

    secret_file(path, "mended-4712")
    assert (Secret("mended-4712"), None) == (reader.current(), reader.problem)


def test_a_pipe_in_place_of_a_secret_does_not_block(tmp_path: Path) -> None:
    """A FIFO nobody writes to is refused at once."""
    os.mkfifo(tmp_path / "secret")

    reader = SecretReader(SecretSource(Secret(CANARY), file=tmp_path / "secret"))

    assert "is not a regular file" in str(reader.problem)


def test_secrets_of_other_sources_are_constant() -> None:
    """A secret of the environment or the config never changes while the process runs."""
    reader = SecretReader(SecretSource(Secret(CANARY), env="X"))

    assert (Secret(CANARY), False, None) == (reader.current(), reader.changed(), reader.problem)


def test_reading_a_file_tells_who_can_reach_it(tmp_path: Path) -> None:
    """Beside the secret comes the status of the file it was read from."""
    path = secret_file(tmp_path / "secret", f"{CANARY}\n")
    path.chmod(0o640)

    assert (Secret(CANARY), path.stat()) == read_secret(path)


@pytest.mark.parametrize(
    ("expected", "mode", "owner"),
    [
        (False, 0o600, 1000),
        (True, 0o640, 1000),
        (True, 0o604, 1000),
        (False, 0o440, 0),
        (False, 0o640, 0),
        (True, 0o660, 0),
        (True, 0o444, 0),
    ],
)
def test_a_file_of_root_may_be_its_groups(expected: bool, mode: int, owner: int) -> None:
    """Others than the owner make a file exposed; a group that may read what is root's does not."""
    assert expected == exposed(os.stat_result((mode, 0, 0, 1, owner, 1000, 0, 0, 0, 0)))


def test_a_fault_names_no_path(tmp_path: Path) -> None:
    """Neither the error nor what it was raised from holds the file's path: pages may show it."""
    with pytest.raises(ValueError, match=r"^cannot be read: No such file or directory$") as caught:
        read_secret(tmp_path / "secret")

    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_a_path_no_path_can_be_is_a_fault(tmp_path: Path) -> None:
    """A NUL in the path is told like a missing file."""
    with pytest.raises(ValueError, match="characters no path can have"):
        read_secret(tmp_path / "a\0b")


def test_a_directory_is_no_secret(tmp_path: Path) -> None:
    """What opens but is no regular file is refused by kind."""
    with pytest.raises(ValueError, match="is not a regular file"):
        read_secret(tmp_path)
