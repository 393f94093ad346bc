"""The answers, errors and failures of the simulated API, each as its reference has it."""

from __future__ import annotations

import json
import math
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from exporter.simulator import ENDPOINTS, HOUR, Incident
from tests.simulator.worlds import (
    FULL_HOUR,
    NOW,
    SECRET,
    a_world,
    answers,
    call,
    exchange,
    get,
    refusal,
    scope_of,
    walk,
)


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


def test_a_page_can_vanish() -> None:
    """A reset between two pages leaves nextPage without its user: invalid_page."""
    world, site, _ = a_world()
    page = get(world, "/user/list", count="32")["nextPage"]
    site.incidents.append(Incident("reset", NOW, 0))

    assert refusal("invalid_page") == get(world, "/user/list", page=page)


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
