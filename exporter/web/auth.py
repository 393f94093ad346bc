"""Basic authentication: checks headers in a thread, and remembers the results without a password.

A right header is remembered until its user's hash changes and never waits again. Every other header costs
one bcrypt check. Checks run one at a time in a thread; a few wait, and past that the verdict is BUSY.

**Unknown users.** The header of an unknown user is treated like a wrong password: the same caches, the same
queue, one check against a hash that has no password. That hash has the most common cost of the configured
hashes (of two equally common costs, the higher). If all costs are equal, as the web configuration advises,
the time taken reveals nothing. The highest cost would be no safer: a user who is answered faster would be
known to exist, and anybody could request the longest check.

**After a reload.** The file may have the same password under a new salt. A scraper must not fail because
somebody floods the queue at that time. So a header that was right under a user's former hash does not wait
in the queue, once. There is at most one such header per user.

**What is kept.** HMAC-SHA-256, under a key that lives as long as the process, of the user's hash, user and
password. So a changed hash makes what was remembered about it worthless. Looking up a MAC in a dictionary
does not take constant time, but without the key nobody can steer what is compared; the one right MAC of a
user is compared with `hmac.compare_digest` anyway. Headers that differ only in spelling have one MAC. bcrypt
would take `x` NUL `x` for `x`, and ignore what follows 72 bytes; both are rejected here, so that a hash has
one password. The number of users bounds the right headers that are kept, and a limit bounds the wrong ones.

All methods belong to one event loop. No text made here holds a password, a header or a hash.
"""

import asyncio
import binascii
import contextlib
import hmac
import threading
from collections import Counter
from collections.abc import Callable
from enum import Enum

import bcrypt

from exporter.web.web_config import Users

Check = Callable[[bytes, bytes], bool]  # whether a password belongs to a hash

MAX_WAITING_CHECKS = 16  # checks that wait for the one that runs
WRONG_LIMIT = 1024  # wrong headers remembered: about 100 KiB
MAX_PASSWORD_BYTES = 72  # bytes of a password; bcrypt ignores the rest
STAND_IN_COST = 10  # of the stand-in hash if no user is configured


class Verdict(Enum):
    """What to do with a request: serve it, 401, or 503 with `Retry-After: 1`."""

    ALLOWED = "allowed"
    DENIED = "denied"
    BUSY = "busy"


class Authenticator:
    """Gives verdicts on `Authorization` headers for the users of the web configuration.

    `key` is 32 random bytes. `check(password, hash)` runs in a thread, one call at a time. At most
    `wrong_limit` wrong headers are remembered.
    """

    def __init__(
        self, users: Users, *, key: bytes, check: Check = bcrypt.checkpw, wrong_limit: int = WRONG_LIMIT
    ) -> None:
        self._key = key
        self._check = check
        self._wrong_limit = wrong_limit
        self._users: dict[bytes, bytes] = {}
        self._stand_in = b""  # the hash that unknown users are checked against
        self._right: dict[bytes, tuple[bytes, bytes]] = {}  # by user: hash and MAC of the right header
        self._wrong: dict[bytes, None] = {}  # MACs, the least recently used first
        self._checks: dict[bytes, asyncio.Task[Verdict]] = {}  # by MAC: those that run or wait
        self._turn, self._first = asyncio.Lock(), asyncio.Lock()
        self._closed = False
        self.update(users)

    def update(self, users: Users) -> None:
        """Use the users of a new configuration; a user whose hash is the same stays verified."""
        self._users = {user.encode(): hashed.reveal().encode() for user, hashed in users.items()}
        costs = Counter(int(hashed[4:6]) for hashed in self._users.values())
        cost = max(costs, key=lambda cost: (costs[cost], cost), default=STAND_IN_COST)
        self._stand_in = b"$2b$%02d$" % cost + b"." * 53
        self._right = {user: right for user, right in self._right.items() if user in self._users}

    async def verdict(self, header: bytes | None) -> Verdict:
        """Judge the value of an `Authorization` header; None is a request without one."""
        credentials = _credentials(header)
        if credentials is None:
            return Verdict.DENIED
        user, password = credentials
        while True:
            hashed = self._users.get(user, self._stand_in)
            mac = self._mac(hashed, user, password)
            verified_hash, verified_mac = self._right.get(user, (b"", b""))
            if hmac.compare_digest(verified_mac, mac):
                return Verdict.ALLOWED
            if mac in self._wrong:
                self._wrong[mac] = self._wrong.pop(mac)
                return Verdict.DENIED
            if mac not in self._checks:
                was_right = hmac.compare_digest(verified_mac, self._mac(verified_hash, user, password))
                if self._closed or (len(self._checks) > MAX_WAITING_CHECKS and not was_right):
                    return Verdict.BUSY
                check = self._run_check(user, password, hashed, mac, was_right=was_right)
                self._checks[mac] = asyncio.create_task(check)
            check_task = self._checks[mac]
            # Whoever gives up waiting must not cancel the check that others wait for: `wait` cancels nothing.
            await asyncio.wait([check_task])
            verdict = Verdict.BUSY if check_task.cancelled() else check_task.result()
            # Where a reload came in between, the check was of another hash: judge again.
            if verdict is Verdict.BUSY or hashed == self._users.get(user, self._stand_in):
                return verdict

    def close(self) -> None:
        """Start no more checks; whoever waits for one, or comes with a new header later, is BUSY."""
        self._closed = True
        for check in self._checks.values():
            check.cancel()

    def _mac(self, hashed: bytes, user: bytes, password: bytes) -> bytes:
        # Every part but the last ends at a byte that it cannot hold, so no two triples are one text.
        return hmac.digest(self._key, b"%s\0%s:%s" % (hashed, user, password), "sha256")

    async def _run_check(
        self, user: bytes, password: bytes, hashed: bytes, mac: bytes, *, was_right: bool
    ) -> Verdict:
        """Check a password when it is its turn, and remember the result; BUSY if the check failed.

        The check runs in a daemon thread: it cannot be stopped, and must not delay the process' end.
        """
        loop, exists = asyncio.get_running_loop(), user in self._users
        results: asyncio.Queue[bool | None] = asyncio.Queue()

        def check() -> None:
            right = None
            with contextlib.suppress(BaseException):  # what bcrypt cannot check is neither right nor wrong
                right = self._check(password, hashed)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(results.put_nowait, right)

        try:
            async with self._first if was_right else self._turn:
                threading.Thread(target=check, name="bcrypt", daemon=True).start()
                right = await results.get()
        finally:
            del self._checks[mac]
        if right is None:
            return Verdict.BUSY
        if right and exists:
            if user in self._users:
                self._right[user] = hashed, mac
            return Verdict.ALLOWED
        self._wrong[mac] = None
        if len(self._wrong) > self._wrong_limit:
            del self._wrong[next(iter(self._wrong))]
        if was_right:
            self._right.pop(user, None)
        return Verdict.DENIED


def _credentials(header: bytes | None) -> tuple[bytes, bytes] | None:
    """Return user and password of a header, None where bcrypt need not be asked.

    Bytes stay bytes: user names in the file are UTF-8, as RFC 7617 has it, and a password is whatever bytes
    its hash was made of.
    """
    scheme, _, token = (header or b"").partition(b" ")
    try:
        user, colon, password = binascii.a2b_base64(token.strip(b" "), strict_mode=True).partition(b":")
    except binascii.Error:
        return None
    usable = scheme.lower() == b"basic" and colon and b"\0" not in user + password
    return (user, password) if usable and len(password) <= MAX_PASSWORD_BYTES else None
