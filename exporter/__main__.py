"""`python -m exporter` is `cryptoloot-exporter`: what comes before the imports, which take half a second."""

import os
import signal
import sys


def main() -> int:
    """Run the command line; return its exit code."""
    # Signals wait until the command has its handlers. Until then they would end the process, or be lost if
    # it is the first one of a container, and a reload would not happen.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    open_standard_streams()
    from exporter.cli import main as run_command_line  # noqa: PLC0415 - see above

    return run_command_line()


def open_standard_streams() -> None:
    """Open /dev/null in place of standard streams that are closed (`2>&-`).

    Otherwise the next socket or file would get the descriptor, and with it what is meant for the stream.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
