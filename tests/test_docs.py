"""The documentation: written from the code where it can be, and every block of it parsed or run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import promql_parser
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from docs import generated
from docs.catalogue import CATALOGUE
from exporter import cli, config
from exporter.config import ConfigError, schema
from exporter.config.problems import Problems
from exporter.endpoint import Reason
from exporter.web.routes import ROUTES
from exporter.web.web_config import WebFile
from tests.alerting import rules
from tests.conftest import REPOSITORY, required

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS = sorted(
    path
    for path in REPOSITORY.rglob("*.md")
    if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(REPOSITORY).parts)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
LANGUAGES = {"sh", "yaml", "promql"}
PROGRAM = "cryptoloot-exporter"
CHECKER = str(Path(sys.executable).with_name("check-jsonschema"))
CHART = Draft202012Validator(
    json.loads((REPOSITORY / "deploy/helm/cryptoloot-exporter/values.schema.json").read_text())
)
FOREIGN_FLAGS = {"--web.external-url"}  # Prometheus', which is called as ours is
FLAGS = set(re.findall(r"`(--[\w.-]+)", generated.commands()))
SCHEMA: dict[str, Any] = json.loads((REPOSITORY / "config.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)


class Block(NamedTuple):
    """A fenced block of a text."""

    file: Path
    language: str
    content: str


def blocks(*languages: str) -> list[Any]:
    """Return the blocks in these languages, named by file and number."""
    return [
        pytest.param(Block(file, language, content), id=f"{file.relative_to(REPOSITORY)}-{number}")
        for file in TEXTS
        for number, (language, content) in enumerate(FENCE.findall(file.read_text()), 1)
        if not languages or language in languages
    ]


# -------------------------------------------------------------------------------------------- what is written


def test_pages_are_as_the_code_writes_them() -> None:
    """`python -m docs` would change nothing."""
    stale = [path.name for path, content in generated.written().items() if path.read_text() != content]

    assert [] == stale


def test_every_metric_is_documented() -> None:
    """Each of the catalogue, once, on the page of metrics."""
    page = (REPOSITORY / "docs" / "metrics.md").read_text().partition("## Reasons")[0]
    named = re.findall(r"^\| `(\w+)`", page, re.MULTILINE)

    assert sorted(CATALOGUE) == sorted(named)


def keys(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Go through the keys of a schema by their paths, those of a site's `poll` once."""
    found = next((each for each in schema.get("anyOf", ()) if each.get("type") != "null"), schema)
    found = SCHEMA["$defs"][found["$ref"].rpartition("/")[2]] if "$ref" in found else found
    for name, value in found.get("properties", {}).items():
        yield f"{path}{name}"
        if f"{path}{name}" != "sites[].poll":
            yield from keys(value, f"{path}{name}.")
    if "items" in found:
        yield from keys(found["items"], f"{path.removesuffix('.')}[].")


def test_every_key_is_documented() -> None:
    """Each key of the config is on its page, with what it means, and in the example."""
    page = (REPOSITORY / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.\[\]]+)` \|.*\| ([^|]+) \|$", page, re.MULTILINE))
    example = (REPOSITORY / "config.yaml").read_text()
    known = set(keys(SCHEMA["$defs"]["ConfigFile"]))

    assert known == set(rows)
    assert [] == [key for key in known if f"{key.rpartition('.')[2]}:" not in example and "stale" not in key]


def test_every_command_and_flag_is_documented() -> None:
    """The page has each command, with the flags that the parser takes: it is written from it."""
    page = (REPOSITORY / "docs" / "commands.md").read_text()

    assert set(cli.COMMANDS) == set(re.findall(r"^## (\w+)$", page, re.MULTILINE))
    assert set(cli.COMMANDS) == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


@pytest.mark.parametrize("text", ["README.md", "docs/http.md"])
def test_every_path_is_documented(text: str) -> None:
    """What each path of the server answers."""
    table = (REPOSITORY / text).read_text().partition("| path | answers |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(?:POST )?(/[\w/-]*)", table))

    assert set(ROUTES) == named


def test_every_reason_is_documented() -> None:
    """Why polls fail, each with what it means, on the page of metrics."""
    page = (REPOSITORY / "docs" / "metrics.md").read_text().partition("## Reasons")[2]

    assert [reason.value for reason in Reason] == re.findall(r"^\| `(\w+)` \| \w", page, re.MULTILINE)


def test_every_alert_is_counted() -> None:
    """README says how many are critical and how many are not."""
    severities = [rule["labels"]["severity"] for rule in rules() if "alert" in rule]
    text = (REPOSITORY / "README.md").read_text()
    critical = severities.count("critical")

    assert f"{critical} critical alerts" in text
    assert f"and {len(severities) - critical} warnings or" in text


def test_every_dashboard_is_documented() -> None:
    """README names each dashboard by the file that is imported."""
    text = (REPOSITORY / "README.md").read_text()
    boards = [path.name for path in (REPOSITORY / "dashboards").glob("*.json")]

    assert boards
    assert [] == [name for name in boards if name not in text]


def test_readme_is_short() -> None:
    """Under two hundred lines: the rest has pages of its own."""
    assert len((REPOSITORY / "README.md").read_text().splitlines()) < 200


# ---------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(text: Path) -> None:
    """Every relative link is to a file that is there."""
    links = [link for link in LINK.findall(FENCE.sub("", text.read_text())) if not link.startswith("/")]

    assert [] == [link for link in links if not (text.parent / link).exists()]


def slug(heading: str) -> str:
    """Return a heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_anchors_lead_somewhere(text: Path) -> None:
    """A link into a page is to one of its headings, or to an anchor of its own."""
    links = re.findall(r"\]\((?!\w+:)([^)#]*)#([^)]+)\)", FENCE.sub("", text.read_text()))
    missing = []
    for link, anchor in links:
        target = (text.parent / link if link else text).read_text()
        anchors = {slug(heading) for heading in re.findall(r"^#+ (.*)$", target, re.MULTILINE)}
        if anchor not in anchors | set(re.findall(r'<a id="([^"]+)"', target)):
            missing.append(f"{link}#{anchor}")

    assert [] == missing


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_names_are_the_programs(text: Path) -> None:
    """Every metric and flag of ours that a text names is one; a name cut short ends with an asterisk."""
    said = text.read_text()
    series = {rule["record"] for rule in rules() if "record" in rule} | set(CATALOGUE)
    known = {name for each in series for name in re.findall(r"cryptoloot_\w+", each)}
    named = set(re.findall(r"(?<![\w/.-])cryptoloot_[a-z0-9_]+(?![\w{*.-])", said)) - {"cryptoloot_exporter"}
    metrics = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    options = set(re.findall(r"--(?:web|log|config|shard|total-shards)[\w.-]*\w", said))

    assert set() == metrics - known
    assert set() == options - FLAGS - FOREIGN_FLAGS


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_blocks_are_fenced_so_that_they_are_seen(text: Path) -> None:
    """Three backticks at the line's begin, and a language that is checked below: no other fence."""
    said = text.read_text()
    fences = re.findall(r"^[ \t>]*(?:```|~~~).*$", said, re.MULTILINE)
    languages = {language for language, _ in FENCE.findall(said)}

    assert len(fences) == 2 * len(FENCE.findall(said))
    assert set() == languages - LANGUAGES


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_is_what_it_says(tmp_path: Path, block: Block) -> None:
    """A config is one that the exporter takes, and what is Prometheus' its own tool takes."""
    document = yaml.safe_load(block.content)
    if "sites" in document:
        assert [] == list(VALIDATOR.iter_errors(document))
        environ = {site["secret_env"]: "a-secret" for site in document["sites"] if "secret_env" in site}
        for site in document["sites"]:
            if "secret_file" in site:
                (tmp_path / site["secret_file"]).write_text("a-secret")
        (tmp_path / "config.yaml").write_text(block.content)
        assert len(document["sites"]) == len(config.load(tmp_path / "config.yaml", environ).sites)
    elif "scrape_configs" in document or "rule_files" in document:
        (tmp_path / "prometheus.yml").write_text(block.content)
        command = (required("promtool"), "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert 0 == done.returncode, done.stderr
    elif "tls_server_config" in document or "basic_auth_users" in document:
        problems = Problems("config.yaml")
        schema.read(document, WebFile, "", problems)
        assert [] == problems.reported
    elif "services" in document:
        (tmp_path / "compose.yaml").write_text(block.content)
        checks = (CHECKER, "--builtin-schema", "vendor.compose-spec", str(tmp_path / "compose.yaml"))
        assert 0 == subprocess.run(checks, capture_output=True, timeout=60, check=False).returncode
    else:  # what remains are values of the Helm chart, and not always all that it needs
        faults = [error for error in CHART.iter_errors(document) if error.validator != "required"]
        assert [] == [error.message for error in faults]


@pytest.mark.parametrize("block", blocks("promql"))
def test_queries_parse(block: Block) -> None:
    """Each line of a query block is a query, one over several lines being indented from the second on."""
    for query in re.split(r"\n(?=\S)", block.content.strip()):
        assert promql_parser.parse(query.replace("SITE", "shop"))


def commands(script: str) -> Iterator[list[str]]:
    """Go through the commands of a script: its lines, comments and pipes taken apart."""
    for line in re.sub(r"\\\n\s*", " ", script).splitlines():
        for part in re.split(r"\s(?:&&|\||;)\s", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


@pytest.mark.parametrize("block", blocks("sh"))
def test_scripts_run(block: Block) -> None:
    """A shell reads them, our program takes what is given to it, and make has what is asked of it."""
    read = subprocess.run(
        (required("bash"), "-n"), input=block.content, text=True, capture_output=True, check=False
    )
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    parser = cli.parser()

    assert (0, "") == (read.returncode, read.stderr)
    for words in commands(block.content):
        if words[0] == PROGRAM:
            assert parser.parse_args(words[1:])
        elif words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets


# -------------------------------------------------------------------------------------------- the JSON schema


def test_the_schema_is_one() -> None:
    """The JSON schema is valid, and takes the example that is shipped."""
    Draft202012Validator.check_schema(SCHEMA)

    assert [] == list(VALIDATOR.iter_errors(yaml.safe_load((REPOSITORY / "config.yaml").read_text())))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"sites": []},
        {"sites": [{"name": "a"}]},
        {"sites": [{"name": "a", "secret": "x", "secret_env": "X"}]},
        {"sites": [{"name": "a", "secret": "x", "secrets": "y"}]},
        {"sites": [{"name": "a", "secret": "x"}], "poll": {"payout": {"interval": "1 minute"}}},
        {"sites": [{"name": "a", "secret": "x"}], "poll": {"top_users": {"count": 0}}},
        {"sites": [{"name": "a", "secret": "x"}], "users": {"names": "hashed"}},
        {"sites": [{"name": "a", "secret": "x"}], "api": {"url": "ftp://127.0.0.1"}},
    ],
)
def test_the_schema_refuses_what_is_wrong(wrong: dict[str, Any]) -> None:
    """What an editor can see is wrong, it is told."""
    assert list(VALIDATOR.iter_errors(wrong))


leaves = st.sampled_from(
    ["1m", "90s", "16MiB", 1, 25, 4096, True, False, "off", "hmac", "plain", "total", None, "x"]
)
site_keys = st.sampled_from(["secret", "secret_env", "currency", "watch_users", "poll", "name"])
sites = st.dictionaries(site_keys, leaves | st.lists(leaves, max_size=2), max_size=4).map(
    lambda given: {"name": "a", "secret": "s"} | given
)
polls = st.dictionaries(
    st.sampled_from(["payout", "history", "top_users", "all_users", "balances"]),
    st.none()
    | st.dictionaries(
        st.sampled_from(["interval", "count", "order", "enabled", "page_size"]), leaves, max_size=2
    ),
)
documents = st.fixed_dictionaries(
    {"sites": st.lists(sites, min_size=1, max_size=2)},
    optional={
        "poll": st.none() | polls,
        "users": st.none() | st.fixed_dictionaries({"names": leaves}),
        "web": st.none() | st.fixed_dictionaries({"sites_on_metrics": leaves}),
    },
)


@given(documents)
def test_what_the_exporter_takes_the_schema_takes(document: dict[str, Any]) -> None:
    """An editor marks nothing that `check` is content with."""
    try:
        config.parse(document, {"x": "a", "plain": "a", "total": "a"})
    except ConfigError:
        return
    assert [] == [error.message for error in VALIDATOR.iter_errors(document)]
