"""The status page in a real browser: hostile names, a phone and a desk, both themes."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from exporter.simulator import HOSTILE_NAMES, Incident, World
from tests.conftest import required
from tests.e2e.programs import ask, running, samples, serving, until, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

SECRET = "secret-of-all"
HOSTILE_SITES = (
    "<script>document.title = 'run'</script>",
    "<img src=x onerror=\"document.title = 'run'\">",
    '"><style>* { display: none }</style>',
    "n" * 128,
    "\N{RIGHT-TO-LEFT OVERRIDE}edirrevo \N{MONEY-MOUTH FACE}",
    "{{ 7 * 7 }}",
    "shop",
)
WIDTHS = (390, 1400)
THEMES = ("light", "dark")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
ALONE = ("--disable-background-networking", "--disable-component-update")
# How far anything reaches beyond the window, in pixels.
OVERFLOW = """() => Math.max(
  document.documentElement.scrollWidth - innerWidth,
  ...[...document.body.querySelectorAll("*")].map(each => each.getBoundingClientRect().right - innerWidth),
)"""


@pytest.fixture(scope="module")
def status(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run an exporter of sites with odd names, of which some fail; yield its port."""
    directory = tmp_path_factory.mktemp("status")
    now = time.time()
    world = World(clock=time.time)
    kinds = ("hostile", "outage-5xx", "wrong-secret", "hostile", "error", "outage-html", "drop")
    for number, (name, kind) in enumerate(zip(HOSTILE_SITES, kinds, strict=True)):
        paths = ("",) if number % 2 else ("/user/top",)  # some fail at one endpoint alone
        incidents = [Incident(kind, now - 9 * 3600, 86_400, path=path) for path in paths]
        world.add(name, f"{SECRET}-{number}", users=30, incidents=incidents)
    sites = [
        {"name": name, "secret": f"{SECRET}-{number}", "watch_users": ["nobody", "<b>johnd</b>"]}
        for number, name in enumerate(HOSTILE_SITES)
    ]
    polls: dict[str, Any] = {
        name: {"interval": "1s"} for name in ("payout", "history", "top_users", "balances")
    }
    polls["all_users"] = {"interval": "1s", "enabled": True}
    with serving(world) as api:
        write_config(directory, api.port, *sites, poll=polls)
        with running(directory) as (program, port):
            polled = "cryptoloot_up{"
            count = 5 * len(sites)
            assert until(lambda: sum(series.startswith(polled) for series in samples(port)) == count), (
                program.err.read_text()
            )
            yield port


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=required("chromium"), args=[*FLAGS, *ALONE])
        yield browser
        browser.close()


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_in_a_browser(status: int, chromium: Browser, width: int, theme: Any) -> None:
    """Nothing runs, nothing is said on the console, nothing else is fetched, nothing overflows."""
    said: list[str] = []
    fetched: list[str] = []
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(f"http://127.0.0.1:{status}/")
    names = page.locator("article h2").all_text_contents()
    if where := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{where}/status-{width}-{theme}.png", full_page=True)

    assert [] == said
    assert [f"http://127.0.0.1:{status}/"] == [url for url in fetched if not url.startswith("data:")]
    assert "run" not in page.title()
    assert 0 == page.evaluate("document.scripts.length + document.images.length")
    assert 1 > page.evaluate(OVERFLOW)
    assert sorted(HOSTILE_SITES) == sorted(names)
    context.close()


def test_a_site_is_found_by_its_name(status: int, chromium: Browser) -> None:
    """The form works without JavaScript; a name that is not there is told."""
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{status}/?site=SHOP")
    assert ["shop"] == page.locator("article h2").all_text_contents()

    page.fill("input[name=site]", "<script>")
    page.click("button")
    assert [HOSTILE_SITES[0]] == page.locator("article h2").all_text_contents()

    page.goto(f"http://127.0.0.1:{status}/?site=no-such-site")
    assert "No site" in page.locator("body").inner_text()
    context.close()


def test_no_user_is_named(status: int) -> None:
    """Neither the page nor its JSON has a user's name, watched or not."""
    told = [ask(status, "/").text, str(json.loads(ask(status, "/api/v1/status").text))]
    names = [name for name in (*HOSTILE_NAMES, "johnd") if name]

    assert [] == [name for name in names for text in told if name in text]
