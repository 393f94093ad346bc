"""Why a call fails: each reason has a fault, and no failure shows what it should not."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.api import errors
from exporter.api.errors import PollError
from exporter.api.faults import is_html
from exporter.config.secret import Secret
from exporter.endpoint import Reason
from tests.api.calls import (
    ASK_BALANCE,
    ASK_PAYOUT,
    REQUESTS,
    SHORT,
    answered,
    calling,
    canned,
    hear,
    in_pieces,
    leaks,
    outcome,
)
from tests.api.faults import FAULTS, NOWHERE, Fault
from tests.api.raw_server import GOOD, HTML, Reply, Server, message, refuse, reply

if TYPE_CHECKING:
    from exporter.api.client import Client, Request

every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))


def leaves(parent: type[PollError] = PollError) -> list[type[PollError]]:
    children = parent.__subclasses__()
    return [leaf for child in children for leaf in leaves(child)] if children else [parent]


@every_fault
def test_every_fault_has_its_reason(fault: Fault) -> None:
    """A fault raises the one class of its reason, within a second whatever the server does."""
    heard = hear(fault.reply, **fault.options)

    assert fault.reason is heard.result.reason
    assert type(heard.result) in leaves()
    assert heard.seconds < 1


@every_fault
def test_no_failure_shows_the_secret(fault: Fault) -> None:
    """Neither text, repr, chained exceptions nor the traceback of a failure hold the secret in any form."""
    error = hear(fault.reply, **fault.options).result

    assert isinstance(error, PollError)
    assert [] == leaks(error)


def test_every_reason_is_among_the_faults() -> None:
    """The table above leaves out no reason."""
    assert set(Reason) == {fault.reason for fault in FAULTS.values()}


def test_the_tree_has_one_leaf_for_each_reason() -> None:
    """Every reason has exactly one class, that class is a leaf, and no inner class has a reason."""
    inner = {base for leaf in leaves() for base in leaf.__mro__[1:] if issubclass(base, PollError)}

    assert sorted(Reason) == sorted(leaf.reason for leaf in leaves())
    assert [] == [base for base in inner if hasattr(base, "reason")]
    assert {
        errors.Unreached,
        errors.BadStatus,
        errors.BadBody,
        errors.ApiError,
        errors.UserRefused,
        PollError,
    } == inner


@pytest.mark.parametrize("request_", REQUESTS, ids=[request.endpoint for request in REQUESTS])
@pytest.mark.parametrize("error", [errors.InvalidPage, errors.MissingInput, errors.UnknownUser])
def test_codes_of_one_endpoint(error: type[errors.ApiError], request_: Request[object]) -> None:
    """A code that only some endpoints answer is its own error there, and an unknown code elsewhere."""
    body = json.dumps({"success": False, "error": error.reason}).encode()

    expected = error if error in request_.errors else errors.UnknownError
    assert expected is type(answered(in_pieces(404, body), request_))
    assert expected is type(answered(in_pieces(200, body), request_))


@pytest.mark.parametrize("status", [200, 201, 302, 304, 400, 404, 429, 500, 503, 999])
@pytest.mark.parametrize("body", [b'{"success":false}', b"{ }", GOOD])
def test_the_error_in_the_body_wins_over_the_status(body: bytes, status: int) -> None:
    """Whatever the HTTP status says, and even `success`, the API's own word counts."""
    document = json.loads(body) | {"error": "invalid_secret"}
    error = answered(in_pieces(status, json.dumps(document).encode()))

    assert Reason.INVALID_SECRET is error.reason


@pytest.mark.parametrize("body", [GOOD, HTML, b"", b"[]", b'{"error":null}', b'{"error":429}', b"\xff"])
@pytest.mark.parametrize(
    ("expected", "status"),
    [
        (Reason.RATE_LIMITED, 429),
        *((Reason.REDIRECT, status) for status in (300, 301, 302, 303, 304, 307, 308, 399)),
        *((Reason.HTTP_STATUS, status) for status in (400, 401, 403, 404, 410, 500, 502, 503, 530, 999)),
    ],
)
def test_the_status_wins_over_the_body(expected: Reason, status: int, body: bytes) -> None:
    """Without an `error` that is a string, a status other than 2xx decides, even over a good body."""
    assert expected is answered(in_pieces(status, body)).reason


@pytest.mark.parametrize("coding", ["br", "gzip", "deflate", "zstd"])
@pytest.mark.parametrize(
    ("expected", "status"),
    [
        (Reason.RATE_LIMITED, 429),
        (Reason.REDIRECT, 302),
        (Reason.HTTP_STATUS, 503),
        (Reason.INVALID_JSON, 200),
    ],
)
def test_the_status_wins_over_an_unreadable_body(expected: Reason, status: int, coding: str) -> None:
    """429, 3xx and other non-2xx come before `invalid_json`: so do they when the coding cannot be read."""
    assert expected is answered(in_pieces(status, b"\x21\x02\x03", content_encoding=coding)).reason


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "mailto:ops@example.com",
        "http://xn--zzzzzz.com/",
        "http://127.0.0.1:99999999/",
        "https://" + "a" * 70_000,
        "http://ex\u2028ample/",
        "//",
        "",
    ],
    ids=range(8),
)
def test_a_redirect_needs_no_readable_location(location: str, status: int) -> None:
    """A redirect is one wherever it leads, and its body is read like any other's."""
    headers = [(b"Location", location.encode())]
    error = answered(httpx.Response(status, headers=headers, stream=httpx.ByteStream(HTML)))
    refused = httpx.ByteStream(b'{"error":"invalid_secret"}')

    assert Reason.REDIRECT is error.reason
    assert Reason.INVALID_SECRET is answered(httpx.Response(status, headers=headers, stream=refused)).reason


@pytest.mark.parametrize("body", [b"", HTML])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int, body: bytes) -> None:
    """The secret goes to no other host: the server that a redirect names sees not even a connection."""

    async def play() -> tuple[object, int, int]:
        async with Server(reply()) as other:
            redirect = reply(body, status, f"Location: http://127.0.0.1:{other.port}/stats/payout")
            async with Server(redirect) as server, calling(f"http://127.0.0.1:{server.port}") as client:
                return await outcome(client), len(server.heads), other.connections

    error, asked, elsewhere = asyncio.run(play())

    assert isinstance(error, errors.Redirected)
    assert (1, 0) == (asked, elsewhere)


def test_foreign_text_is_not_repeated() -> None:
    """What a server chooses to say, in a status line, a code, a body or a redirect, is in no text of ours.

    A code and a host are shown where they look like one, and hold neither the secret nor a parameter.
    """
    replies = [reply(b"johnd"), reply(b'{"johnd":1}'), reply(b"", 500, "X: johnd"), reply(b"<p>johnd", 403)]
    replies += [refuse(code) for code in ("johnd!", "Johnd", "johnd" * 9, "johnd1", "johnd\n")]
    replies += [
        reply(b"", 302, f"Location: https://{target}") for target in ("a/johnd", "a b.johnd", "johnd@a")
    ]
    failures = [hear(answer).result for answer in replies]
    failures += [hear(refuse(code), request=ASK_BALANCE).result for code in ("johnd", "no_such_johnd")]
    failures.append(hear(reply(b"", 302, "Location: //johnd.example.com/"), request=ASK_BALANCE).result)

    assert [] == [str(failure) for failure in failures if "johnd" in (str(failure) + repr(failure)).lower()]


codes = (st.text(max_size=60) | st.text(st.sampled_from("a_k"), max_size=60)).filter(
    lambda code: code not in list(Reason)
)


@given(codes)
@example("a" * 40)
@example("a" * 41)
@example("kkkk")
def test_an_unknown_code_is_shown_where_it_looks_like_one(code: str) -> None:
    """Of a code that the reference does not have, [a-z_]{1,40} is shown, unless it holds the secret."""
    body = json.dumps({"success": False, "error": code}).encode()
    client, network = canned()
    network.response = in_pieces(200, body)
    error = asyncio.run(_failure(client, Secret("kkkk")))

    shown = re.fullmatch("[a-z_]{1,40}", code) and "kkkk" not in code
    with_code = f"the API answered {code}, an error code that the reference does not have here"
    without = "the API answered with an error code that the reference does not have here"
    assert (with_code if shown else without) == str(error)


async def _failure(client: Client, secret: Secret) -> PollError:
    with pytest.raises(PollError) as caught:
        await client.call(ASK_PAYOUT, secret)
    return caught.value


PAGE = b"\n<!DOCTYPE html>\n<html><h1>Sorry</h1></html>"


@pytest.mark.parametrize(
    ("expected", "status", "body", "headers"),
    [
        ("the answer is an HTML page and not JSON: correct api.url", 200, PAGE, {}),
        ("the answer is an HTML page and not JSON", 200, HTML, {}),
        ("HTTP status 403 with an HTML page, so the API has not answered: correct api.url", 403, PAGE, {}),
        ("HTTP status 503 with an HTML page", 503, PAGE, {}),
        ("HTTP status 429 with an HTML page", 429, PAGE, {}),
        ("HTTP status 404 with an HTML page: correct api.url", 404, PAGE, {}),
        ("HTTP status 404: correct api.url", 404, b"", {}),
        ("the API answered not_found: correct api.url", 404, b'{"error":"not_found"}', {}),
        ("HTTP status 500", 500, b"{}", {}),
        (
            "HTTP status 302 to https://example.com (if the",
            302,
            b"",
            {"location": "https://EXAMPLE.com/a?b=c"},
        ),
        ("HTTP status 301 to https://[::1]:8443 (if the", 301, b"", {"location": "https://[::1]:8443/"}),
        ("HTTP status 308 to example.com (if the", 308, b"", {"location": "//example.com"}),
        (
            "HTTP status 302 to another path of the same host (correct api.url); redirects",
            302,
            b"",
            {"location": "/elsewhere"},
        ),
    ],
)
def test_a_refusal_says_who_answers_and_what_to_correct(
    expected: str, status: int, body: bytes, headers: dict[str, str]
) -> None:
    """HTML is called HTML, 404 and not_found lead to api.url, and a redirect names its host and no more."""
    text = str(answered(in_pieces(status, body, 1 << 16, **headers)))

    assert text.startswith(expected)
    assert "?b" not in text


@given(st.binary(max_size=60), st.sampled_from([b"", b"<", b"<html", b"  <!doctype html ", b"<?xml ?><p>"]))
def test_json_is_never_called_html(data: bytes, start: bytes) -> None:
    """What can be read as JSON is no HTML page, whatever is in it."""
    body = start + data
    try:
        json.loads(body)
    except ValueError:
        assert is_html(b"<html>" + body)
    else:
        assert not is_html(body)


CLOSED, HASTY = "http://127.0.0.1:{closed}", {"url": "https://127.0.0.1:{port}", "hasty": True}


@pytest.mark.parametrize(
    ("expected", "answer", "options"),
    [
        ("127.0.0.1:{port} refused the connection", NOWHERE, {"url": CLOSED}),
        (
            "the host name no-such-host.invalid of api.url cannot",
            NOWHERE,
            {"url": "https://no-such-host.invalid"},
        ),
        (
            "127.0.0.1:{port} does not speak TLS: correct the port or https:// in api.url",
            reply(HTML, 400),
            HASTY,
        ),
        ("127.0.0.1:{port} broke off the TLS handshake: correct", NOWHERE, HASTY),
        ("the TLS handshake with 127.0.0.1:{port} failed: ", FAULTS["a TLS alert"].reply, HASTY),
        ("127.0.0.1:{port} does not answer in HTTP: correct the port", FAULTS["binary"].reply, {}),
        ("the answer of 127.0.0.1:{port} is not valid HTTP", FAULTS["two lengths"].reply, {}),
        ("the connection to 127.0.0.1:{port} broke within the answer", Reply((message()[:-1],)), {}),
        ("no whole answer from 127.0.0.1:{port} within 0.2 s", Reply((), "hang"), SHORT),
    ],
)
def test_a_server_that_is_not_reached_is_named(expected: str, answer: Reply, options: dict[str, Any]) -> None:
    """Host and port of what was called are in every failure without an answer, and what to correct."""
    heard = hear(answer, **options)
    port = re.search(r"127.0.0.1:(\d+)", str(heard.result))

    assert str(heard.result).startswith(expected.format(port=port[1] if port else ""))


def test_the_reasons_are_the_contracts() -> None:
    """Rules and dashboards name reasons: each is as the contract spells it."""
    reasons = (
        "timeout dns connect tls http_status rate_limited redirect too_large invalid_json invalid_response "
        "invalid_secret bad_request wrong_method not_found internal_error invalid_page unknown_error "
        "missing_input unknown_user"
    )

    assert reasons.split() == [reason.value for reason in Reason]
