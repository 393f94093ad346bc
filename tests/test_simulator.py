from __future__ import annotations

import asyncio
import json
import math
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.simulator import (
    DAY,
    ENDPOINTS,
    HEALTHY_SECRET,
    HOSTILE_NAMES,
    HOUR,
    KINDS,
    TROUBLED_SECRET,
    Incident,
    Request,
    Site,
    World,
    app,
    demo_world,
    parse_incident,
)

if TYPE_CHECKING:
    from collections.abc import MutableMapping

NOW = 1_700_001_234.0  # Tuesday, 2023-11-14, 22:33:54 UTC
SECRET = "s3cr&t/+=%"
FULL_HOUR = 1_699_999_200


class Clock:
    """A clock that moves when told."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return Unix seconds."""
        return self.now


def a_world(**options: Any) -> tuple[World, Site, Clock]:
    clock = Clock()
    world = World(seed=7, clock=clock)
    return world, world.add("site", SECRET, **options), clock


def call(world: World, method: str, path: str, status: int = 200, **options: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app=app(world, error_status=status))
        async with httpx.AsyncClient(transport=transport, base_url="http://sim") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def get(world: World, path: str, **params: str) -> dict[str, Any]:
    answer: dict[str, Any] = call(world, "GET", path, params={"secret": SECRET, **params}).json()
    return answer


def walk(world: World, count: int) -> list[str]:
    names, page = [], ""
    while page is not None:
        answer = get(world, "/user/list", count=str(count), page=page)
        names += [user["name"] for user in answer["users"]]
        page = answer["nextPage"]
    return names


def exchange(world: World, scope: dict[str, Any], *parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Speak ASGI without a client, for what httpx's transport cannot show."""
    received, sent = iter(parts), []

    async def receive() -> MutableMapping[str, Any]:
        return next(received)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    asyncio.run(app(world)(scope, receive, send))  # type: ignore[arg-type]
    return sent


def refusal(code: str) -> dict[str, Any]:
    return {"success": False, "error": code}


# The answers of the reference


def test_balance_is_the_example() -> None:
    """A balance is a name and three strings, coins with at most eight decimals."""
    world, site, _ = a_world()
    user = site.user("johnd", NOW)
    assert user is not None
    expected = {"success": True, "name": "johnd", "total": str(user.total)}

    answer = get(world, "/user/balance", name="johnd")

    assert expected.items() <= answer.items()
    assert (user.withdrawn, user.balance) == (float(answer["withdrawn"]), float(answer["balance"]))
    assert {"success", "name", "total", "withdrawn", "balance"} == set(answer)
    assert all(isinstance(answer[key], str) for key in ("total", "withdrawn", "balance"))


def test_amounts_are_plain_decimals() -> None:
    """No amount is in scientific notation or ends in a needless zero; nothing is "0"."""
    world, *_ = a_world(age=2 * HOUR)

    amounts = [user[key] for user in get(world, "/user/top")["users"] for key in ("withdrawn", "balance")]

    assert "0" in amounts
    assert not [amount for amount in amounts if "e" in amount or ("." in amount and amount[-1] in "0.")]


def test_payout() -> None:
    """A payout has five numbers, a recent synctime, and a rate that is a share of the block reward."""
    world, site, _ = a_world()

    answer = get(world, "/stats/payout")

    share = answer["payoutPer1MHashes"] * answer["diff"] / (1e6 * answer["value"])
    assert list(answer) == ["success", "diff", "value", "payout", "payoutPer1MHashes", "synctime"]
    assert site.payout(NOW) == tuple(answer.values())[1:]
    assert math.isclose(answer["payout"], share)
    assert 0 < share <= 1
    assert 0 <= NOW - answer["synctime"] < 120


def test_difficulty_drifts() -> None:
    """The difficulty changes within a day, by less than a tenth."""
    _, site, _ = a_world()
    today, tomorrow = site.payout(NOW).diff, site.payout(NOW + DAY).diff

    assert today != tomorrow
    assert math.isclose(today, tomorrow, rel_tol=0.1)


def test_history() -> None:
    """The history has 168 rows, each hour once, ascending, as numbers; the last is still filling."""
    world, site, _ = a_world()

    history = get(world, "/stats/history")["history"]

    assert list(range(FULL_HOUR - 167 * HOUR, FULL_HOUR + 1, HOUR)) == [row["synctime"] for row in history]
    assert [row._asdict() for row in site.rows(NOW)] == history
    assert site.row(FULL_HOUR - HOUR)._asdict() == history[-2]
    assert 0 < history[-1]["hashes"] < site.row(FULL_HOUR).hashes


@pytest.mark.parametrize("order", ["total", "balance", "withdrawn"])
@pytest.mark.parametrize("count", [1, 128, 1024])
def test_top(order: str, count: int) -> None:
    """The top users are the `count` best by `order`, as a sort of all users finds them."""
    world, site, _ = a_world(users=3000)
    values = sorted((float(getattr(user, order)) for user in site.users(NOW)), reverse=True)

    users = get(world, "/user/top", count=str(count), order=order)["users"]

    assert values[:count] == [float(user[order]) for user in users]
    assert {user.name: str(user.total) for user in site.top(NOW, count, order)} == {
        user["name"]: user["total"] for user in users
    }


def test_top_defaults() -> None:
    """The top users are 128 by total unless told otherwise."""
    world, *_ = a_world(users=300)

    assert get(world, "/user/top", count="128", order="total") == get(world, "/user/top")
    assert len(get(world, "/user/top")["users"]) == 128


def test_list_defaults() -> None:
    """The list has pages of 4096, and an empty `page` is the first."""
    world, *_ = a_world(users=4200)
    first = get(world, "/user/list")

    assert len(first["users"]) == 4096
    assert isinstance(first["nextPage"], str)
    assert first == get(world, "/user/list", page="")


@pytest.mark.parametrize("count", [32, 100, 1000, 8192])
def test_paging_yields_every_user_once(count: int) -> None:
    """Following nextPage until it is null yields all users of the site in alphabetical order, each once."""
    world, site, _ = a_world(users=1000)

    names = walk(world, count)

    assert [user.name for user in site.users(NOW)] == names
    assert sorted(set(names)) == names
    assert len(names) == 1000


def test_next_page_is_the_next_name() -> None:
    """NextPage is the name of the first user of the page it leads to."""
    world, *_ = a_world()
    page = get(world, "/user/list", count="32")["nextPage"]

    assert page == get(world, "/user/list", page=page)["users"][0]["name"]


def test_list_leaves_out_users_without_hashes() -> None:
    """A user whose total is 0 has a balance, and is not in "/user/list"."""
    world, site, _ = a_world(hashrate=0)

    assert get(world, "/user/list") == {"success": True, "users": [], "nextPage": None}
    assert get(world, "/user/balance", name="johnd")["total"] == "0"
    assert site.users(NOW) == []


def test_a_site_without_users() -> None:
    """A site may have no users at all."""
    world, *_ = a_world(users=0)

    assert get(world, "/user/top") == {"success": True, "users": []}
    assert get(world, "/user/list")["users"] == []


# Errors of the reference


@pytest.mark.parametrize(
    ("code", "path", "params"),
    [
        ("missing_input", "/user/balance", {}),
        ("missing_input", "/user/balance", {"name": ""}),
        ("unknown_user", "/user/balance", {"name": "nobody"}),
        ("unknown_user", "/user/balance", {"name": "zzz"}),
        ("invalid_page", "/user/list", {"page": "nobody"}),
        ("invalid_page", "/user/list", {"page": "zzz"}),
        ("bad_request", "/user/top", {"order": "name"}),
        *(
            ("bad_request", "/user/top", {"count": bad})
            for bad in ("0", "1025", "-1", "", "ten", "1.5", "\uff11")
        ),
        *(("bad_request", "/user/list", {"count": bad}) for bad in ("31", "8193", "9" * 40)),
        ("not_found", "/user/lists", {}),
        ("not_found", "/", {}),
        *(("wrong_method", path, {}) for path in ("/user/withdraw", "/user/reset", "/user/reset-all")),
        *(
            ("invalid_secret", path, {"secret": "wrong"})
            for path, (method, _) in ENDPOINTS.items()
            if method == "GET"
        ),
    ],
)
def test_documented_errors(code: str, path: str, params: dict[str, str]) -> None:
    """Every documented error has its code in `error`, and `success` is false."""
    world, *_ = a_world()

    assert refusal(code) == get(world, path, **params)


def test_a_secret_is_needed() -> None:
    """A call without a secret is one with a wrong secret."""
    world, *_ = a_world()

    assert refusal("invalid_secret") == call(world, "GET", "/stats/payout").json()


@pytest.mark.parametrize("path", ["/user/withdraw", "/user/reset", "/user/reset-all"])
def test_features_that_come_soon(path: str) -> None:
    """What the reference calls coming soon takes the secret from the form, and is not there yet."""
    world, *_ = a_world()

    assert refusal("not_found") == call(world, "POST", path, data={"secret": SECRET}).json()
    assert refusal("invalid_secret") == call(world, "POST", path, params={"secret": SECRET}).json()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_get_endpoints_want_get(method: str) -> None:
    """No documented error names other methods on a GET endpoint: they are bad requests."""
    world, *_ = a_world()

    assert refusal("bad_request") == call(world, method, "/stats/payout", data={"secret": SECRET}).json()


def test_malformed_parameters() -> None:
    """Parameters that cannot be decoded, or are far too long, are a bad request."""
    world, *_ = a_world()

    assert refusal("bad_request") == call(world, "GET", "/stats/payout?secret=%ff").json()
    assert refusal("bad_request") == call(world, "POST", "/user/reset", content=b"a=" + b"x" * 70_000).json()


def test_the_status_of_errors_is_a_parameter() -> None:
    """The reference names no HTTP status: errors are 200, or as the caller of app says."""
    world, *_ = a_world()

    assert call(world, "GET", "/nowhere").status_code == 200
    assert call(world, "GET", "/nowhere", status=404).status_code == 404
    assert call(world, "GET", "/stats/payout", status=404, params={"secret": SECRET}).status_code == 200


# The world


def answers(world: World) -> list[dict[str, Any]]:
    return [get(world, path, name="johnd") for path, (method, _) in ENDPOINTS.items() if method == "GET"]


def test_same_seed_and_time_same_answers() -> None:
    """An answer depends on seed, time and incidents, not on what was asked before."""
    (fresh, _, _), (busy, _, clock) = a_world(), a_world()
    for clock.now in (NOW + 5 * DAY, NOW - DAY, NOW + 7.5, NOW):
        asked = answers(busy)

    assert answers(fresh) == asked


def test_another_seed_is_another_world() -> None:
    """Seeds change rates, names and shares."""
    first, second = (World(seed, Clock()).add("site", SECRET) for seed in (1, 2))

    assert first.rows(NOW) != second.rows(NOW)
    assert {user.name for user in first.users(NOW)} != {user.name for user in second.users(NOW)}


@settings(deadline=None, max_examples=50)
@given(start=st.floats(-40 * HOUR, HOUR), length=st.floats(0, 3 * HOUR), every=st.floats(HOUR, DAY))
def test_hashes_are_the_integral_of_the_hashrate(start: float, length: float, every: float) -> None:
    """A row's hashes are what its hashrate adds up to, whatever drops cut the hour."""
    _, site, _ = a_world(age=30 * HOUR)
    calm = site.row(FULL_HOUR).hashes
    site.incidents.append(Incident("drop", NOW + start, length, every=every, factor=0.1))
    expected = sum(site.hashrate(FULL_HOUR + second + 2.5) * 5 for second in range(0, HOUR, 5))
    row = site.row(FULL_HOUR)

    assert math.isclose(expected, row.hashes, abs_tol=0.01 * calm)
    assert math.isclose(row.hashrate * HOUR, row.hashes, rel_tol=1e-6)


def test_days_and_weeks_have_a_rhythm() -> None:
    """Evenings are busier than mornings, weekdays than weekends."""
    _, site, _ = a_world()
    midnight = FULL_HOUR - 22 * HOUR  # of a Tuesday
    saturday = midnight - 3 * DAY

    assert site.row(midnight + 18 * HOUR).hashes > 1.5 * site.row(midnight + 6 * HOUR).hashes
    assert sum(site.row(midnight + h * HOUR).hashes for h in range(24)) > 1.3 * sum(
        site.row(saturday + h * HOUR).hashes for h in range(24)
    )


def test_the_row_that_begins_now() -> None:
    """At a full hour the new row has no hashes yet, and the hashrate of the moment."""
    _, site, _ = a_world()
    row = site.rows(FULL_HOUR)[-1]

    assert row[:2] == (FULL_HOUR, 0)
    assert row.hashrate == round(site.hashrate(FULL_HOUR), 3)


def test_cumulative_hashes() -> None:
    """With `cumulative` a row has all hashes of the site up to its end: differences are the hourly rows."""
    _, hourly, _ = a_world()
    _, cumulative, _ = a_world(cumulative=True)
    expected = [row.hashes for row in hourly.rows(NOW)][1:]

    assert expected == [b.hashes - a.hashes for a, b in pairwise(cumulative.rows(NOW))]
    assert [row.hashrate for row in hourly.rows(NOW)] == [row.hashrate for row in cumulative.rows(NOW)]


@pytest.mark.parametrize("cumulative", [False, True])
def test_empty_hours_are_zero_filled_or_left_out(cumulative: bool) -> None:
    """An hour without hashes is a row, or with `skip_empty` none."""
    incidents = [Incident("drop", FULL_HOUR - 10 * HOUR, 3 * HOUR, factor=0)]
    _, filled, _ = a_world(incidents=incidents, cumulative=cumulative)
    _, skipping, _ = a_world(incidents=incidents, cumulative=cumulative, skip_empty=True)
    empty = [row for row in filled.rows(NOW) if not row.hashrate]

    assert [FULL_HOUR - hours * HOUR for hours in (10, 9, 8)] == [row.synctime for row in empty]
    assert [row for row in filled.rows(NOW) if row.hashrate] == skipping.rows(NOW)


def test_a_young_site() -> None:
    """A site has no rows and no hashes from before it began, at the full hour before now - age."""
    _, site, _ = a_world(age=3 * HOUR)

    assert [FULL_HOUR - hours * HOUR for hours in (3, 2, 1, 0)] == [row.synctime for row in site.rows(NOW)]
    assert site.rows(NOW - 5 * HOUR) == []
    assert site.hashrate(NOW - 5 * HOUR) == 0


def test_users_share_the_hashes_of_the_site() -> None:
    """The users' totals add up to a good part of the site's hashes, and grow as those do."""
    _, site, _ = a_world(age=100 * HOUR)
    before, after = (sum(user.total for user in site.users(NOW + later)) for later in (0, HOUR))
    mined = sum(row.hashes for row in site.rows(NOW))

    assert 0.2 * mined < before < 0.8 * mined
    assert before < after < before + 0.8 * 2 * site.row(FULL_HOUR).hashes


def test_totals_move_by_the_second() -> None:
    """A busy user's total is an integer that is higher a few seconds later."""
    _, site, _ = a_world()
    totals = [user.total for later in range(0, 20, 5) if (user := site.user("johnd", NOW + later))]

    assert sorted(set(totals)) == totals
    assert len(totals) == 4


def test_users_join_over_time() -> None:
    """There are fewer users earlier on, and `newcomers` come one each ten minutes."""
    _, site, _ = a_world(newcomers=5)
    later = {user.name for user in site.users(NOW + 1300)} - {user.name for user in site.users(NOW)}

    assert len(site.users(NOW - 30 * DAY)) < len(site.users(NOW)) == 100
    assert len(later) == 2
    assert not [name for name in later if site.user(name, NOW)]
    assert len(site.top(NOW, 1024)) == 100


def test_balances_fall_by_withdrawals_only() -> None:
    """Withdrawn never falls, balance falls only when withdrawn rises by as much, and some users withdraw."""
    _, site, _ = a_world()
    days = [{user.name: user for user in site.users(NOW + day * DAY)} for day in range(20)]
    steps = [(a[name], b[name]) for a, b in pairwise(days) for name in a]

    assert all(a.withdrawn <= b.withdrawn for a, b in steps)
    assert all(a.balance + a.withdrawn <= b.balance + b.withdrawn + 1e-9 for a, b in steps)
    assert all(b.withdrawn > a.withdrawn for a, b in steps if b.balance < a.balance)
    assert [b for a, b in steps if b.balance < a.balance]


def test_names_are_of_many_kinds() -> None:
    """Names are plain, e-mail addresses, wallets and hashes."""
    _, site, _ = a_world()
    names = [user.name for user in site.users(NOW)]

    assert {"johnd", "maria"} < set(names)
    assert [name for name in names if "@example.com" in name]
    assert [name for name in names if len(name) == 95 and name[0] == "4"]
    assert [name for name in names if len(name) == 32 and set(name) <= set("0123456789abcdef")]
    assert [name for name in names if name.isalnum() and len(name) < 12]


@pytest.mark.parametrize("users", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_many_users(users: int) -> None:
    """A page of up to a million users is found by name, and ends where the next one begins."""
    world, site, _ = a_world(users=users)
    first = get(world, "/user/list", count="32")
    second = get(world, "/user/list", count="32", page=first["nextPage"])
    names = [user["name"] for user in first["users"] + second["users"]]

    assert sorted(set(names)) == names
    assert len(names) == 64
    assert [user.name for user, _ in zip(site.listed(NOW), names, strict=False)] == names
    assert len(get(world, "/user/top", count="1024")["users"]) == 1024


def test_names_and_secrets_of_sites_are_unique() -> None:
    """A site is found by its secret: two sites cannot share one, nor a name."""
    world, *_ = a_world()

    with pytest.raises(ValueError, match="'other': another site has this name or secret"):
        world.add("other", SECRET)
    with pytest.raises(ValueError, match="'site': another site has this name or secret"):
        world.add("site", "another")


def test_a_secret_rotates() -> None:
    """A changed secret opens the site at once, the old one no more."""
    world, site, _ = a_world()
    site.secret = "new"

    assert refusal("invalid_secret") == get(world, "/stats/payout")
    assert get(world, "/stats/payout", secret="new")["success"]


def test_the_log_keeps_no_secrets() -> None:
    """The log says when, which site, path and method; a foreign path could hold a secret and is not kept."""
    world, site, _ = a_world()
    get(world, "/stats/payout")
    get(world, f"/{SECRET}", secret="wrong")
    call(world, "POST", "/user/reset", data={"secret": SECRET})

    assert [
        Request(NOW, "site", "/stats/payout", "GET"),
        Request(NOW, None, "other", "GET"),
        Request(NOW, "site", "/user/reset", "POST"),
    ] == list(world.requests)
    assert world.requests.maxlen == 10_000
    assert SECRET not in repr((world.requests, site))


# Incidents


def test_a_drop_lowers_hashrate_hours_and_users() -> None:
    """A drop multiplies the hashrate within its time: hours and totals have fewer hashes from then on."""
    _, calm, _ = a_world()
    _, site, _ = a_world()
    before = site.rows(NOW)
    site.incidents.append(Incident("drop", FULL_HOUR - 2 * HOUR, HOUR))
    expected = calm.row(FULL_HOUR - 2 * HOUR).hashes * 0.4

    assert math.isclose(expected, site.row(FULL_HOUR - 2 * HOUR).hashes, rel_tol=1e-6)
    assert calm.hashrate(FULL_HOUR - HOUR - 1) * 0.4 == pytest.approx(site.hashrate(FULL_HOUR - HOUR - 1))
    assert before[:-3] == site.rows(NOW)[:-3]
    assert calm.hashrate(FULL_HOUR - HOUR) == site.hashrate(FULL_HOUR - HOUR)
    assert sum(u.total for u in site.users(NOW)) < sum(u.total for u in calm.users(NOW))


def test_overlapping_drops_multiply() -> None:
    """Two drops at once have both factors."""
    _, calm, _ = a_world()
    _, site, _ = a_world(incidents=[Incident("drop", NOW - DAY, 2 * DAY, factor=0.5)] * 2)

    assert math.isclose(calm.row(FULL_HOUR).hashes / 4, site.row(FULL_HOUR).hashes, rel_tol=1e-6)


def test_a_freeze_shows_its_start() -> None:
    """During a freeze every answer is that of its start; afterwards all is as if it had never been."""
    world, site, clock = a_world()
    expected = answers(world)
    site.incidents += [Incident("freeze", NOW, HOUR), Incident("freeze", NOW + HOUR - 60, HOUR)]
    clock.now = NOW + 1.9 * HOUR
    frozen = answers(world)
    clock.now = NOW + 2 * HOUR
    thawed = answers(world)
    site.incidents.clear()

    assert expected == frozen
    assert answers(world) == thawed != frozen


def test_a_reset_starts_users_from_zero() -> None:
    """After a reset totals, withdrawn and balances begin again at 0, for good; history goes on."""
    world, site, clock = a_world()
    before = site.user("johnd", NOW)
    rows = site.rows(NOW + 60)
    site.incidents.append(Incident("reset", NOW, 0))
    at_once, later = (get(world, "/user/balance", name="johnd") for clock.now in (NOW, NOW + 60))

    assert (at_once["total"], at_once["withdrawn"], at_once["balance"]) == ("0", "0", "0")
    assert before is not None
    assert 0 < int(later["total"]) < before.total
    assert rows == site.rows(NOW + 60)


def test_a_page_can_vanish() -> None:
    """A reset between two pages leaves nextPage without its user: invalid_page."""
    world, site, _ = a_world()
    page = get(world, "/user/list", count="32")["nextPage"]
    site.incidents.append(Incident("reset", NOW, 0))

    assert refusal("invalid_page") == get(world, "/user/list", page=page)


def test_a_waver_comes_and_goes() -> None:
    """While totals waver some answers are behind by the fraction, never more, and balances are not."""
    _, calm, _ = a_world()
    _, site, _ = a_world(incidents=[Incident("waver", NOW, HOUR, fraction=0.01)])
    times = [NOW + second for second in range(40)]
    pairs = [(a, b) for t in times if (a := calm.user("johnd", t)) and (b := site.user("johnd", t))]

    assert {1.0, 0.99} == {round(wavering.total / true.total, 6) for true, wavering in pairs}
    assert [(true[2:]) for true, _ in pairs] == [wavering[2:] for _, wavering in pairs]
    assert [1 for (_, a), (_, b) in pairwise(pairs) if b.total < a.total]
    assert calm.users(NOW - 1) == site.users(NOW - 1)


def test_hostile_names() -> None:
    """Hostile names are on the first pages of both lists, twins and all, and gone afterwards."""
    world, site, clock = a_world(incidents=[Incident("hostile", NOW, HOUR)])
    lists = [get(world, path)["users"] for path in ("/user/list", "/user/top")]
    clock.now += HOUR

    for users in lists:
        assert sorted(HOSTILE_NAMES) == sorted(u["name"] for u in users if u["name"] in HOSTILE_NAMES)
    assert HOSTILE_NAMES[0] == ""
    assert not {user.name for user in site.users(clock.now)} & set(HOSTILE_NAMES)


def test_hostile_pages_and_balances() -> None:
    """A lone surrogate goes out as a JSON escape, and its bytes come back in as a name or page."""
    world, *_ = a_world(incidents=[Incident("hostile", NOW, HOUR)])
    query = f"secret={quote(SECRET)}"
    name = "lone%ED%A0%80surrogate"
    balance = call(world, "GET", f"/user/balance?{query}&name={name}")
    page = call(world, "GET", f"/user/list?{query}&page={name}")

    assert b'"lone\\ud800surrogate"' in balance.content
    assert page.json()["users"][0] == {k: v for k, v in balance.json().items() if k != "success"}
    assert get(world, "/user/balance", name="twin")["success"]


def test_hostile_pages_are_walked() -> None:
    """Pages of a list with hostile names lead through all of it, in order."""
    world, site, _ = a_world(incidents=[Incident("hostile", NOW, HOUR)])

    assert [user.name for user in site.users(NOW)] == walk(world, 32)


@pytest.mark.parametrize(("kind", "status"), [("outage", 503), ("outage-5xx", 503), ("outage-html", 200)])
def test_an_outage_is_html(kind: str, status: int) -> None:
    """An outage answers HTML, with 503 or even with 200."""
    world, *_ = a_world(incidents=[Incident(kind, NOW, 60)])

    response = call(world, "GET", "/stats/payout", params={"secret": SECRET})

    assert (status, "text/html") == (response.status_code, response.headers["content-type"])
    assert response.text.startswith("<html>")


def scope_of(path: str, accept: bytes = b"identity") -> dict[str, Any]:
    query = str(httpx.QueryParams({"secret": SECRET})).encode()
    headers = [(b"accept-encoding", accept)]
    return {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": headers}


def test_an_outage_cuts_the_body() -> None:
    """outage-cut promises the whole body, sends half of it, and never ends it."""
    world, site, _ = a_world()
    (_, whole) = exchange(world, scope_of("/stats/payout"))
    site.incidents.append(Incident("outage-cut", NOW, 60))
    start, half = exchange(world, scope_of("/stats/payout"))
    size = len(whole["body"])

    assert (b"content-length", str(size).encode()) in start["headers"]
    assert whole["body"][: size // 2] == half["body"]
    assert half["more_body"]


def test_slow_answers_sleep_first() -> None:
    """A slow answer awaits the injected sleep, and is the usual one."""
    naps = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)

    world, site, _ = a_world()
    expected = answers(world)
    world.sleep = sleep
    site.incidents += [Incident("slow", NOW, 60, path="/stats/payout"), Incident("slow", NOW + 60, 60)]

    assert expected == answers(world)
    assert naps == [30.0]


def test_rate_limits_say_when_to_come_back() -> None:
    """A rate limit is 429 with Retry-After in seconds, or as the date that is so many seconds ahead."""
    world, site, _ = a_world(incidents=[Incident("rate-limit", NOW, 60, retry_after=7)])
    seconds = call(world, "GET", "/stats/payout", params={"secret": SECRET})
    site.incidents[:] = [Incident("rate-limit", NOW, 60, retry_after=7, as_date=True)]
    date = call(world, "GET", "/stats/payout", params={"secret": SECRET}).headers["retry-after"]

    assert (seconds.status_code, seconds.headers["retry-after"]) == (429, "7")
    assert parsedate_to_datetime(date).timestamp() == NOW + 7


@pytest.mark.parametrize(
    ("code", "incident"),
    [
        ("invalid_secret", Incident("wrong-secret", NOW, 60)),
        ("internal_error", Incident("error", NOW, 60)),
        ("teapot", Incident("error", NOW, 60, code="teapot")),
    ],
)
def test_errors_on_demand(code: str, incident: Incident) -> None:
    """wrong-secret and error answer with a code while they last."""
    world, _, clock = a_world(incidents=[incident])
    during = get(world, "/stats/payout")
    clock.now += 60

    assert refusal(code) == during
    assert get(world, "/stats/payout")["success"]


def test_a_failure_of_one_path_and_one_site() -> None:
    """An incident leaves other sites alone, one with a path other paths; of two the first answers."""
    world, site, _ = a_world(incidents=[Incident("error", NOW, 60, path="/user/top")])
    site.incidents.append(Incident("wrong-secret", NOW, 60, path="/user/top"))
    world.add("other", "other")

    assert refusal("internal_error") == get(world, "/user/top")
    assert get(world, "/user/list")["success"]
    assert get(world, "/user/top", secret="other")["success"]


def test_incidents_recur() -> None:
    """With `every` an incident is active for `length` seconds from each start on."""
    incident = Incident("outage", NOW, 10, every=100)
    active = [second for second in range(-200, 300) if incident.active(NOW + second)]

    assert [*range(10), *range(100, 110), *range(200, 210)] == active


def test_unknown_kinds_are_refused() -> None:
    """The message names the kinds there are."""
    with pytest.raises(ValueError, match=r"unknown kind of incident 'flood': one of drop, freeze, .*error"):
        Incident("flood", NOW, 60)


# The wire


@pytest.mark.parametrize(
    ("zipped", "accept"),
    [
        (True, "gzip"),
        (True, "br, gzip;q=0.5"),
        (True, "deflate,gzip ; q=1"),
        (False, "gzip;q=0"),
        (False, "gzip;q=0.0, br"),
        (False, "x-gzip"),
        (False, ""),
    ],
)
def test_long_answers_are_compressed_on_request(zipped: bool, accept: str) -> None:
    """Compression is used for clients that accept it, and never for short answers."""
    world, *_ = a_world()
    options: dict[str, Any] = {"params": {"secret": SECRET}, "headers": {"accept-encoding": accept}}
    response = call(world, "GET", "/user/top", **options)

    assert zipped == ("content-encoding" in response.headers)
    assert response.json() == get(world, "/user/top")
    assert "content-encoding" not in call(world, "GET", "/stats/payout", **options).headers


def test_a_form_comes_in_parts() -> None:
    """A form is read to its end."""
    world, *_ = a_world()
    scope = scope_of("/user/reset") | {"method": "POST"}
    body = str(httpx.QueryParams({"secret": SECRET})).encode()
    parts = ({"body": body[:5], "more_body": True}, {"body": body[5:]})
    _, answer = exchange(world, scope, *({"type": "http.request", **part} for part in parts))

    assert refusal("not_found") == json.loads(answer["body"])


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_http_only(kind: str) -> None:
    """Other protocols are refused with an exception, as servers expect it."""
    world, *_ = a_world()

    with pytest.raises(RuntimeError, match=f"speaks HTTP only, not {kind}"):
        exchange(world, {"type": kind})


# Command line and demo


@pytest.mark.parametrize(
    ("text", "start", "length"),
    [
        ("shop:drop:30s:1h30m", 30, 5400),
        ("shop:drop:-2h:5m", -7200, 300),
        ("shop:drop:0:1w2d", 0, 9 * DAY),
        ("shop:drop:0s:1500ms", 0, 1.5),
    ],
)
def test_parse_incident(text: str, start: float, length: float) -> None:
    """SITE:KIND:START:LENGTH, START relative to now and perhaps negative, both Prometheus durations."""
    expected = ("shop", Incident("drop", NOW + start, length))

    assert expected == parse_incident(text, NOW)


def test_parse_incident_allows_colons_in_names() -> None:
    """The last three colons separate; a site's name may have its own."""
    assert parse_incident("a:b:drop:1s:1s", NOW)[0] == "a:b"


@pytest.mark.parametrize("kind", KINDS)
def test_parse_incident_knows_every_kind(kind: str) -> None:
    """Every kind has a form on the command line."""
    assert parse_incident(f"shop:{kind}:1s:1s", NOW)[1].kind == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop:drop:1s", "'shop:drop:1s' is not SITE:KIND:START:LENGTH"),
        (":drop:1s:1s", "is not SITE:KIND:START:LENGTH"),
        ("shop:flood:1s:1s", "'shop:flood:1s:1s': unknown kind of incident 'flood': one of drop"),
        ("shop:drop:soon:1s", "START is no duration: 'soon'; write 30s"),
        ("shop:drop:--1s:1s", "START is no duration: '-1s'"),
        ("shop:drop:1s:-1s", "LENGTH is no duration: '-1s'"),
        ("shop:drop:1s:", "LENGTH is no duration: ''"),
        ("shop:drop:1s:5", "LENGTH is no duration: '5'"),
    ],
)
def test_parse_incident_says_what_is_wrong(text: str, message: str) -> None:
    """The message repeats the text and names the part."""
    with pytest.raises(ValueError, match=message):
        parse_incident(text, NOW)


def kinds(site: Site, t: float) -> set[str]:
    return {incident.kind for incident in site.incidents if incident.active(t)}


def test_demo_world() -> None:
    """The demo has a healthy and a troubled site with a whole week, both calm for two minutes."""
    world = demo_world(Clock(), seed=3, users=50)
    healthy, troubled = world.find(HEALTHY_SECRET), world.find(TROUBLED_SECRET)
    assert healthy is not None
    assert troubled is not None

    assert list(world.sites) == ["healthy", "troubled"]
    assert (healthy.incidents, len(healthy.rows(NOW)), len(troubled.rows(NOW))) == ([], 168, 168)
    assert not set().union(*(kinds(troubled, NOW + second) for second in range(-HOUR, 120)))
    assert set(KINDS) - {"outage", "reset"} == set().union(
        *(kinds(troubled, NOW + 120 + second) for second in range(1200))
    )
    assert kinds(troubled, NOW + 300) == kinds(troubled, NOW + 300 + 12 * DAY)
    assert troubled.users(NOW + HOUR) == []
