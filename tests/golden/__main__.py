"""Write the recordings again: `python -m tests.golden [NAME ...]`.

Do this only when a change of behaviour is wanted, and read the differences that the test shows first: what is
written here is what the test takes for right from then on. A refactoring needs no new recording.
"""

from __future__ import annotations

import sys

from tests.golden.recording import DATA, SUFFIX, differences, file_of, play, recorded, write
from tests.golden.scenarios import SCENES


def main(names: list[str]) -> None:
    """Record these runs, or all; leave files alone whose text is the same, remove those of no run."""
    for name in names or SCENES:
        text = play(name)
        if differences(recorded(name), text):
            write(name, text)
            sys.stdout.write(f"{name}: {file_of(name).stat().st_size:,} bytes\n")
    known = {file_of(name) for name in SCENES}
    for file in set(DATA.glob(f"*{SUFFIX}")) - known:
        file.unlink()
        sys.stdout.write(f"{file.name}: removed\n")


main(sys.argv[1:])
