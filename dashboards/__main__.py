"""Write the dashboards beside this file: `python -m dashboards`; `--check` only compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import exporter, site, sites

HERE = Path(__file__).parent


def written(directory: Path = HERE) -> dict[Path, str]:
    """Return each file's content, as it should be."""
    boards = [module.dashboard().build() for module in (sites, site, exporter)]
    return {
        directory / f"{board.uid}.json": JSONEncoder(sort_keys=True, indent=2).encode(board) + "\n"
        for board in boards
    }


def main(arguments: list[str] | None = None, directory: Path = HERE) -> int:
    """Write what differs; with `--check` return 1 instead when something does."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a file differs")
    check = parser.parse_args(arguments).check
    stale = {
        path: content
        for path, content in written(directory).items()
        if not path.exists() or path.read_text() != content
    }
    for path, content in stale.items():
        if check:
            sys.stdout.write(f"{path.name}: differs from the code: run python -m dashboards\n")
        else:
            path.write_text(content)
            sys.stdout.write(f"{path.name}: written\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
