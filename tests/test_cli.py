from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest

from exporter import __version__, simulator
from exporter.cli import main
from exporter.config.problems import COUNTED
from exporter.simulator import World
from exporter.web.listening import address_of, listen
from exporter.web.server import Server
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    Captured = pytest.CaptureFixture[str]

SECRET = "canary/of&demo=+% é"
SIX_MISTAKES = REPOSITORY / "tests" / "data" / "config" / "six-mistakes.yaml"
GOOD = """
api: {timeout: 7s}
sites:
  - {name: shop, secret_env: SHOP_SECRET}
  - {name: blog, secret: canary-of-blog}
poll: {payout: {interval: 90s}}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_as_before: None) -> None:  # noqa: ARG001
    """Run in an empty directory and an environment without secrets."""
    monkeypatch.chdir(tmp_path)
    for name in ("CRYPTOLOOT_SECRET", "CRYPTOLOOT_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)


def misused(*arguments: str) -> int | str | None:
    """Return the code with which the parser ends the program."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def reports(lines: str) -> list[str]:
    """Return what was written, without the log."""
    return [line for line in lines.splitlines() if not line.startswith("{")]


@contextmanager
def simulated() -> Iterator[str]:
    """Serve the simulator in a thread; yield its URL."""
    world = World(1, time.time)
    world.add("demo", SECRET, users=5)
    (listening,) = listen(["127.0.0.1:0"])
    server = Server(simulator.app(world))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield f"http://{address_of(listening)}"
    finally:
        server.stop()
        thread.join(10)
        listening.close()


def write_site(directory: Path, url: str) -> None:
    document = {"api": {"url": url}, "sites": [{"name": "demo", "secret_env": "DEMO_SECRET"}]}
    (directory / "config.yaml").write_text(json.dumps(document))


# ------------------------------------------------------------------------------------------------- usage


def test_version(capsys: Captured) -> None:
    """`--version` names the program and its version, and is no failure."""
    assert 0 == misused("--version")
    assert f"cryptoloot-exporter {__version__}\n" == capsys.readouterr().out


def test_help_names_the_commands(capsys: Captured) -> None:
    """`--help` lists every command."""
    assert 0 == misused("--help")

    text = capsys.readouterr().out
    assert [] == [name for name in ("run", "demo", "check", "simulate", "health") if name not in text]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["--frobnicate"],
        ["check", "--frobnicate"],
        ["check", "surplus"],
        ["check", "--config.fil=config.yaml"],  # no abbreviations: they would change meaning with a new flag
        ["run", "--secret=canary"],
        ["health"],
        ["demo", "--users=0"],
        ["demo", "--users=many"],
        ["demo", "--seed=one"],
        ["simulate", "--users=-1"],
    ],
)
def test_wrong_usage_is_2(capsys: Captured, arguments: list[str]) -> None:
    """What the parser does not take ends with 2 and how to use it, and nothing on stdout."""
    assert 2 == misused(*arguments)

    written = capsys.readouterr()
    assert "" == written.out
    assert written.err.startswith("usage: cryptoloot-exporter")


@pytest.mark.parametrize("flag", ["--log.level=loud", "--log.format=xml"])
def test_log_flags_have_their_choices(capsys: Captured, flag: str) -> None:
    """A level or a format there is not is refused, with those there are."""
    assert 2 == misused("check", flag)

    text = capsys.readouterr().err
    assert "debug" in text
    assert "console" in text


@pytest.mark.parametrize("flag", ["--log.level=warn", "--log.level=warning", "--log.format=logfmt"])
def test_log_flags_take_what_prometheus_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, flag: str
) -> None:
    """`warn` and `logfmt`, as Prometheus' daemons call them, are taken beside our own."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")

    assert 0 == main(["check", flag])
    assert "" == capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- check


def test_check_prints_what_a_config_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """A good config is 0: its meaning with defaults filled in and secrets masked, warnings beside it."""
    monkeypatch.setenv("SHOP_SECRET", "canary-of-shop")
    (tmp_path / "config.yaml").write_text(GOOD)

    assert 0 == main(["check"])
    out, err = capsys.readouterr()
    assert [] == [text for text in ("timeout: 7s", "1m30s", "SHOP_SECRET", "blog") if text not in out]
    assert "canary" not in out + err
    assert err.startswith("warning: config.yaml: sites[1].secret (line 5): ")
    assert 1 == err.count("\n")


def test_check_warns_of_nothing_when_all_is_well(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """A config without anything unwise leaves stderr empty."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")

    assert 0 == main(["check"])
    assert "" == capsys.readouterr().err


def test_check_tells_all_mistakes_at_once(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Six mistakes are six lines, each with its path, and 2."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")
    paths = [
        "api.timout",
        "api.url",
        "sites[1].name",
        "sites[1].secret_env",
        "sites[1].poll.top_users.count",
        "poll.payout.interval",
    ]

    assert 2 == main(["check", f"--config.file={SIX_MISTAKES}"])
    out, err = capsys.readouterr()
    first, *problems = err.splitlines()
    assert "" == out
    assert first.startswith(str(SIX_MISTAKES))
    assert paths == [problem.split()[0] for problem in problems]


def test_run_tells_the_same_mistakes(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """`run` with a bad config is 2 and says what `check` says, before it listens or polls."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")
    flag = f"--config.file={SIX_MISTAKES}"

    assert 2 == main(["check", flag])
    checked = capsys.readouterr().err
    assert 2 == main(["run", "--web.listen-address=127.0.0.1:0", flag])
    assert checked == capsys.readouterr().err


def test_nothing_given_tells_what_to_do(capsys: Captured) -> None:
    """Without file and environment: 2, and both ways out are named."""
    assert 2 == main(["check"])

    text = capsys.readouterr().err
    assert [] == [way for way in ("--config.file", "CRYPTOLOOT_SECRET") if way not in text]


@pytest.mark.parametrize("name", ["config.yaml", "nowhere/config.yaml", "."])
def test_a_file_that_was_asked_for_must_be_there(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, name: str
) -> None:
    """A given --config.file that cannot be read is 2, whatever the environment could do instead."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")

    assert 2 == main(["check", f"--config.file={name}"])
    out, err = capsys.readouterr()
    assert "" == out
    assert err.startswith(f"{name}: ")


def test_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """CRYPTOLOOT_SECRET without a file is one site named default."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")

    assert 0 == main(["check"])
    out = capsys.readouterr().out
    assert "- name: default\n  secret_env: CRYPTOLOOT_SECRET\n" in out
    assert "canary" not in out


def test_the_file_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Where config.yaml exists, the environment alone adds no site."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")
    monkeypatch.setenv("SHOP_SECRET", "canary")
    (tmp_path / "config.yaml").write_text(GOOD)

    assert 0 == main(["check"])
    assert "default" not in capsys.readouterr().out


def test_check_online_shows_what_would_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """With an API that answers: 0, and the page follows the config on stdout."""
    monkeypatch.setenv("DEMO_SECRET", SECRET)
    with simulated() as url:
        write_site(tmp_path, url)
        code = main(["check", "--online"])
    out, err = capsys.readouterr()

    assert (0, []) == (code, reports(err))
    assert 'cryptoloot_network_difficulty{site="demo"}' in out
    assert 'cryptoloot_user_hashes_total{site="demo",user="johnd"}' in out
    assert "canary" not in out + err


def test_check_online_is_as_quiet_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The log flags hold for `check` too: with debug and json each poll is a JSON line on stderr."""
    monkeypatch.setenv("DEMO_SECRET", SECRET)
    with simulated() as url:
        write_site(tmp_path, url)
        main(["check", "--online", "--log.level=debug", "--log.format=json"])
        talkative = capsys.readouterr().err
        main(["check", "--online", "--log.level=error"])

    assert ["poll_succeeded"] * 3 == [json.loads(line)["event"] for line in talkative.splitlines()]
    assert "" == capsys.readouterr().err


def test_check_online_tells_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """With a wrong secret: 1, a line for each endpoint with the reason, and the secret nowhere."""
    monkeypatch.setenv("DEMO_SECRET", "wrong-canary&=+")
    with simulated() as url:
        write_site(tmp_path, url)
        code = main(["check", "--online"])
    out, err = capsys.readouterr()

    failed = [
        f"failed: demo {path}: invalid_secret: the API answered invalid_secret: "
        "it does not know the secret from the environment variable DEMO_SECRET"
        for path in ("/stats/history", "/stats/payout", "/user/top")
    ]
    assert 1 == code
    assert failed == sorted(reports(err))
    assert 'cryptoloot_up{endpoint="/user/top",site="demo"} 0' in out
    assert "canary" not in out + err


class Streams(NamedTuple):
    """stdout and stderr of a locale that knows few characters."""

    out: TextIOWrapper
    err: TextIOWrapper


@contextlib.contextmanager
def speaking(encoding: str) -> Iterator[Streams]:
    """Replace stdout and stderr by those of a locale."""
    strict = Streams(*(TextIOWrapper(BytesIO(), encoding=encoding, errors="strict") for _ in range(2)))
    with contextlib.redirect_stdout(strict.out), contextlib.redirect_stderr(strict.err):
        yield strict


def written(stream: TextIOWrapper) -> bytes:
    stream.flush()
    return cast("BytesIO", stream.buffer).getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_pages_are_utf8_in_every_locale(tmp_path: Path, encoding: str) -> None:
    """`check --online` prints any name as the page has it, and tells failures in what the locale knows."""
    site = {"name": "caf\u00e9 \U0001f911", "secret": "canary"}
    document = {"api": {"url": "http://127.0.0.1:1"}, "sites": [site]}
    (tmp_path / "config.yaml").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    with speaking(encoding) as streams:
        code = main(["check", "--online"])

    assert 1 == code
    assert 'site="caf\u00e9 \U0001f911"' in written(streams.out).decode()
    assert b"\\U0001f911 /stats/payout: connect: " in written(streams.err)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_openmetrics_are_utf8_in_every_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """`backfill --output -` writes what promtool reads, whatever the labels hold."""
    monkeypatch.setenv("DEMO_SECRET", SECRET)
    with speaking(encoding) as streams, simulated() as url:
        write_site(tmp_path, url)
        code = main(["backfill", "--until=now", "--output=-", "--label=a=caf\u00e9 \U0001f911"])

    lines = written(streams.out).decode().splitlines()
    assert (0, "# EOF") == (code, lines[-1])
    assert [] == [line for line in lines if line[0] != "#" and 'a="caf\u00e9 \U0001f911"' not in line]


def test_check_tells_an_environment_that_run_would_refuse(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """A proxy that cannot be used is 2, and an entry of NO_PROXY that cannot be read is a warning."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")
    Path("config.yaml").write_text(
        "{api: {proxy: environment}, sites: [{name: a, secret_env: CRYPTOLOOT_SECRET}]}"
    )
    monkeypatch.setenv("https_proxy", "socks5://proxy")
    refused = main(["check"]), capsys.readouterr().err
    monkeypatch.setenv("https_proxy", "http://proxy")
    monkeypatch.setenv("no_proxy", "fd00::/200")
    warned = main(["check"]), capsys.readouterr().err

    assert (2, True) == (refused[0], "https_proxy names no HTTP proxy" in refused[1])
    assert (0, True) == (
        warned[0],
        warned[1].startswith("warning: NO_PROXY: the entry 'fd00::/200' cannot be read"),
    )


# ------------------------------------------------------------------------------------------------- the rest


def test_health_without_a_listener(capsys: Captured) -> None:
    """Nobody behind the socket is 1, and the reason names the socket."""
    assert 1 == main(["health", "--web.health-socket=absent.sock"])

    out, err = capsys.readouterr()
    assert "" == out
    assert "absent.sock" in err


@pytest.mark.parametrize(
    ("expected", "incident"),
    [
        ("SITE:KIND:START:LENGTH", "outage"),
        ("SITE:KIND:START:LENGTH", "demo:outage:1m"),
        ("unknown kind", "demo:earthquake:0s:1m"),
        ("no duration", "demo:outage:soon:1m"),
        ("no duration", "demo:outage:0s:-1m"),
        ("no such site; there are demo", "shop:outage:0s:1m"),
    ],
)
def test_an_incident_that_cannot_be_is_told(capsys: Captured, expected: str, incident: str) -> None:
    """`simulate` refuses what it cannot play with 2, the flag, the text and what is wrong with it."""
    assert 2 == main(["simulate", "--web.listen-address=127.0.0.1:0", f"--incident={incident}"])

    text = capsys.readouterr().err
    assert text.startswith("--incident")
    assert incident in text
    assert expected in text


@pytest.mark.parametrize("text", ["canary-secret", "=canary-secret", "canary="])
def test_sites_without_name_or_secret_are_not_echoed(capsys: Captured, text: str) -> None:
    """What may be a secret in the wrong place is refused without being repeated."""
    assert 2 == misused("simulate", f"--sites={text}")

    written = capsys.readouterr()
    assert "NAME=SECRET" in written.err
    assert "canary" not in written.out + written.err


@pytest.mark.parametrize("second", ["a=other", "b=canary"])
def test_sites_need_names_and_secrets_of_their_own(capsys: Captured, second: str) -> None:
    """Two simulated sites of one name or one secret are wrong usage, and the secret stays unsaid."""
    assert 2 == main(
        ["simulate", "--web.listen-address=127.0.0.1:0", "--sites=a=canary", f"--sites={second}"]
    )

    text = capsys.readouterr().err
    assert "--sites" in text
    assert "canary" not in text


@pytest.mark.parametrize("command", ["run", "demo", "simulate"])
@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "::1:80"])
def test_a_bad_address_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, command: str, address: str
) -> None:
    """An address that is none is 2, and the one thing said is what was expected instead."""
    monkeypatch.setenv("DEMO_SECRET", "canary")
    write_site(tmp_path, "http://127.0.0.1:1")

    assert 2 == main([command, f"--web.listen-address={address}", "--log.level=warning"])
    out, err = capsys.readouterr()
    assert ("", 1) == (out, err.count("\n"))
    assert f"{address!r}: " in err
    assert "for example" in err


# ----------------------------------------------------------------------------------------- problems of files


BAD_WEB = "basic_auth_users: {anna: b}\nhttp_server_config: {x: 1}\n"


@pytest.mark.parametrize("command", [("check",), ("run", "--web.listen-address=127.0.0.1:0")])
def test_problems_stand_under_the_file_that_they_are_of(
    tmp_path: Path, capsys: Captured, command: tuple[str, ...]
) -> None:
    """With both files bad, both are named, each with its own problems beneath it."""
    (tmp_path / "config.yaml").write_text("pol: {}\nsites: [{name: a, secret: canary}]")
    (tmp_path / "web.yml").write_text(BAD_WEB)

    assert 2 == main([*command, "--config.file=./config.yaml", "--web.config.file=web.yml"])
    assert [
        "config.yaml: 1 problem",
        "  pol (line 1): unknown key; did you mean poll?",
        "web.yml: 2 problems",
        "  basic_auth_users.anna (line 1): expected a bcrypt hash",
        "  http_server_config.x (line 2): unknown key; known here: http2, headers",
    ] == [line.partition(" such as")[0] for line in reports(capsys.readouterr().err)]


def test_a_bad_web_config_is_not_the_environments_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    """Where the environment is the config, a problem of the web config stands under the web config's name."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")
    (tmp_path / "web.yml").write_text("x: 1")

    assert 2 == main(["check", "--web.config.file=web.yml"])
    assert "web.yml: 1 problem" == capsys.readouterr().err.splitlines()[0]


def test_a_problem_of_the_environment_stands_under_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Where the environment is the config, its problems name it and the variable."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET_FILE", "nowhere")

    assert 2 == main(["check"])
    head, problem = capsys.readouterr().err.splitlines()
    assert "the environment: 1 problem" == head
    assert problem.startswith("  CRYPTOLOOT_SECRET_FILE: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("api: {}\nsites: [", "not valid YAML: while parsing a flow node"),
        ("api: {}\nsites: *none", "this alias (`*…`) needs a complete value"),
        ("api: {}\nsites: \x07", "a character YAML does not allow"),
        ("api: {}\nsites: \udcff", "not UTF-8"),
    ],
)
@pytest.mark.parametrize("command", [("check",), ("run", "--web.listen-address=127.0.0.1:0")])
def test_a_fault_of_the_whole_file_has_its_line(
    tmp_path: Path, capsys: Captured, command: tuple[str, ...], text: str, expected: str
) -> None:
    """What breaks a file as a whole is told in one line, with the file as it was named, and the line."""
    (tmp_path / "config.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))

    assert 2 == main([*command, "--config.file=./config.yaml"])
    (told,) = reports(capsys.readouterr().err)
    assert told.startswith(f"config.yaml (line 2): {expected}")


def test_a_thousand_sites_with_one_mistake_each_are_counted(tmp_path: Path, capsys: Captured) -> None:
    """The first problems are told, and how many more there are."""
    sites = "".join(f"- {{name: s{number}, secret: canary, polls: {{}}}}\n" for number in range(1000))
    (tmp_path / "config.yaml").write_text(f"sites:\n{sites}")

    assert 2 == main(["check"])
    head, *problems, last = capsys.readouterr().err.splitlines()
    assert ("config.yaml: 1000 problems", "  and 950 more") == (head, last)
    assert "  sites[49].polls (line 51): unknown key; did you mean poll?" == problems[49]
    assert 50 == len(problems)


def test_where_reading_ended_the_count_is_at_least(tmp_path: Path, capsys: Captured) -> None:
    """A file with more mistakes than are read is told to have at least so many."""
    (tmp_path / "config.yaml").write_text("sites: [{name: a, secret: canary}]\n" + "x: 1\n" * (COUNTED + 5))

    assert 2 == main(["check"])
    head, *_, last = capsys.readouterr().err.splitlines()
    assert ("config.yaml: at least 10000 problems", "  and at least 9950 more") == (head, last)


def test_warnings_are_counted_by_the_same_rule(tmp_path: Path, capsys: Captured) -> None:
    """A thousand warnings are told like a thousand problems."""
    sites = "".join(f"- {{name: s{number}, secret: canary}}\n" for number in range(1000))
    (tmp_path / "config.yaml").write_text(f"sites:\n{sites}")

    assert 0 == main(["check"])
    *warnings, last = capsys.readouterr().err.splitlines()
    assert (50, "warning: and 950 more") == (len(warnings), last)


# ------------------------------------------------------------------------------------------------- full disks


@pytest.mark.parametrize("arguments", [["--version"], ["check", "--help"], ["check"]])
def test_a_full_disk_fails_what_writes_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, arguments: list[str]
) -> None:
    """Output that cannot be written is 1 and one sentence about the stream, without a traceback."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")
    with Path("/dev/full").open("w") as full, contextlib.redirect_stdout(full):
        code = main(arguments)

    (told,) = reports(err := capsys.readouterr().err)
    assert (1, False) == (code, "crashed" in err)
    assert told.startswith("standard output cannot be written: No space left on device: ")


@pytest.mark.parametrize("output", ["/dev/full", "-"])
def test_a_backfill_to_a_full_disk_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, output: str
) -> None:
    """Samples that cannot be written are 1, with the flag: the flag itself is well."""
    monkeypatch.setenv("DEMO_SECRET", SECRET)
    with simulated() as url, Path("/dev/full").open("w") as full, contextlib.redirect_stdout(full):
        write_site(tmp_path, url)
        code = main(["backfill", "--until=now", f"--output={output}"])

    told = reports(capsys.readouterr().err)[-1]
    assert (1, f"--output {output}: No space left on device: free space there") == (code, told)


@pytest.mark.parametrize(("code", "text"), [(1, ""), (2, "pol: {}\n")])
def test_the_exit_code_says_what_stderr_cannot(tmp_path: Path, code: int, text: str) -> None:
    """A warning that nobody reads is 1, and a bad config is 2 though its problems cannot be written."""
    (tmp_path / "config.yaml").write_text(f"sites: [{{name: a, secret: canary}}]\n{text}")
    with Path("/dev/full").open("w") as full, contextlib.redirect_stderr(full):
        assert code == main(["check"])


def test_wrong_usage_is_2_on_a_full_disk() -> None:
    """The parser's code stays, whether its words can be written or not."""
    with Path("/dev/full").open("w") as full, contextlib.redirect_stderr(full):
        assert 2 == misused("check", "--frobnicate")


def test_a_reader_that_has_gone_is_as_after_sigpipe(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """`check | head -1` ends without a word, with the code that a shell shows for SIGPIPE."""
    monkeypatch.setenv("CRYPTOLOOT_SECRET", "canary")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken, contextlib.redirect_stdout(broken):
        code = main(["check"])

    assert (1, "") == (code, capsys.readouterr().err)
