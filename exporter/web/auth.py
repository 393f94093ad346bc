"""Basic authentication: who may read, decided off the event loop and remembered without a password.

A right header is remembered until its user's hash changes and never waits again. What is not known yet costs
one bcrypt check, one at a time in a thread of its own; a few checks wait, and past that the answer is BUSY.

**Unknown users.** An unknown user's header goes the same way as a wrong password: the same caches, the same
queue, one check against a hash that nobody has the password of, with the cost that most configured hashes
have (of equally many, the higher). Where all costs are equal, which webconfig asks for, time tells nothing.
The costliest would be no safer: who answers faster would exist, and anybody could order the longest check.

**What is kept.** HMAC-SHA-256, under a key that lives as long as the process, of the user's hash, user and
password. So a changed hash makes what was remembered about it worthless by itself. Looking a MAC up in a dict
is not constant in time, but without the key nobody can steer what is compared; the one right MAC of a user is
compared with `hmac.compare_digest` all the same. Headers that differ in spelling only are one MAC, and one
hash has one password: bcrypt would take `x` NUL `x` for `x`, and cut what is longer than 72 bytes; both are
refused here. So what is right is bounded by the number of users, and what is wrong by a limit.

All methods belong to one event loop. No text made here holds a password, a header or a hash.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import hmac
import queue
import threading
from collections import Counter, deque
from enum import Enum
from typing import TYPE_CHECKING

import bcrypt

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.web.config_file import Users

    _Task = tuple[bytes, bytes, Callable[[bool | None], None]]

WAITING = 16  # checks in the queue, besides the one that runs
WRONG = 1024  # wrong headers remembered: 100 KiB or so
LONGEST = 72  # bytes of a password; bcrypt knows no more
COST = 10  # of the stand-in where no user is configured


class Verdict(Enum):
    """What to do with a request: serve it, 401, or 503 with `Retry-After: 1`."""

    ALLOWED = "allowed"
    DENIED = "denied"
    BUSY = "busy"


class _Job:
    """One check; `done` tells all who wait for it, and None where nothing was found out."""

    __slots__ = ("done", "first", "hashed", "known", "mac", "password", "user")

    def __init__(
        self, user: bytes, password: bytes, hashed: bytes, mac: bytes, *, known: bool, first: bool
    ) -> None:
        self.user = user
        self.password = password
        self.hashed = hashed
        self.mac = mac
        self.known = known
        self.first = first
        self.done: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()

    def settle(self, right: bool | None) -> None:
        """Tell all who wait, once."""
        if not self.done.done():
            self.done.set_result(right)


class Authenticator:
    """Gives verdicts on `Authorization` headers for the users of the web configuration.

    `key` is 32 random bytes. `check(password, hash)` runs in the worker thread, one call at a time. At most
    `waiting` checks wait, and `wrong` wrong headers are remembered.
    """

    def __init__(
        self,
        users: Users,
        *,
        key: bytes,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
        waiting: int = WAITING,
        wrong: int = WRONG,
    ) -> None:
        self._key = key
        self._limits = waiting, wrong
        self._users: dict[bytes, bytes] = {}
        self._stand_in = b""
        self._right: dict[bytes, bytes] = {}  # user to the MAC of their one right header
        self._former: dict[bytes, tuple[bytes, bytes]] = {}  # user to the hash and MAC of before a reload
        self._wrong: dict[bytes, None] = {}  # the MAC used least recently comes first
        self._jobs: dict[bytes, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._running: _Job | None = None
        self._closed = False
        self._worker = _Worker(check)
        self.update(users)

    def __repr__(self) -> str:
        return f"<Authenticator of {len(self._users)} users>"

    def update(self, users: Users) -> None:
        """Take the users of a new configuration; whoever's hash is the same stays verified."""
        before, self._users = self._users, {user.encode(): h.reveal().encode() for user, h in users.items()}
        costs = Counter(int(hashed[4:6]) for hashed in self._users.values())
        cost = max(costs, key=lambda cost: (costs[cost], cost), default=COST)
        self._stand_in = b"$2b$%02d$" % cost + b"." * 53
        for user, mac in list(self._right.items()):
            if self._users.get(user) != before[user]:
                del self._right[user]
                self._former[user] = before[user], mac
        self._former = {user: former for user, former in self._former.items() if user in self._users}

    def known(self, header: bytes | None) -> Verdict | None:
        """Judge a header where that takes no check."""
        credentials = _credentials(header)
        if credentials is None:
            return Verdict.DENIED
        user, password = credentials
        return self._remembered(user, self._mac(self._users.get(user, self._stand_in), user, password))

    async def verdict(self, header: bytes | None) -> Verdict:
        """Judge the value of an `Authorization` header; None is a request without one."""
        credentials = _credentials(header)
        if credentials is None:
            return Verdict.DENIED
        user, password = credentials
        while True:
            hashed = self._users.get(user, self._stand_in)
            mac = self._mac(hashed, user, password)
            known = self._remembered(user, mac)
            if known is not None:
                return known
            job = self._jobs.get(mac) or self._submit(user, password, hashed, mac)
            # The shield: whoever gives up waiting must not take the others' answer along.
            right = None if job is None else await asyncio.shield(job.done)
            if right is None:
                return Verdict.BUSY
            if hashed == self._users.get(user, self._stand_in):
                return Verdict.ALLOWED if right and user in self._users else Verdict.DENIED

    def close(self) -> None:
        """End the thread after the check that runs; who waits, or comes with a new header later, is BUSY."""
        self._closed = True
        self._worker.close()
        self._queue.clear()
        for job in self._jobs.values():
            job.settle(None)
        self._jobs.clear()

    def _mac(self, hashed: bytes, user: bytes, password: bytes) -> bytes:
        # Every part but the last ends at a byte it cannot hold, so no two triples are one text.
        return hmac.digest(self._key, b"%s\0%s:%s" % (hashed, user, password), "sha256")

    def _remembered(self, user: bytes, mac: bytes) -> Verdict | None:
        if hmac.compare_digest(self._right.get(user, b""), mac):
            return Verdict.ALLOWED
        if mac in self._wrong:
            self._wrong[mac] = self._wrong.pop(mac)
            return Verdict.DENIED
        return None

    def _submit(self, user: bytes, password: bytes, hashed: bytes, mac: bytes) -> _Job | None:
        """Queue a check; None where too many wait."""
        first = self._was_right(user, password)
        if self._closed or (len(self._queue) >= self._limits[0] and not first):
            return None
        job = _Job(user, password, hashed, mac, known=user in self._users, first=first)
        self._jobs[mac] = job
        (self._queue.appendleft if first else self._queue.append)(job)
        self._next()
        return job

    def _was_right(self, user: bytes, password: bytes) -> bool:
        """Whether the header was right until a reload changed the hash: such a one goes first, once.

        The file may have the same password under a new salt, and a scraper must not fail for that because
        somebody floods the queue. There is at most one such header of a user.
        """
        if user not in self._former:
            return False
        hashed, mac = self._former[user]
        return hmac.compare_digest(mac, self._mac(hashed, user, password))

    def _next(self) -> None:
        if self._running is not None or not self._queue:
            return
        self._running = job = self._queue.popleft()
        loop = asyncio.get_running_loop()

        def finished(right: bool | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and whoever waited with it
                loop.call_soon_threadsafe(self._finish, job, right)

        self._worker.put((job.password, job.hashed, finished))

    def _finish(self, job: _Job, right: bool | None) -> None:
        self._running = None
        self._jobs.pop(job.mac, None)
        if right is not None:
            right = right and job.known
            self._remember(job, right)
        job.settle(right)
        self._next()

    def _remember(self, job: _Job, right: bool) -> None:
        now = self._users.get(job.user, self._stand_in)
        if job.hashed == now and (right or job.first):
            self._former.pop(job.user, None)
        if not right:
            self._wrong[job.mac] = None
            if len(self._wrong) > self._limits[1]:
                del self._wrong[next(iter(self._wrong))]
        elif job.hashed == now:
            self._right[job.user] = job.mac
        elif job.user in self._users:  # a reload came in between: whoever waits asks again, and goes first
            self._former[job.user] = job.hashed, job.mac


class _Worker:
    """One thread that checks what it is handed, started when first needed.

    A daemon: a check cannot be stopped, and one of a high cost must not hold up the end of the process.
    """

    def __init__(self, check: Callable[[bytes, bytes], bool]) -> None:
        self._check = check
        self._todo: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, task: _Task) -> None:
        """Hand over password, hash, and whom to tell, from the thread: True, False, or None if it failed."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="bcrypt", daemon=True)
            self._thread.start()
        self._todo.put(task)

    def close(self) -> None:
        """End the thread when it is done with what it was handed."""
        self._todo.put(None)

    def _run(self) -> None:
        while self._one(self._todo.get()):
            pass

    def _one(self, task: _Task | None) -> bool:
        # A function of its own, so that no frame keeps the password until the next task comes.
        if task is None:
            return False
        password, hashed, finished = task
        right: bool | None = None
        with contextlib.suppress(BaseException):  # what bcrypt cannot check is neither right nor wrong
            right = self._check(password, hashed)
        finished(right)
        return True


def _credentials(header: bytes | None) -> tuple[bytes, bytes] | None:
    """Return user and password of a header, None where bcrypt need not be asked.

    Bytes stay bytes: RFC 7617's UTF-8 is what the file's user names are in, and a password is whatever bytes
    its hash was made of.
    """
    scheme, _, token = (header or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = binascii.a2b_base64(token.strip(b" "), strict_mode=True).partition(b":")
    except binascii.Error:
        return None
    if not colon or b"\0" in user + password or len(password) > LONGEST:
        return None
    return user, password
