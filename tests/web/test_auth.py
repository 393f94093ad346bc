"""auth.py: who is let in, what a check costs, what is remembered, and what a flood cannot do.

`Checks` stands in for bcrypt where order and number matter: a hash is `$2b$COST$` and the password, and a
check waits for the gate.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import threading
from typing import TYPE_CHECKING, TypeVar

import bcrypt
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.secret import Secret
from exporter.web.auth import MAX_WAITING_CHECKS, Authenticator, Verdict
from tests.conftest import REPOSITORY, settle

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

ALLOWED, DENIED, BUSY = Verdict.ALLOWED, Verdict.DENIED, Verdict.BUSY
KEY = bytes(range(32))
T = TypeVar("T")


def header(user: str, password: str | bytes, scheme: str = "Basic") -> bytes:
    password = password if isinstance(password, bytes) else password.encode()
    return scheme.encode() + b" " + base64.b64encode(user.encode() + b":" + password)


def hashes(**passwords: str) -> dict[str, Secret]:
    return {user: Secret(f"$2b$10${password}") for user, password in passwords.items()}


class Checks:
    """Checks that are counted, and that wait for the gate while it is shut."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, bytes]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        self.calls.append((password, hashed))
        self.threads.add(threading.get_ident())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.gate.wait(10)
        self.at_once -= 1
        return hashed[7:] == password

    async def begun(self, count: int) -> None:
        """Wait until so many checks have been called for."""
        while len(self.calls) < count:  # noqa: ASYNC110 - a thread makes the calls
            await asyncio.sleep(0.001)


@pytest.fixture
def checks() -> Iterator[Checks]:
    made = Checks()
    yield made
    made.gate.set()


def authenticator(checks: Checks, *, wrong: int = 1024, **passwords: str) -> Authenticator:
    return Authenticator(hashes(**passwords), key=KEY, check=checks, wrong_limit=wrong)


def run(auth: Authenticator, *headers: bytes | None) -> list[Verdict]:
    """Return the verdicts on headers, one after the other."""

    async def main() -> list[Verdict]:
        return [await auth.verdict(header) for header in headers]

    return bounded(main())


def bounded(main: Coroutine[None, None, T]) -> T:
    async def within() -> T:
        async with asyncio.timeout(20):
            return await main

    return asyncio.run(within())


# --- The toolkit's cases, with bcrypt itself


@pytest.fixture(scope="module")
def users() -> dict[str, Secret]:
    """Return the users of the restated `web_config_users.good`, but for the one whose check takes seconds."""
    data = REPOSITORY / "tests" / "data" / "web" / "same" / "web_config_users_noTLS.good.yaml"
    given = yaml.safe_load(data.read_text())["basic_auth_users"]
    return {user: Secret(hashed) for user, hashed in given.items() if user != "slow"}


@pytest.mark.parametrize(
    ("verdict", "value"),
    [
        pytest.param(DENIED, None, id="without basic auth"),
        pytest.param(ALLOWED, header("prometheus", "scrape-me"), id="with correct basic auth"),
        pytest.param(ALLOWED, header("grafana", "look-at-me"), id="with another correct basic auth"),
        pytest.param(DENIED, header("prometheus", "bad"), id="with bad password"),
        pytest.param(DENIED, header("nonexistent", "nonexistent"), id="with bad username"),
        pytest.param(DENIED, header("prometheus", "look-at-me"), id="with another user's password"),
    ],
)
def test_verdicts_are_the_toolkits(users: dict[str, Secret], verdict: Verdict, value: bytes | None) -> None:
    """TestUsers: the same users with the same passwords are let in, the first time and remembered."""
    auth = Authenticator(users, key=KEY)

    assert [verdict, verdict] == run(auth, value, value)


def test_right_and_wrong_at_once(users: dict[str, Secret]) -> None:
    """TestBasicAuthCache: 150 right and 150 wrong headers at once each get their own verdict."""
    auth = Authenticator(users, key=KEY)
    right, wrong = header("agent", "collect-me"), header("agent", "collect-you")

    async def main() -> list[Verdict]:
        return await asyncio.gather(*(auth.verdict(value) for value in [right, wrong] * 150))

    assert [ALLOWED, DENIED] * 150 == bounded(main())


@pytest.mark.parametrize("password", ["fakepassword", "", "." * 31])
def test_nobody_has_the_password_of_the_stand_in(users: dict[str, Secret], password: str) -> None:
    """TestBasicAuthWithFakepassword: an unknown user gets in with no password, cold or remembered."""
    auth = Authenticator(users, key=KEY)

    assert [DENIED, DENIED] == run(auth, header("fakeuser", password), header("fakeuser", password))


def test_a_check_that_says_yes_lets_no_unknown_user_in() -> None:
    """Even if the stand-in matched, whoever is not in the file is not let in, nor remembered as right."""
    auth = Authenticator(hashes(prometheus="right"), key=KEY, check=lambda _password, _hash: True)

    assert [DENIED, DENIED] == run(auth, header("nobody", "x"), header("nobody", "x"))


def test_no_user_name_poisons_what_is_remembered(checks: Checks) -> None:
    """TestByPassBasicAuthVuln: parts of user, hash and password never add up to another's."""
    auth = authenticator(checks, alice="secret")
    run(auth, header("alice", "secret"))

    for user, password in [("alice$2b$10$secret", ""), ("alic", "e:secret"), ("", "alice:secret")]:
        assert [DENIED] == run(auth, header(user, password))
    assert [DENIED] == run(auth, header("alice", "$2b$10$secret"))


# --- Headers


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "Basic  "])
def test_spelling_of_the_header_does_not_matter(checks: Checks, scheme: str) -> None:
    """The scheme's case and spaces after it change nothing, and cost no check of their own."""
    auth = authenticator(checks, alice="secret")
    first = run(auth, header("alice", "secret"))

    assert [ALLOWED, *first] == run(auth, header("alice", "secret", scheme), header("alice", "secret"))
    assert 1 == len(checks.calls)


@pytest.mark.parametrize(
    ("user", "password"), [("zoë", "naïve-ключ"), ("", "empty name"), ("empty", ""), ("colon", ":a:b:")]
)
def test_names_and_passwords_are_utf8(checks: Checks, user: str, password: str) -> None:
    """Names and passwords are compared as the bytes of their UTF-8; only the first colon parts them."""
    auth = Authenticator(hashes(**{user: password}), key=KEY, check=checks)

    assert [ALLOWED, DENIED] == run(auth, header(user, password), header(user, password + "x"))


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"Basic",
        b"Basic ",
        b"Basicx " + base64.b64encode(b"alice:secret"),
        b"Bearer " + base64.b64encode(b"alice:secret"),
        b"Basic alice:secret",
        b"Basic YWxpY2U6c2VjcmV",
        b"Basic YWxpY2U6c2Vj cmV0",
        b"Basic " + base64.b64encode(b"alice"),
        header("alice", b"secret\0"),
        header("alice", b"secret\0secret"),
        header("alice\0", b"secret"),
        header("alice", "x" * 73),
        header("alice", "ü" * 37),
    ],
)
def test_malformed_headers_cost_nothing(checks: Checks, value: bytes | None) -> None:
    """What is no `Basic`, no base64, has no colon, a NUL or over 72 bytes is denied without a check."""
    auth = authenticator(checks, alice="secret")

    assert [DENIED] == run(auth, value)
    assert [] == checks.calls


def test_bcrypt_itself_would_take_what_is_refused() -> None:
    """A password repeated after a NUL is bcrypt's same password, and must not be ours; 72 bytes are fine."""
    longest = "x" * 72
    users = {"alice": Secret(bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()),
             "bob": Secret(bcrypt.hashpw(longest.encode(), bcrypt.gensalt(4)).decode())}  # fmt: skip
    auth = Authenticator(users, key=KEY)

    assert bcrypt.checkpw(b"x\0x", users["alice"].reveal().encode())
    assert [DENIED, ALLOWED] == run(auth, header("alice", "x\0x"), header("bob", longest))


@given(st.binary(max_size=40) | st.binary(max_size=60).map(lambda data: b"basic " + base64.b64encode(data)))
def test_no_header_raises_or_gets_in(value: bytes) -> None:
    """Whatever a header holds, the verdict is DENIED where no password is right."""
    auth = Authenticator(hashes(alice="secret"), key=KEY, check=lambda _password, _hash: False)

    assert [DENIED] == run(auth, value)


# --- What a check costs


def test_unknown_users_cost_what_known_ones_cost(checks: Checks) -> None:
    """A wrong password and an unknown user are one check each against hashes of the same cost."""
    auth = authenticator(checks, alice="secret")
    run(auth, header("alice", "wrong"), header("mallory", "wrong"))

    (_, known), (_, unknown) = checks.calls
    assert known[:7] == unknown[:7] == b"$2b$10$"
    run(auth, header("alice", "wrong"), header("mallory", "wrong"))
    assert 2 == len(checks.calls)


@pytest.mark.parametrize(
    ("cost", "costs"), [(10, []), (12, [12]), (12, [4, 12, 12]), (12, [4, 12]), (4, [4, 4, 12])]
)
def test_an_unknown_user_costs_what_most_users_cost(checks: Checks, cost: int, costs: list[int]) -> None:
    """The stand-in has the cost of most hashes, the higher of two as common, 10 of none."""
    users = {f"user-{index}": Secret(f"$2y${cost:02}$x") for index, cost in enumerate(costs)}
    run(Authenticator(users, key=KEY, check=checks), header("mallory", "x"))

    assert [b"$2b$%02d$" % cost + b"." * 53] == [hashed for _, hashed in checks.calls]


def test_the_stand_in_is_a_hash_bcrypt_checks() -> None:
    """Bcrypt takes the stand-in for a hash like any other: it says no, and does not raise."""
    results = []

    def check(password: bytes, hashed: bytes) -> bool:
        results.append(bcrypt.checkpw(password, hashed))
        return results[-1]

    auth = Authenticator({"alice": Secret("$2y$04$x")}, key=KEY, check=check)

    assert [DENIED] == run(auth, header("mallory", "x"))
    assert [False] == results


def test_checks_run_one_at_a_time_off_the_loop(checks: Checks) -> None:
    """Checks run one after the other, and never in the event loop's thread."""
    auth = authenticator(checks, alice="secret")

    async def main() -> set[Verdict]:
        values = [header("alice", f"wrong-{number}") for number in range(10)]
        return set(await asyncio.gather(*map(auth.verdict, values)))

    assert {DENIED} == bounded(main())
    assert 1 == checks.most_at_once
    assert threading.get_ident() not in checks.threads


# --- Queue


async def flood(
    auth: Authenticator, checks: Checks, count: int = MAX_WAITING_CHECKS + 1
) -> list[asyncio.Task[Verdict]]:
    """Shut the gate and start as many checks as fit: one that runs and those that wait."""
    checks.gate.clear()
    done = len(checks.calls)
    tasks = [asyncio.create_task(auth.verdict(header(f"bot-{n}", "x"))) for n in range(count)]
    await checks.begun(done + 1)
    await settle()
    return tasks


def test_past_sixteen_waiting_checks_it_is_busy(checks: Checks) -> None:
    """One check runs and 16 wait; the next new header is BUSY at once, and not once they are done."""
    auth = authenticator(checks, alice="secret")

    async def main() -> tuple[Verdict, set[Verdict], Verdict]:
        tasks = await flood(auth, checks)
        busy = await auth.verdict(header("alice", "secret"))
        checks.gate.set()
        return busy, set(await asyncio.gather(*tasks)), await auth.verdict(header("alice", "secret"))

    assert (BUSY, {DENIED}, ALLOWED) == bounded(main())
    assert MAX_WAITING_CHECKS + 2 == len(checks.calls)


def test_a_verified_header_never_waits(checks: Checks) -> None:
    """In a flood a verified header is allowed at once, also after a reload that left its hash as it was."""
    auth = authenticator(checks, alice="secret")

    async def main() -> list[Verdict]:
        verdicts = [await auth.verdict(header("alice", "secret"))]
        await flood(auth, checks)
        verdicts.append(await auth.verdict(header("alice", "secret")))
        auth.update(hashes(alice="secret", bob="new"))
        verdicts.append(await auth.verdict(header("alice", "secret")))
        return [*verdicts, await auth.verdict(header("bob", "new"))]

    assert [ALLOWED, ALLOWED, ALLOWED, BUSY] == bounded(main())


def test_wrong_headers_that_are_known_never_wait(checks: Checks) -> None:
    """In a flood a header known to be wrong is denied at once."""
    auth = authenticator(checks, alice="secret")

    async def main() -> list[Verdict]:
        first = await auth.verdict(header("alice", "wrong"))
        await flood(auth, checks)
        return [first, await auth.verdict(header("alice", "wrong"))]

    assert [DENIED, DENIED] == bounded(main())


def test_identical_headers_share_one_check(checks: Checks) -> None:
    """Any number of one header in flight is one check, one place in the queue, and one verdict."""
    auth = authenticator(checks, alice="secret")

    async def main() -> set[Verdict]:
        checks.gate.clear()
        tasks = [asyncio.create_task(auth.verdict(header("alice", "secret"))) for _ in range(100)]
        await checks.begun(1)
        checks.gate.set()
        return set(await asyncio.gather(*tasks))

    assert {ALLOWED} == bounded(main())
    assert 1 == len(checks.calls)


def test_who_gives_up_takes_nobody_along(checks: Checks) -> None:
    """A cancelled request neither ends the check others wait for, nor one that waits, nor the count."""
    places = MAX_WAITING_CHECKS + 1
    bots = hashes(**{f"bot-{number}": "x" for number in range(places)})
    auth = Authenticator(bots, key=KEY, check=checks)

    async def main() -> tuple[Verdict, list[Verdict], list[Verdict]]:
        tasks = await flood(auth, checks)
        sharing = asyncio.create_task(auth.verdict(header("bot-0", "x")))
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        checks.gate.set()
        shared = await sharing
        again = [await auth.verdict(header(f"bot-{number}", "x")) for number in range(places)]
        strangers = [auth.verdict(header(f"stranger-{number}", "x")) for number in range(places)]
        return shared, again, await asyncio.gather(*strangers)  # as many as before find a place

    assert (ALLOWED, [ALLOWED] * places, [DENIED] * places) == bounded(main())
    assert 2 * places == len(checks.calls)


# --- Reload


def test_a_new_hash_is_checked_anew(checks: Checks) -> None:
    """A password that the file no longer has is denied, and the new one is allowed after one check."""
    auth = authenticator(checks, alice="old")
    before = run(auth, header("alice", "old"), header("alice", "new"))
    auth.update(hashes(alice="new"))

    assert [ALLOWED, DENIED] == before
    assert [DENIED, ALLOWED] == run(auth, header("alice", "old"), header("alice", "new"))


def test_a_user_who_left_is_denied(checks: Checks) -> None:
    """A user whom the file no longer has is denied, and back in it is checked anew."""
    auth = authenticator(checks, alice="secret", bob="x")
    verdicts = run(auth, header("alice", "secret"))
    for users in (hashes(bob="x"), hashes(alice="secret")):
        auth.update(users)
        verdicts += run(auth, header("alice", "secret"))

    assert [ALLOWED, DENIED, ALLOWED] == verdicts
    assert 3 == len(checks.calls)


def salted(checks: Checks) -> Authenticator:
    """Return an authenticator for which a password's case is its salt: SECRET is a new hash of secret."""

    def check(password: bytes, hashed: bytes) -> bool:
        return checks(password, hashed.lower())

    return Authenticator(hashes(alice="secret"), key=KEY, check=check)


def test_a_header_that_was_right_goes_first(checks: Checks) -> None:
    """The same password under a new hash is checked before all that wait, even if too many do."""
    auth = salted(checks)

    async def main() -> list[Verdict]:
        first = await auth.verdict(header("alice", "secret"))
        tasks = await flood(auth, checks)
        auth.update(hashes(alice="SECRET"))
        again = asyncio.create_task(auth.verdict(header("alice", "secret")))
        busy = await auth.verdict(header("alice", "other"))
        checks.gate.set()
        verdicts = [first, busy, await again]
        await asyncio.gather(*tasks)
        return verdicts

    assert [ALLOWED, BUSY, ALLOWED] == bounded(main())
    assert [b"secret", b"x", b"secret"] == [password for password, _ in checks.calls[:3]]


def test_a_header_that_was_right_goes_first_once(checks: Checks) -> None:
    """Once a former password was found wrong it waits like any other."""
    auth = authenticator(checks, wrong=1, alice="old")
    run(auth, header("alice", "old"))
    auth.update(hashes(alice="new"))
    verdicts = run(auth, header("alice", "old"), header("mallory", "x"))

    async def main() -> Verdict:
        await flood(auth, checks)
        return await auth.verdict(header("alice", "old"))

    assert [DENIED, DENIED, BUSY] == [*verdicts, bounded(main())]


def test_new_hashes_of_many_users_are_checked_one_at_a_time(checks: Checks) -> None:
    """When all hashes change at once, every scraper is let in, and no two such checks run together."""
    users = {f"user-{number}": "secret" for number in range(2 * MAX_WAITING_CHECKS)}

    def check(password: bytes, hashed: bytes) -> bool:
        return checks(password, hashed.lower())

    auth = Authenticator(hashes(**users), key=KEY, check=check)

    async def main() -> list[Verdict]:
        for user in users:
            await auth.verdict(header(user, "secret"))
        auth.update(hashes(**dict.fromkeys(users, "SECRET")))
        return await asyncio.gather(*(auth.verdict(header(user, "secret")) for user in users))

    assert [ALLOWED] * len(users) == bounded(main())
    assert 1 == checks.most_at_once


@pytest.mark.parametrize(
    ("verdict", "after"),
    [(ALLOWED, {"alice": "SECRET"}), (DENIED, {"alice": "other"}), (DENIED, {"bob": "x"})],
)
def test_a_reload_during_a_check_counts(checks: Checks, verdict: Verdict, after: dict[str, str]) -> None:
    """A check begun before a reload decides nothing after it: the header is judged by the new file."""
    auth = salted(checks)

    async def main() -> Verdict:
        checks.gate.clear()
        task = asyncio.create_task(auth.verdict(header("alice", "secret")))
        await checks.begun(1)
        auth.update(hashes(**after))
        checks.gate.set()
        return await task

    assert verdict == bounded(main())
    assert 2 == len(checks.calls)


# --- Memory and secrecy


def test_a_flood_does_not_grow_memory(checks: Checks) -> None:
    """Wrong headers are remembered up to a bound, the one used least recently goes, and right ones stay."""
    auth = authenticator(checks, wrong=8, alice="secret")
    run(auth, header("alice", "secret"), header("alice", "kept"))
    for number in range(50):
        run(auth, header(f"bot-{number}", "x"), header("alice", "kept"))

    assert 52 == len(checks.calls)
    remembered = [header("alice", "secret"), header("alice", "kept")]
    remembered += [header(f"bot-{number}", "x") for number in range(43, 50)]  # and `kept`: eight wrong ones
    assert [ALLOWED, *[DENIED] * 8] == run(auth, *remembered)
    assert 52 == len(checks.calls)
    assert [DENIED] == run(auth, header("bot-42", "x"))
    assert 53 == len(checks.calls)


def test_no_password_is_kept(checks: Checks) -> None:
    """After a verdict nothing that the garbage collector knows holds the password or the header."""
    auth = authenticator(checks, alice="secret")
    run(auth, header("alice", "canary-4711"))
    checks.calls.clear()

    held = [bytes(item) for item in everything([*vars(auth).values()]) if isinstance(item, bytes)]
    assert b"$2b$10$secret" in held
    assert not [item for item in held if b"canary" in item or item == header("alice", "canary-4711")]


def everything(roots: list[object]) -> list[object]:
    """Return what can be reached from the roots through containers."""
    known: dict[int, object] = {}
    while roots:
        item = roots.pop()
        if id(item) not in known and isinstance(item, dict | list | tuple | bytes | str | set):
            known[id(item)] = item
            roots += gc.get_referents(item)
    return list(known.values())


def test_nothing_is_shown(checks: Checks) -> None:
    """The text of an authenticator, and of its checks in flight, holds neither hash nor password."""
    auth = authenticator(checks, alice="secret-4711")

    async def main() -> str:
        tasks = await flood(auth, checks, 2)
        shown = f"{auth} {auth!r} {asyncio.all_tasks()!r} {tasks!r}"
        checks.gate.set()
        await asyncio.gather(*tasks)
        return shown

    assert "4711" not in (shown := bounded(main()))
    assert "Authenticator" in shown


# --- Failure and end


def test_a_check_that_fails_is_neither_right_nor_wrong() -> None:
    """Where bcrypt raises, the answer is BUSY, nothing is remembered, and the next check runs."""
    raised: list[bytes] = []

    def check(password: bytes, _hashed: bytes) -> bool:
        if not raised:
            raised.append(password)
            raise ValueError(password)
        return True

    auth = Authenticator(hashes(alice="secret"), key=KEY, check=check)

    assert [BUSY, ALLOWED] == run(auth, header("alice", "secret"), header("alice", "secret"))


def test_close_ends_the_waiting(checks: Checks) -> None:
    """After close whoever waits is BUSY, no check begins, and a verified header is still allowed."""
    auth = authenticator(checks, alice="secret")

    async def main() -> tuple[list[Verdict], set[Verdict]]:
        known = await auth.verdict(header("alice", "secret"))
        tasks = await flood(auth, checks)
        auth.close()
        waited = set(await asyncio.gather(*tasks))
        checks.gate.set()
        return [
            known,
            await auth.verdict(header("alice", "secret")),
            await auth.verdict(header("bob", "x")),
        ], waited

    assert ([ALLOWED, ALLOWED, BUSY], {BUSY}) == bounded(main())
    assert 2 == len(checks.calls)


def test_closing_twice_is_closing(checks: Checks) -> None:
    """Closing what was never asked is nothing to do, once or twice."""
    auth = authenticator(checks, alice="secret")
    auth.close()
    auth.close()

    assert [BUSY] == run(auth, header("alice", "secret"))


def test_a_check_outlives_its_loop(checks: Checks) -> None:
    """A check that ends after the event loop has gone disturbs nobody, and its thread is a daemon."""
    auth = authenticator(checks, alice="secret")

    async def main() -> None:
        checks.gate.clear()
        task = asyncio.create_task(auth.verdict(header("alice", "secret")))
        await checks.begun(1)
        task.cancel()

    bounded(main())
    (thread,) = [thread for thread in threading.enumerate() if thread.ident in checks.threads]
    auth.close()
    checks.gate.set()
    thread.join(5)

    assert (True, False) == (thread.daemon, thread.is_alive())
