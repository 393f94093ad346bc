"""What a config file means. Every problem is reported at once, and no text holds a secret."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import config
from exporter.config import ConfigError
from exporter.config.problems import Problem
from exporter.config.secret import Secret, SecretSource
from exporter.config.sections import AllUsersPoll, HistoryPoll, Poll, Polls, TopUsersPoll, WebSection
from tests.config.documents import CANARY, ENVIRON, parse, problems, secret_file, site
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MUSEUM = sorted((REPOSITORY / "tests/data/config").glob("*.yaml"))


@pytest.mark.parametrize("path", MUSEUM, ids=lambda path: path.stem)
def test_bad_config_reports_exactly_its_problems(path: Path) -> None:
    """Each bad file yields, in one run, exactly the problem lines it begins with, and not the canary."""
    prefix = "# expect: "
    expected = [line[len(prefix) :] for line in path.read_text().splitlines() if line.startswith(prefix)]

    with pytest.raises(ConfigError) as caught:
        config.load(path, ENVIRON)

    assert expected == [problem.text for problem in caught.value.problems]
    assert CANARY not in str(caught.value)


def test_six_mistakes_are_six_problems() -> None:
    """One run reports mistakes of six different kinds."""
    with pytest.raises(ConfigError) as caught:
        config.load(REPOSITORY / "tests/data/config/six-mistakes.yaml", ENVIRON)

    assert 6 == len(caught.value.problems)


def test_bytes_that_are_not_utf8_are_a_problem_with_a_line(tmp_path: Path) -> None:
    """A file in another encoding names the line of its first bad byte."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"sites:\n  - name: caf\xe9\n")

    with pytest.raises(ConfigError) as caught:
        config.load(path, ENVIRON)

    assert caught.value.problems == (Problem("", "not UTF-8", 2, str(path)),)


def test_deep_nesting_is_a_problem(tmp_path: Path) -> None:
    """A file nested beyond Python's stack is refused like any other."""
    path = tmp_path / "config.yaml"
    path.write_text("[" * sys.getrecursionlimit())

    with pytest.raises(ConfigError, match="nested too deeply"):
        config.load(path, ENVIRON)


def test_aliases_and_merge_keys_are_allowed(tmp_path: Path) -> None:
    """Anchors, aliases and merged keys mean what YAML says, and merged keys are no duplicates."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "sites:\n"
        "  - &a {name: a, secret_env: CRYPTOLOOT_SECRET, poll: &p {top_users: {count: 25}}}\n"
        "  - {<<: *a, name: b}\n"
        "  - {name: c, secret_env: CRYPTOLOOT_SECRET, poll: *p}\n"
    )

    loaded = config.load(path, ENVIRON)

    assert [("a", 25), ("b", 25), ("c", 25)] == [(s.name, s.polls.top_users.count) for s in loaded.sites]


def test_an_alias_of_itself_is_no_trap(tmp_path: Path) -> None:
    """A list that contains itself is a problem with its line, not an endless walk."""
    path = tmp_path / "config.yaml"
    path.write_text("sites: &a [*a]\n")

    with pytest.raises(ConfigError) as caught:
        config.load(path, ENVIRON)

    assert (
        "config.yaml (line 1): this alias (`*…`) needs a complete value with its anchor (`&…`) above it"
        == str(caught.value)
    )


def test_defaults_are_those_of_the_contract() -> None:
    """A file with one site and nothing else means the contract's defaults."""
    api = config.Api("https://api.crypto-loot.com", 10.0, 8, 4 << 20, allow_insecure=False, proxy="none")
    users = config.Users("plain", None)
    polls = Polls(
        Poll(60.0, 300.0),
        HistoryPoll(300.0, 1500.0, 14_400.0),
        TopUsersPoll(60.0, 300.0, 128, "total"),
        AllUsersPoll(900.0, 4500.0, enabled=False, page_size=4096, max_pages=10_000),
        Poll(300.0, 1500.0),
    )
    secret = SecretSource(Secret(CANARY), env="CRYPTOLOOT_SECRET")
    only = config.Site("a", secret, "XMR", (), polls, api, users)
    expected = config.Config(api, (only,), users, WebSection(sites_on_metrics=True), ())

    assert expected == parse()


def test_sites_share_api_and_users() -> None:
    """Each site has the very objects that stand at the top of the config."""
    loaded = parse([site("a"), site("b")])

    assert [True, True] == [each.api is loaded.api for each in loaded.sites]
    assert [True, True] == [each.users is loaded.users for each in loaded.sites]


def test_shipped_example_means_the_defaults() -> None:
    """The commented config.yaml at the top level loads without warnings and spells out the defaults."""
    expected = parse([site("my-site")])

    assert expected == config.load(REPOSITORY / "config.yaml", ENVIRON)


@pytest.mark.parametrize(("sites", "slots"), [(1, 8), (160, 8), (161, 9), (400, 20), (1280, 64), (3000, 64)])
def test_request_slots_follow_the_number_of_sites(sites: int, slots: int) -> None:
    """Without max_concurrency there are 8 slots, or one per 20 sites if more, at most 64."""
    names = [site(str(number)) for number in range(sites)]

    assert slots == parse(names).api.max_concurrency


def test_given_request_slots_stay() -> None:
    """A max_concurrency in the file is used as it is."""
    assert parse(api={"max_concurrency": 2}).api.max_concurrency == 2


def test_overrides_are_merged_key_by_key() -> None:
    """A site's key wins over the section's, the section's over the default, each alone."""
    base = {"top_users": {"count": 64, "order": "balance"}}

    loaded = parse([site(poll={"top_users": {"count": 25}}), site("b")], poll=base)

    assert TopUsersPoll(60.0, 300.0, 25, "balance") == loaded.sites[0].polls.top_users
    assert TopUsersPoll(60.0, 300.0, 64, "balance") == loaded.sites[1].polls.top_users


@pytest.mark.parametrize(
    ("section", "override", "interval", "stale_after"),
    [
        ({}, {"interval": "2m"}, 120.0, 600.0),
        ({"interval": "3m"}, {}, 180.0, 900.0),
        ({"interval": "3m"}, {"interval": "2m"}, 120.0, 600.0),
        ({"stale_after": "20m"}, {"interval": "2m"}, 120.0, 1200.0),
        ({"stale_after": "20m"}, {"stale_after": "4m"}, 60.0, 240.0),
        ({"interval": "3m"}, {"stale_after": "3m"}, 180.0, 180.0),
        ({"interval": "7ms"}, {}, 0.007, 0.035),
    ],
)
def test_stale_after_is_five_intervals_unless_given(
    section: dict[str, str], override: dict[str, str], interval: float, stale_after: float
) -> None:
    """The default follows the interval in force; a stale_after of either level stays, the site's first."""
    loaded = parse([site(poll={"payout": override})], poll={"payout": section})

    assert Poll(interval, stale_after) == loaded.sites[0].polls.payout


def test_a_fault_is_reported_at_one_level_only() -> None:
    """A bad interval of the section is not reported again for stale_after, nor for each site."""
    sites = [site(poll={"payout": {"interval": "2m"}}), site("b", poll={"payout": {"stale_after": "1s"}})]

    assert ["poll.payout.interval: expected a duration above 0, got '0s'"] == problems(
        sites, poll={"payout": {"interval": "0s", "stale_after": "1m"}}
    )


@pytest.mark.parametrize(("names", "expected"), [(False, "off"), ("off", "off"), ("plain", "plain")])
def test_names_false_is_off(names: object, expected: str) -> None:
    """YAML reads a bare `off` as false; it is taken as it was meant."""
    assert config.Users(expected, None) == parse(users={"names": names}).users  # type: ignore[arg-type]


def test_hmac_reads_its_key() -> None:
    """With hmac, the key comes from the one source given."""
    users = {"names": "hmac", "names_key_env": "NAMES_KEY"}

    assert config.Users("hmac", Secret(ENVIRON["NAMES_KEY"])) == parse(users=users).users


def test_empty_sections_and_lists_are_as_absent() -> None:
    """A section or list whose every line is commented out is as if it were not there."""
    assert parse() == parse([site(watch_users=None, poll=None)], api=None, poll={"payout": None}, web=None)


def test_problems_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Problems come by line, whatever was checked first; what is missing has the line above it."""
    path = tmp_path / "config.yaml"
    path.write_text("api: {timeout: 1}\nusers: {names: hmac}\nsites:\n  - {name: a}\n")

    with pytest.raises(ConfigError) as caught:
        config.load(path, {})

    places = [(problem.path, problem.line) for problem in caught.value.problems]
    assert [("api.timeout", 1), ("users", 2), ("sites[0]", 4)] == places


def test_without_lines_problems_have_none() -> None:
    """A plain mapping has no lines, so its problems are paths alone."""
    assert ["api: expected a mapping, got a number"] == problems(api=1)


@pytest.mark.parametrize(
    ("url", "expected", "host"),
    [
        ("https://api.crypto-loot.org/", "https://api.crypto-loot.org", "api.crypto-loot.org"),
        ("HTTPS://API.Example.org:8443/v2//", "https://api.example.org:8443/v2", "api.example.org:8443"),
        ("https://example.org:443", "https://example.org:443", "example.org:443"),
        ("http://localhost:12759", "http://localhost:12759", "localhost:12759"),
        ("http://127.1.2.3", "http://127.1.2.3", "127.1.2.3"),
        ("http://[::1]:12759/", "http://[::1]:12759", "[::1]:12759"),
    ],
)
def test_good_urls_are_normalised(url: str, expected: str, host: str) -> None:
    """Scheme and host in small letters, the port kept where given, no slash at the end, a prefix allowed."""
    api = parse(api={"url": url}).api

    assert (expected, host) == (api.url, api.host)


@pytest.mark.parametrize(
    "url",
    [
        "api.crypto-loot.com",
        "ftp://example.org",
        "https://",
        "https:///path",
        "https://user@example.org",
        "https://example.org/?",
        "https://example.org/#x",
        "https://example.org:0",
        "https://example.org:port",
        "https://example.org:65536",
        "https://[::1",
        "https://[example.org]",
        "https://exa mple.org",
        "https://example.org\\@example.net",
        "https://example.org/\x7f",
        "https://exämple.org",
        "http://127.0.0.1.example.org",
        "http://10.0.0.1",
        "http://localhost.example.org",
    ],
)
def test_bad_urls_are_one_problem_each(url: str) -> None:
    """A URL that cannot be called, or not safely, is one problem of api.url that does not repeat it."""
    (problem,) = problems(api={"url": url})

    assert problem.startswith("api.url: ")
    assert f" {url}" not in problem.replace(" https://api.crypto-loot.com", "")


def test_insecure_urls_can_be_allowed() -> None:
    """With allow_insecure, http:// to any host is taken."""
    api = {"url": "http://192.0.2.1", "allow_insecure": True}

    assert parse(api=api).api.url == "http://192.0.2.1"


def load_absent(directory: Path, environ: dict[str, str], *, explicit: bool = False) -> config.Config:
    return config.source(directory / "config.yaml", environ, explicit=explicit)()


def test_without_a_file_the_environment_makes_one_site(tmp_path: Path) -> None:
    """With no config file and CRYPTOLOOT_SECRET set, one site named `default` is polled."""
    (only,) = load_absent(tmp_path, {"CRYPTOLOOT_SECRET": CANARY, "CRYPTOLOOT_SECRET_FILE": ""}).sites

    assert ("default", SecretSource(Secret(CANARY), env="CRYPTOLOOT_SECRET")) == (only.name, only.secret)


def test_without_a_file_the_environment_can_name_a_secret_file(tmp_path: Path) -> None:
    """CRYPTOLOOT_SECRET_FILE does the same, and a warning about the file names the variable."""
    path = secret_file(tmp_path / "secret", f"{CANARY}\n")
    path.chmod(0o644)

    loaded = load_absent(tmp_path, {"CRYPTOLOOT_SECRET_FILE": str(path)})

    assert SecretSource(Secret(CANARY), file=path) == loaded.sites[0].secret
    assert loaded.warnings[0].startswith("the environment: CRYPTOLOOT_SECRET_FILE: others than the owner")


def test_without_a_file_both_variables_are_a_problem(tmp_path: Path) -> None:
    """Which of two secrets is meant is not guessed."""
    environ = {"CRYPTOLOOT_SECRET": CANARY, "CRYPTOLOOT_SECRET_FILE": "x"}

    with pytest.raises(ConfigError, match="keep exactly one") as caught:
        load_absent(tmp_path, environ)

    assert CANARY not in str(caught.value)


def test_without_a_file_a_bad_secret_file_names_the_variable(tmp_path: Path) -> None:
    """Where there is no config file, problems name the environment variable, not a path within a file."""
    with pytest.raises(ConfigError) as caught:
        load_absent(tmp_path, {"CRYPTOLOOT_SECRET_FILE": str(tmp_path / "none")})

    assert "CRYPTOLOOT_SECRET_FILE" == caught.value.problems[0].path


def test_without_file_and_environment_both_ways_are_told(tmp_path: Path) -> None:
    """The text says what was looked for, and both things that can be done."""
    with pytest.raises(ConfigError) as caught:
        load_absent(tmp_path, {"CRYPTOLOOT_SECRET": ""})

    assert all(word in str(caught.value) for word in ("config.yaml:", "--config.file", "CRYPTOLOOT_SECRET"))


def test_a_file_asked_for_must_exist(tmp_path: Path) -> None:
    """With an explicit --config.file the environment does not stand in, and no directory is shown."""
    with pytest.raises(ConfigError, match=r"^config\.yaml: cannot be read: No such file") as caught:
        load_absent(tmp_path, ENVIRON, explicit=True)

    assert str(tmp_path) not in str(caught.value)


def test_a_directory_is_no_config_file(tmp_path: Path) -> None:
    """A directory where a file is expected is a problem."""
    with pytest.raises(ConfigError, match="is not a regular file"):
        config.load(tmp_path, ENVIRON)


def test_relative_secret_files_start_at_the_config_file(tmp_path: Path) -> None:
    """A relative secret_file is sought from the directory of the config file, as Prometheus does."""
    path = secret_file(tmp_path / "secret")
    (tmp_path / "config.yaml").write_text("sites: [{name: a, secret_file: secret}]")

    loaded = config.load(tmp_path / "config.yaml", {})

    assert SecretSource(Secret(CANARY), file=path) == loaded.sites[0].secret
    assert () == loaded.warnings


def test_an_inline_secret_is_warned_about() -> None:
    """A secret in the file works, with a warning that names the path and not the value."""
    loaded = parse([{"name": "a", "secret": CANARY}])

    assert [True] == [warning.startswith("sites[0].secret: ") for warning in loaded.warnings]
    assert CANARY not in str(loaded.warnings)


def test_a_short_row_age_is_warned_about_where_it_is_given() -> None:
    """max_row_age below 3h is warned about once, at the level that says so."""
    loaded = parse(
        [site(poll={"history": {"max_row_age": "1h"}}), site("b")], poll={"history": {"interval": "1m"}}
    )
    base = parse(poll={"history": {"max_row_age": "2h59m"}})

    assert ["sites[0].poll.history.max_row_age"] == [text.split(":")[0] for text in loaded.warnings]
    assert ["poll.history.max_row_age"] == [text.split(":")[0] for text in base.warnings]


@pytest.mark.parametrize(("mode", "count"), [(0o600, 0), (0o400, 0), (0o660, 1), (0o604, 1)])
def test_secret_files_open_to_others_are_warned_about(tmp_path: Path, mode: int, count: int) -> None:
    """A secret file that group or others can reach is warned about, by path and mode."""
    path = secret_file(tmp_path / "secret")
    path.chmod(mode)

    loaded = parse([{"name": "a", "secret_file": str(path)}])

    assert count == len(loaded.warnings)


def test_watching_users_without_names_is_said_to_be_in_vain() -> None:
    """names: off shows no user: polling some for it is warned about, once for all sites."""
    loaded = parse([site(watch_users=["ann"]), site("b", watch_users=["bob"])], users={"names": "off"})

    assert ["users.names"] == [warning.partition(":")[0] for warning in loaded.warnings]


WORDS = (
    "sites name secret secret_env secret_file api url timeout poll payout interval stale_after top_users "
    "count order users names names_key_env web watch_users"
)
KEYS = st.sampled_from(WORDS.split())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.dates()
    | st.binary()
    | st.sampled_from(["1m", "16MiB", "hmac", "total", "CRYPTOLOOT_SECRET", "https://example.org"])
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)
SECTIONS = st.fixed_dictionaries(
    {"sites": st.lists(st.dictionaries(KEYS, DOCUMENTS, max_size=4) | DOCUMENTS, max_size=3)},
    optional={"api": DOCUMENTS, "poll": DOCUMENTS, "users": DOCUMENTS, "web": DOCUMENTS},
)


def outcome(read: Callable[[], config.Config]) -> config.Config | tuple[Problem, ...]:
    """Return what reading gives, or the problems it raises; any other exception fails the test."""
    try:
        return read()
    except ConfigError as error:
        return error.problems


@given(DOCUMENTS | SECTIONS)
def test_any_document_is_a_config_or_a_config_error(document: object) -> None:
    """Whatever the document, `parse` returns a Config or raises ConfigError with at least one problem."""
    result = outcome(lambda: config.parse(document, ENVIRON))

    assert isinstance(result, config.Config) or result
    assert CANARY not in str(result)


# ------------------------------------------------------------------------------ where the config comes from


def test_a_config_that_came_from_a_file_does_not_fall_back(tmp_path: Path) -> None:
    """Once loaded from a file, the config is loaded from it again: without the file that is a problem."""
    path = tmp_path / "config.yaml"
    path.write_text("sites: [{name: a, secret_env: CRYPTOLOOT_SECRET}]")
    load = config.source(path, ENVIRON, explicit=False)
    assert ["a"] == [site.name for site in load().sites]

    path.unlink()

    with pytest.raises(ConfigError, match=r"^config\.yaml: cannot be read: No such file"):
        load()
    path.write_text("sites: [{name: b, secret_env: CRYPTOLOOT_SECRET}]")
    assert ["b"] == [site.name for site in load().sites]


def test_a_config_that_came_from_the_environment_stays_there(tmp_path: Path) -> None:
    """Once loaded from the environment, a file that appears later changes nothing."""
    path = tmp_path / "config.yaml"
    load = config.source(path, ENVIRON, explicit=False)
    path.write_text("sites: [{name: a, secret_env: CRYPTOLOOT_SECRET}]")

    assert ["default"] == [site.name for site in load().sites]


@pytest.mark.parametrize("kind", ["dangling link", "directory"])
def test_what_stands_in_the_files_place_is_no_reason_to_use_the_environment(
    tmp_path: Path, kind: str
) -> None:
    """A config.yaml that is there but cannot be read is a problem, whatever the environment has."""
    path = tmp_path / "config.yaml"
    path.mkdir() if kind == "directory" else path.symlink_to("nowhere")

    with pytest.raises(ConfigError, match=r"^config\.yaml: "):
        config.source(path, ENVIRON, explicit=False)()


def test_a_pipe_is_no_config_file(tmp_path: Path) -> None:
    """A pipe in the file's place is refused at once: reading it would wait for a writer."""
    path = tmp_path / "config.yaml"
    os.mkfifo(path)

    with pytest.raises(ConfigError, match="is not a regular file"):
        config.load(path, ENVIRON)


def test_a_file_of_any_size_is_read_to_its_limit(tmp_path: Path) -> None:
    """A file that is larger than any config is refused without reading it."""
    path = tmp_path / "config.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk

    with pytest.raises(ConfigError, match="larger than 2 MiB"):
        config.load(path, ENVIRON)


# --------------------------------------------------------------------------------------- allowed, but unwise


@pytest.mark.parametrize(
    ("section", "override", "expected"),
    [
        ({"interval": "10s"}, {}, []),
        ({"interval": "9s"}, {}, ["poll.payout.interval"]),
        ({"interval": "9s"}, {"interval": "10s"}, ["poll.payout.interval"]),
        ({}, {"interval": "9999ms"}, ["sites[0].poll.payout.interval"]),
        ({"interval": "1s"}, {"interval": "2s"}, ["poll.payout.interval", "sites[0].poll.payout.interval"]),
    ],
)
def test_short_intervals_are_warned_about_where_they_are_given(
    section: dict[str, str], override: dict[str, str], expected: list[str]
) -> None:
    """An interval below 10 s is warned about once, at the level that says so."""
    loaded = parse([site(poll={"payout": override}), site("b")], poll={"payout": section})

    assert expected == [warning.split(":")[0] for warning in loaded.warnings]


@pytest.mark.parametrize("url", ["http://127.0.0.1:12759", "http://localhost:12759", "https://[::1]"])
def test_an_api_on_this_host_may_be_polled_often(url: str) -> None:
    """The simulator has no limits that anybody else would feel."""
    assert () == parse(api={"url": url}, poll={"payout": {"interval": "1s"}}).warnings


@pytest.mark.parametrize(
    ("secret", "word"),
    [
        ('"canary-of-sixteen-bytes"', "quotes"),
        ("'canary-of-sixteen-bytes'", "quotes"),
        ("${CANARY_OF_SIXTEEN_BYTES}", "variable"),
        ("${CANARY_OF_SIXTEEN_BYTES:-x}", "variable"),
        ("$CANARY_OF_SIXTEEN_BYTES", "variable"),
        ("$(CANARY_OF_SIXTEEN_BYTES)", "variable"),
        ("{{ canary_of_sixteen_bytes }}", "variable"),
    ],
)
@pytest.mark.parametrize("source", ["secret_env", "secret_file", "secret", "names_key_env"])
def test_a_secret_that_is_not_the_one_meant_is_warned_about(
    tmp_path: Path, secret: str, word: str, source: str
) -> None:
    """Quotes and variables that nothing has replaced are warned about, wherever the secret comes from."""
    file = secret_file(tmp_path / "secret", secret)
    values = {"secret_env": "X", "secret_file": str(file), "secret": secret, "names_key_env": "X"}
    document: dict[str, Any] = {"sites": [{"name": "a", source: values[source]}]}
    if source == "names_key_env":
        document = {"sites": [site()], "users": {"names": "hmac", source: "X"}}

    warnings = config.parse(document, {**ENVIRON, "X": secret}).warnings

    assert word in warnings[-1]
    assert "canary" not in str(warnings).lower()


@pytest.mark.parametrize(
    "secret", ["canary", "can$ary", "$1", '"', "canary'", "'canary\"", "{canary}", "$", "a${b}c"]
)
def test_other_secrets_are_taken_as_they_are(secret: str) -> None:
    """A secret with a dollar or a quote somewhere is not warned about."""
    assert () == config.parse({"sites": [{"name": "a", "secret_env": "X"}]}, {"X": secret}).warnings


@pytest.mark.parametrize(
    ("key", "refused"), [("k" * 15, True), ("é" * 7, True), ("k" * 16, False), ("é" * 8, False)]
)
@pytest.mark.parametrize("kind", ["names_key_env", "names_key_file"])
def test_a_key_that_can_be_guessed_is_refused(tmp_path: Path, key: str, refused: bool, kind: str) -> None:
    """A key of under 16 bytes would let anybody find the names by trying keys."""
    value = "X" if kind == "names_key_env" else str(secret_file(tmp_path / "key", key))
    document = {"sites": [site()], "users": {"names": "hmac", kind: value}}

    result = outcome(lambda: config.parse(document, {**ENVIRON, "X": key}))

    problems = [] if isinstance(result, config.Config) else [str(problem) for problem in result]
    expected = f"users.{kind}: the key is shorter than 16 bytes"
    assert refused == bool(problems)
    assert [expected] * refused == [":".join(problem.split(":")[:2]) for problem in problems]
    assert key not in str(problems)


def test_out_of_files_is_no_fault_of_the_file(tmp_path: Path) -> None:
    """Where the system has no more open files, the advice is to raise the limit, not to correct the file."""
    (tmp_path / "config.yaml").write_text("sites: []\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(ConfigError, match=r"Too many open files: the system lacks .*ulimit -n\)$"):
            config.load(tmp_path / "config.yaml", ENVIRON)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
