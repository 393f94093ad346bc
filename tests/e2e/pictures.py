"""Draw the dashboards: `python -m tests.e2e.pictures PREVIEW OUT`; PREVIEW is a built dashboard-preview.

Two weeks are played, so that the alerts know the same hour a week ago, as they do after a week in production.
In OUT there is a picture of each dashboard, dark and light, wide and narrow, quiet and with incidents.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from exporter.simulator import DAY
from tests.conftest import REPOSITORY
from tests.e2e.week import INCIDENTS, QUIET, Stage, rehearsed, staged

BOARDS = sorted((REPOSITORY / "dashboards").glob("*.json"))
THEMES = ("dark", "light")
WIDTHS = ("1600", "1000")
SCENES = {"quiet": QUIET, "incidents": INCIDENTS}
LENGTH = 15 * DAY
LOADED = 70  # seconds until Prometheus has found new blocks, and polls have succeeded often enough to fail


def drawn(preview: Path, board: Path, stage: Stage, out: Path, *options: str) -> list[str]:
    """Draw a dashboard into a file; return what is wrong with it."""
    source = ("--prometheus", f"http://127.0.0.1:{stage.prometheus}", "--scrape-interval", "2m")
    command = ("node", "preview.mjs", "--dashboard", str(board), *source, "--out", str(out), *options)
    ran = subprocess.run(command, cwd=preview, capture_output=True, text=True, check=False, timeout=300)
    if not ran.stdout:
        return [ran.stderr]
    problems: list[str] = json.loads(ran.stdout)["problems"]
    return problems


def main() -> None:
    """Play, draw, and say what is wrong: a panel without data may be right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preview", type=Path, help="directory of a built dashboard-preview")
    parser.add_argument("out", type=Path, help="directory for the pictures")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name, scene in SCENES.items():
        with tempfile.TemporaryDirectory() as new, staged(Path(new), scene._replace(length=LENGTH)) as stage:
            rehearsed(Path(new), stage)
            time.sleep(LOADED)
            for board, theme, width in product(BOARDS, THEMES, WIDTHS):
                file = out / f"{board.stem}-{name}-{theme}-{width}.png"
                options = ["--theme", theme, "--width", width]
                if board.stem == "cryptoloot-site":
                    options += ["--var", "site=game"]
                wrong = drawn(arguments.preview, board, stage, file, *options)
                sys.stdout.write("\n  ".join([file.name, *wrong]) + "\n")


if __name__ == "__main__":
    main()
