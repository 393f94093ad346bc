"""The golden runs: today's behaviour, seen from outside, held to what was recorded."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.golden.recording import DATA, SUFFIX, differences, file_of, play, recorded
from tests.golden.scenarios import SCENES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[str]]]:
    """Play the runs that are asked for, in two processes: what other tests left behind changes nothing."""
    items = request.session.items
    names = [name for name in SCENES if any(item.name == f"{_TEST}[{name}]" for item in items)]
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield {name: pool.submit(play, name) for name in names}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", SCENES)
def test_behaviour_is_as_recorded(played: dict[str, Future[str]], name: str) -> None:
    """Metrics, status, answers, log events and requests of a run are those recorded, moment by moment.

    A change of behaviour that is wanted is recorded by `python -m tests.golden`.
    """
    changed = differences(recorded(name), played[name].result())

    assert not changed, changed  # as the message, since pytest shortens what it compares


def test_every_recording_has_its_run() -> None:
    """No file is left over, none is missing, and all of them together are small."""
    files = sorted(DATA.iterdir())

    assert sorted(file_of(name) for name in SCENES) == files
    assert {SUFFIX} == {"".join(file.suffixes) for file in files}
    assert sum(file.stat().st_size for file in files) < 450_000


_TEST = test_behaviour_is_as_recorded.__name__
