"""Logging: one chain, no secrets, and nothing hostile breaks a line or stops the daemon."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from exporter import log
from exporter.config.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CANARY = "canary/4711+ü"
logger = structlog.get_logger()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)


def console(level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    log.setup(level, "console", stream)
    return stream


def as_json(level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    log.setup(level, "json", stream)
    return stream


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(text: str) -> None:
    raise ValueError(text)


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError(CANARY)


def test_json_has_event_level_and_utc_time() -> None:
    """A line of JSON per event: its stable name, its level, an ISO time in UTC, and the values."""
    stream = as_json()
    logger.warning("poll_failed", site="a", reason="timeout", after=1.5, ok=False, code=None)

    (event,) = events(stream)

    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "poll_failed",
        "level": "warning",
        "site": "a",
        "reason": "timeout",
        "after": 1.5,
        "ok": False,
        "code": None,
    }


def test_console_shows_the_same_for_people() -> None:
    """The console shows level, name and values, quoting where a value would be ambiguous."""
    stream = console()
    structlog.get_logger().bind(logger="poller").warning(
        "poll_failed", site="a", user='say "hi" x=1', tries=[1, 2]
    )

    line = stream.getvalue()

    assert all(part in line for part in ("[warning", "poll_failed", "[poller]", "site=a", "tries=[1, 2]"))
    assert r'user="say \"hi\" x=1"' in line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "is_json"), [(io.StringIO(), True), (Terminal(), False)])
def test_format_follows_the_terminal(stream: io.StringIO, is_json: bool) -> None:
    """Without a format it is the console's on a terminal, else JSON."""
    log.setup("info", None, stream)
    logger.info("started")

    assert is_json == stream.getvalue().startswith("{")


def test_logfmt_has_the_same_pairs() -> None:
    """As Prometheus' daemons write it: key=value, in quotes where a value is more than one word."""
    stream = io.StringIO()
    log.setup("info", "logfmt", stream)
    logger.warning(
        "poll_failed", site="a", detail='say "hi" x=1', after=1.5, ok=False, code=None, tries=[1, "b"], end=1
    )

    values = r"""site=a detail="say \"hi\" x=1" after=1.5 ok=false code=null tries="[1, \"b\"]" end=1"""
    (line,) = stream.getvalue().splitlines()
    assert f"level=warning event=poll_failed {values}" == line.partition("Z ")[2]
    assert line.startswith("timestamp=20")


LOGFMT = re.compile(r"""([A-Za-z0-9_.-]+)=("(?:[^"\\\x00-\x1f\x7f-\uffff]|\\.)*"|[^\s"=\\]*)(?: |$)""")


@given(
    st.dictionaries(
        st.text(max_size=5), st.text(max_size=30) | st.integers() | st.lists(st.text()), max_size=3
    )
)
def test_logfmt_can_be_read_back(values: dict[str, Any]) -> None:
    """Whatever the keys and values, a line is pairs of a plain key and a word or a JSON string, all ASCII."""
    stream = io.StringIO()
    log.setup("info", "logfmt", stream)
    logger.info("event", pairs=values, **{f"key {key}": value for key, value in values.items()})

    (line,) = stream.getvalue().splitlines()
    pairs = LOGFMT.findall(line)
    assert line.isascii()
    assert "".join(f"{key}={value} " for key, value in pairs).rstrip() == line.rstrip()
    assert all(json.loads(value) is not None for _, value in pairs if value.startswith('"'))


@pytest.mark.parametrize("level", ["warn", "WARN", "warning"])
def test_warn_is_warning(level: str) -> None:
    """The level's name in Prometheus' daemons is taken too."""
    stream = as_json(level)
    logger.info("quiet")
    logger.warning("loud")

    assert ["warning"] == [event["level"] for event in events(stream)]


def test_levels_below_are_dropped() -> None:
    """Events under the level do not appear."""
    stream = as_json("warning")
    logger.info("quiet")
    logger.critical("loud")

    assert ["loud"] == [event["event"] for event in events(stream)]


@pytest.mark.parametrize(("level", "form"), [("loud", "json"), ("info", "xml")])
def test_unknown_levels_and_formats_are_refused(level: str, form: str) -> None:
    """A level or format there is not raises ValueError with those there are."""
    with pytest.raises(ValueError, match="expected one of"):
        log.setup(level, form, io.StringIO())


def test_a_later_setup_reaches_earlier_loggers() -> None:
    """Loggers made at import, and used already, write to the stream set last, and to it alone."""
    first = as_json()
    logger.info("one")
    second = as_json()
    logger.info("two")
    logging.getLogger("foreign").warning("three")

    assert ["one"] == [event["event"] for event in events(first)]
    assert ["two", "library_message"] == [event["event"] for event in events(second)]


def test_library_records_pass_the_same_chain() -> None:
    """Warnings of the standard library's loggers appear with a stable name, redacted; infos do not."""
    stream = as_json("debug")
    logging.getLogger("uvicorn.access").info("GET / 200")
    logging.getLogger("uvicorn.error").error("GET /x?secret=%s failed", "abcd1234")

    (event,) = events(stream)

    assert (event["event"], event["level"], event["logger"]) == ("library_message", "error", "uvicorn.error")
    assert event["message"] == "GET /x?secret=********** failed"


def test_a_library_record_that_does_not_fit_its_arguments_is_logged() -> None:
    """Wrong arguments of a foreign record lose the arguments, not the record, and raise nothing."""
    stream = as_json()
    foreign = logging.getLogger("x")
    foreign.handlers = logging.getLogger().handlers[-1:]
    foreign.propagate = False  # pytest's own handler would raise
    foreign.log(999, "%d of %d", "one")

    (event,) = events(stream)

    assert (event["message"], event["level"]) == ("%d of %d", "critical")


@pytest.mark.parametrize("name", ["httpx", "httpcore", "httpcore.http11"])
def test_http_client_loggers_are_silent(name: str) -> None:
    """Httpx and httpcore log whole URLs, so nothing of theirs appears, whatever the level."""
    stream = as_json("debug")
    foreign = logging.getLogger(name)
    foreign.critical("GET /?secret=abcd1234")
    logging.getLogger("httpcore.http11").setLevel(logging.DEBUG)
    foreign.critical("GET /?secret=abcd1234")

    assert stream.getvalue() == ""


def test_queries_are_masked_everywhere() -> None:
    """`secret=…` is masked in values, nested ones, keys, other queries and reprs, and nothing besides."""
    stream = as_json()
    logger.info(
        "called ?secret=s1aa",
        url=httpx.URL("https://example.org/stats?secret=s2aa&count=5"),
        nested={"urls": ["/x?a=1&secret=s3aa#f"], "secret": "s4aa", "?secret=s5aa": {1}},
        inner="/proxy?url=%2Fx%3Fsecret%3Ds6aa",
        params="{'secret': 's7aa', 'count': 5}",
        raw=b"GET /?SECRET=s8aa",
        secret="s9aa",
        deep=[[[[[[[["?secret=s0aa"]]]]]]]],
    )

    text = stream.getvalue()

    assert not any(f"s{digit}aa" in text for digit in range(10))
    assert all(kept in text for kept in ("&count=5", "#f", "'count': 5"))


def test_concealed_values_are_masked_in_every_form() -> None:
    """A registered secret is masked as it is, as URLs quote it, and as reprs and JSON write it."""
    log.conceal([CANARY])
    stream = as_json()
    quoted = httpx.URL("https://example.org/", params={"s": CANARY})
    logger.info("x", a=f"it is {CANARY}!", b=str(quoted), c=[f"{CANARY}{CANARY}"], d="canary%2F4711%2B%C3%BC")

    (event,) = events(stream)

    assert ("it is **********!", ["********************"]) == (event["a"], event["c"])
    assert "**********" == event["d"]
    assert "4711" not in stream.getvalue()


def test_short_values_are_not_concealed() -> None:
    """A value under 4 characters would shred the log, and is left alone."""
    log.conceal(["e", "abc"])

    assert log.redacted("abc eee") == "abc eee"


def test_the_registry_is_bounded_and_keeps_the_latest() -> None:
    """Past the bound, the values given longest ago go; one given again counts as new."""
    concealer = log.Concealer(bound=2)
    for value in ("aaaa1", "bbbb2", "aaaa1", "cccc3"):
        concealer.add(value)

    assert "********** bbbb2 **********" == concealer.hide("aaaa1 bbbb2 cccc3")


def test_the_longest_concealed_value_wins() -> None:
    """Of two secrets that begin alike, the whole longer one is hidden."""
    concealer = log.Concealer(bound=9)
    for value in ("abcd", "abcdefgh", "abcde"):
        concealer.add(value)

    assert "**********|**********f" == concealer.hide("abcdefgh|abcdef")


@given(st.text(min_size=4), st.text(), st.text())
def test_a_concealed_value_never_survives(value: str, before: str, after: str) -> None:
    """Wherever a concealed value stands in a text, it is gone afterwards (unless the mask spells it)."""
    concealer = log.Concealer(bound=100)
    concealer.add(value)

    parts = concealer.hide(f"{before}{value}{after}").split(log.MASK)

    assert not any(value in part for part in parts)


def url_escaped(text: str, case: Callable[[str], str]) -> str:
    return re.sub("%..", lambda escape: case(escape[0]), quote_plus(text, errors="surrogatepass"))


FORMS: dict[str, Callable[[str], str]] = {
    "URL": lambda text: url_escaped(text, str.upper),
    "URL in small letters": lambda text: url_escaped(text, str.lower),
    "URL in mixed letters": lambda text: url_escaped(
        text, lambda escape: escape[:2].lower() + escape[2].upper()
    ),
    "URL with slashes": lambda text: quote(text, errors="surrogatepass"),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in capital letters": lambda text: re.sub(
        r"\\u[0-9a-f]{4}", lambda escape: r"\u" + escape[0][2:].upper(), json.dumps(text)[1:-1]
    ),
    "JSON beyond ASCII": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "repr": lambda text: repr(text)[1:-1],
    "repr of bytes": lambda text: repr(text.encode("utf-8", "surrogatepass"))[2:-1],
}


@pytest.mark.parametrize("form", FORMS)
@given(value=st.text(min_size=4) | st.text("aé\"'\\%/+ ü\U0001f600", min_size=4))
@example(value='canary-4711-é"')
@example(value="canary%C3%bc\\u00FC")
def test_no_form_of_a_concealed_value_survives(form: str, value: str) -> None:
    """A concealed value is hidden in each form of URLs, JSON and reprs, in letters of either case."""
    concealer = log.Concealer(bound=100)
    concealer.add(value)

    assert f"<{log.MASK}>" == concealer.hide(f"<{FORMS[form](value)}>")


def test_tracebacks_are_plain_and_redacted() -> None:
    """An exception is a traceback without locals, its causes included, secrets masked."""
    log.conceal([CANARY])
    stream = as_json()
    local = "a-local-value"
    try:
        try:
            fail(f"GET /?secret=abcd1234 {CANARY}")
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        logger.exception("loop_crashed")

    (event,) = events(stream)

    assert "RuntimeError: outer" in event["exception"]
    assert not any(hidden in stream.getvalue() for hidden in ("abcd1234", "4711", local))


def test_no_config_secret_shows_in_a_log() -> None:
    """A Secret that is logged by mistake is its mask, in both formats."""
    for stream in (as_json(), console()):
        logger.info("loaded", value=Secret(CANARY), values=[Secret(CANARY)], text=f"{Secret(CANARY)}")

        assert "4711" not in stream.getvalue()


def test_newlines_and_controls_never_make_a_line() -> None:
    """On the console, control characters in values, keys and names are escaped: one event, one line."""
    stream = console()
    structlog.get_logger().bind(logger="x\ny").info(
        "a\nb", user="\x1b[2J\n2026-01-01 [info] forged\u2028\u202e", **{"k\ny": "\x9b"}
    )

    text = stream.getvalue()

    assert text.count("\n") == 1
    assert not any(char in text[:-1] for char in "\n\x1b\x9b\u2028\u202e")


def test_an_exceptions_text_cannot_forge_a_line() -> None:
    """A traceback is indented on the console, so no line of it begins like an event."""
    stream = console()
    try:
        fail("x\n2026-01-01T00:00:00Z [info] forged\x1b[2J")
    except ValueError:
        logger.exception("loop_crashed")

    _first, *lines = stream.getvalue().splitlines()

    assert {"    "} == {line[:4] for line in lines}
    assert "\x1b" not in stream.getvalue()


def test_an_exception_value_that_is_no_traceback_is_shown() -> None:
    """`exception=` of any type is shown, not stumbled over."""
    stream = console()
    logger.info("x", exception=4711)

    assert stream.getvalue().endswith("\n    4711\n")


def test_values_json_does_not_know_are_shown_by_a_safe_repr() -> None:
    """Foreign objects, exceptions, odd numbers and hostile reprs are text; nothing raises."""
    stream = as_json()
    logger.info(
        "x",
        a=Hostile(),
        b=ValueError("why"),
        c=float("nan"),
        d=10**5000,
        e={1: (2, {3}), 1 << 99: 4},
        f=b"\xff",
    )

    (event,) = events(stream)

    assert event["a"] == "<Hostile that cannot be shown>"
    assert (event["b"], event["c"], event["e"], event["f"]) == (
        "ValueError: why",
        "nan",
        {"1": [2, [3]], hex(1 << 99): 4},
        r"b'\xff'",
    )
    assert event["d"].startswith("0x")


def test_long_values_are_cut_in_the_middle() -> None:
    """A value of a megabyte keeps its beginning and its end."""
    stream = as_json()
    logger.info("x", value="a" + "x" * 1_000_000 + "z")

    (event,) = events(stream)

    assert len(event["value"]) < 20_000
    assert ("a", "z") == (event["value"][0], event["value"][-1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.characters(categories=["Cs", "Cc"]), st.sampled_from(["json", "console"]))
def test_any_text_is_one_line_of_ascii_safe_output(text: str, form: str) -> None:
    """Whatever a user is called, lone surrogates included, an ASCII stream gets one line and no exception."""
    raw = io.BytesIO()
    log.setup("info", form, io.TextIOWrapper(raw, encoding="ascii", newline=""))
    logger.info("x", user=text, users=[text, {text: text}])

    assert raw.getvalue().decode("ascii").count("\n") == 1
    log.setup("info", form, io.StringIO())


def test_a_closed_stream_loses_lines_and_nothing_else() -> None:
    """Logging to a closed stream raises nothing."""
    stream = as_json()
    stream.close()

    logger.error("x")
    logging.getLogger("x").error("y")

    assert stream.closed


def test_a_broken_pipe_does_not_stop_the_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    """When the reader of the log went away, events are dropped in silence."""
    reader, writer = os.pipe()
    os.close(reader)
    raw = os.fdopen(writer, "wb", buffering=0)
    log.setup("info", "json", io.TextIOWrapper(raw, write_through=True))
    for _ in range(3):
        logger.error("x")
    raw.close()

    assert ("", "") == capsys.readouterr()


def test_setup_leaves_foreign_handlers_alone() -> None:
    """Only the handler of an earlier setup is replaced; a test runner's own stay."""
    foreign = logging.NullHandler()
    logging.getLogger().addHandler(foreign)
    as_json()
    log.setup("info", "json", sys.stderr)

    handlers = logging.getLogger().handlers

    assert foreign in handlers
    assert 1 == sum(isinstance(handler, log.LibraryHandler) for handler in handlers)
