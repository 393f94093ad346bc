"""`check --online` against an API whose answers look like a success and are none."""

from __future__ import annotations

import contextlib
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from bench.hostile import HOSTILE
from exporter.cli import main
from tests.api.raw_server import gzipped
from tests.e2e.programs import answering

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("logging_as_before")

PAYOUT = {"diff": 1, "value": 2, "payout": 3, "payoutPer1MHashes": 4, "synctime": 5}
USER = {"name": "u1", "total": "5", "withdrawn": "1", "balance": "1.5"}
NO_NUMBER = USER | {"withdrawn": None}
ROW = {"synctime": int(time.time() // 3600 - 2) * 3600, "hashes": 3_600_000, "hashrate": 1000}
MILLISECONDS = ROW | {"synctime": ROW["synctime"] * 1000}
GOOD: dict[str, dict[str, Any]] = {
    "/stats/payout": PAYOUT,
    "/stats/history": {
        "history": [ROW | {"synctime": ROW["synctime"] - 3600 * hours} for hours in range(168)]
    },
    "/user/top": {"users": [USER]},
    "/user/list": {"users": [USER], "nextPage": None},
}
MIB = 1 << 20


class Fault(NamedTuple):
    """An endpoint, what it answers, and the line that `check --online` prints about it."""

    path: str
    answer: dict[str, Any] | bytes
    says: str
    coding: str = ""


def unread(place: str, what: str, count: int = 1) -> str:
    return f"invalid_response: $.{place}: {what}; {count} of {count} entries cannot be read"


FAULTS = {
    "top users without a number": Fault(
        "/user/top", {"users": [NO_NUMBER]}, unread("users[0].withdrawn", "expected a number, got null")
    ),
    "all users without a number": Fault(
        "/user/list", {"users": [NO_NUMBER]}, unread("users[0].withdrawn", "expected a number, got null")
    ),
    "milliseconds": Fault(
        "/stats/history",
        {"history": [MILLISECONDS, MILLISECONDS]},
        unread("history[0].synctime", "expected a number <= 100000000000.0", 2),
    ),
    "dates": Fault(
        "/stats/history",
        {"history": [ROW | {"synctime": "2023-11-14T22:00:00Z"}]},
        unread("history[0].synctime", "expected a number, got a string"),
    ),
    "other names": Fault(
        "/stats/history",
        {"history": [{"time": 1, "hashes": 2, "rate": 3}]},
        unread("history[0]", "object missing required field `synctime`"),
    ),
    "another clock": Fault(
        "/stats/history",
        {"history": [ROW | {"synctime": time.time() + 90_000}]},
        "invalid_response: $.history: 1 of 1 rows begin in the future: this machine's clock says ",
    ),
    "a full page without an end": Fault(
        "/user/list",
        {"users": [USER | {"name": f"u{number}"} for number in range(32)], "next_page": "u32"},
        "invalid_response: $.nextPage: missing on a full page",
    ),
    "a name that fits in no URL": Fault(
        "/user/list",
        {"users": [USER], "nextPage": "x" * 70_000},
        "invalid_response: the parameter page is too long for a URL, so nothing was sent",
    ),
    "a page for ever": Fault(
        "/user/list",
        {"users": [USER], "nextPage": "\ud800"},
        "invalid_response: nextPage names a page that was there before",
    ),
    "empty lists": Fault(
        "/user/top", HOSTILE["empty lists"](MIB), "invalid_response: $.success: expected true"
    ),
    "many empty lists": Fault(
        "/user/top",
        HOSTILE["empty lists"](15 * MIB),
        "too_large: the body has more than 4194304 bytes: see api.max_response_bytes",
        "gzip",
    ),
    "another compression": Fault(
        "/user/top", {"users": [USER]}, "invalid_json: the body has a Content-Encoding", "br"
    ),
}


class Api(ThreadingHTTPServer):
    """Answers well, but for one endpoint; `pages` are those that were asked for."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault = fault
        self.pages: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        self.server.pages += parse_qs(target.query, errors="surrogatepass").get("page", [])
        fault = (
            self.server.fault if target.path == self.server.fault.path else Fault("", GOOD[target.path], "")
        )
        body = fault.answer
        if not isinstance(body, bytes):
            body = json.dumps({"success": True, **body}).encode()
        body = gzipped(body) if fault.coding == "gzip" else body
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if fault.coding:
            self.send_header("Content-Encoding", fault.coding)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be silent."""


@contextlib.contextmanager
def configured(fault: Fault, directory: Path) -> Iterator[tuple[Path, Api]]:
    """Let an API answer; yield the config file of one site of it, and the API."""
    file = directory / "config.yaml"
    with answering(Api(fault)) as api:
        document = {
            "api": {"url": f"http://127.0.0.1:{api.server_address[1]}"},
            "sites": [{"name": "shop", "secret": "canary-1234"}],
            "poll": {"all_users": {"enabled": True, "page_size": 32}},
        }
        file.write_text(json.dumps(document))
        yield file, api


def checked(fault: Fault, directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, Api]:
    """Return the exit code, what is printed about failures and warnings, and the API."""
    with configured(fault, directory) as (file, api):
        code = main(["check", "--online", f"--config.file={file}"])
    err = capsys.readouterr().err
    assert "canary" not in err
    return code, "".join(line for line in err.splitlines(keepends=True) if "sites[0].secret" not in line), api


@pytest.mark.parametrize("name", FAULTS)
def test_an_answer_that_says_nothing_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1, and one line says which site and endpoint, the reason, and what is wrong where."""
    fault = FAULTS[name]
    code, printed, _ = checked(fault, tmp_path, capsys)

    assert 1 == code
    assert 1 == len(printed.splitlines())
    assert printed.startswith(f"failed: shop {fault.path}: {fault.says}")


def test_half_a_surrogate_pair_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page named by a visitor whose name is no text is asked for over the wire."""
    _, _, api = checked(FAULTS["a page for ever"], tmp_path, capsys)

    assert ["\ud800"] == api.pages


def test_an_entry_that_cannot_be_read_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of two: the values are those of the other, and the place of the first that is left out is told."""
    code, printed, _ = checked(Fault("/user/list", {"users": [USER, NO_NUMBER]}, ""), tmp_path, capsys)

    assert 0 == code
    assert (
        "warning: shop /user/list: 1 entry was not read: $.users[1].withdrawn: expected a number, got null\n"
        == printed
    )


def test_backfilling_tells_of_rows_that_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written is without them, and that is said with the place of the first."""
    fault = Fault("/stats/history", {"history": [ROW, MILLISECONDS]}, "")
    with configured(fault, tmp_path) as (file, _):
        flags = ["--output=/dev/null", "--until=now", "--label=job=a", "--label=instance=b"]
        code = main(["backfill", f"--config.file={file}", *flags])
    warning = "warning: shop /stats/history: 1 entry was not read: $.history[1].synctime: expected "

    assert 0 == code
    assert capsys.readouterr().err.startswith(warning)


@pytest.mark.parametrize(
    ("hours", "rate", "reason"),
    [
        (30, 1000, "too few days to tell what is usual: watched for zero and for missing rows only"),
        (168, 50, "hours vary too much below 100 H/s: drops are not reported, missing rows are"),
    ],
)
def test_a_site_whose_drops_cannot_be_judged_is_told(
    hours: int, rate: float, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A young or very small site is no failure, and its owner learns what the alerts will not see."""
    rows = [
        {"synctime": ROW["synctime"] - 3600 * back, "hashes": rate * 3600, "hashrate": rate}
        for back in range(hours)
    ]
    code, printed, _ = checked(Fault("/stats/history", {"history": rows}, ""), tmp_path, capsys)

    assert (0, f"warning: shop /stats/history: {reason}\n") == (code, printed)


@pytest.mark.parametrize("coding", ["UTF-8", "none"])
def test_a_charset_is_no_compression(coding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that names its charset in the wrong header is read."""
    code, printed, _ = checked(Fault("/user/top", {"users": [USER]}, "", coding), tmp_path, capsys)

    assert (0, "") == (code, printed)
