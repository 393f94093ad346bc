"""The stage of a golden run: virtual time, a network in memory, and the recording of what was seen.

Nothing here imports the program: that is `program`'s part.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import selectors
from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, TypeVarTuple, cast
from urllib.parse import parse_qsl, urlencode

import httpx

from tests.golden import program
from tests.inline import InlineExecutor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
    from contextvars import Context

    Api = Callable[["Call"], Awaitable["Reply"]]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

WALL = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC, a Tuesday
MONO = 1000.0
NO_QUERY: Mapping[str, str] = MappingProxyType({})
CHANCE = 0.25  # what the program draws wherever it asks for a random number
MOST_TURNS = 100_000  # of the event loop, until the program is at rest
LATENCY = 0.125  # seconds that every answer of the API takes

# Sample names that are not recorded.
UNRECORDED = (
    "process_",  # the operating system's view of this process
    "python_",  # the interpreter and its garbage collector
    "cryptoloot_exporter_build_info",  # versions
    "cryptoloot_exporter_page_bytes",  # depends on the lines that are not recorded
    "cryptoloot_exporter_series",  # the same
)
UNORDERED = "cryptoloot_poll_duration_seconds"
# Keys of the status document that are not recorded, at any depth: versions, and sizes of the pages.
UNRECORDED_KEYS = {"version", "python_version", "metrics_page", "bytes", "series"}
# Keys of log lines that are not recorded: versions, and the places in the code where a poll crashed.
UNRECORDED_FIELDS = {"version", "frames"}
OPENMETRICS = b"application/openmetrics-text;version=1.0.0"
LONG_NUMBER = re.compile(r"(?<![\w.])\d+\.\d{4,}(?:e[+-]?\d+)?(?![\w.])")


class Call(NamedTuple):
    """A request to the API."""

    method: str
    path: str
    query: Mapping[str, str]
    accepts_gzip: bool


class Reply(NamedTuple):
    """An HTTP answer; `cut`: the connection closes after half of the body."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    cut: bool = False

    def header(self, name: bytes) -> str:
        """Return a header field, empty where there is none."""
        return dict(self.headers).get(name, b"").decode()


class _Selector(selectors.DefaultSelector):
    """Tells who waits for it when the event loop is at rest: when it would wait for more than nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: asyncio.Future[None] | None = None
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if not self.waiting:
            return super().select(timeout)
        if timeout != 0:
            self.waiting.set_result(None)
            self.waiting = None
        elif self.turns > MOST_TURNS:
            self.waiting.set_exception(RuntimeError("the program never comes to rest"))
            self.waiting = None
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until a scene lets time pass: time-outs are virtual too."""

    def __init__(self) -> None:
        self.virtual = MONO
        self.selector = _Selector()
        self.timers: list[asyncio.TimerHandle] = []
        super().__init__(self.selector)
        self.set_default_executor(InlineExecutor())

    def time(self) -> float:
        return self.virtual

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self.timers.append(super().call_at(when, callback, *args, context=context))
        return self.timers[-1]

    async def rest(self) -> None:
        """Return when nothing is left to do before the next timer."""
        self.selector.turns, self.selector.waiting = 0, self.create_future()
        await self.selector.waiting

    def next_timer(self) -> float:
        """Return when the next timer is due, infinity where there is none."""
        self.timers = [
            timer for timer in self.timers if timer.when() > self.virtual and not timer.cancelled()
        ]
        return min((timer.when() for timer in self.timers), default=float("inf"))


class Time:
    """Both clocks of a run, as far as the loop's own time has come."""

    def __init__(self, wall: float = WALL) -> None:
        self._loop = cast("_Loop", asyncio.get_running_loop())
        self._begin = self.mono
        self._offset = wall - self.mono

    @property
    def mono(self) -> float:
        return self._loop.virtual

    @property
    def elapsed(self) -> float:
        """Seconds of the monotonic clock since the run began."""
        return self.mono - self._begin

    @property
    def wall(self) -> float:
        return self.mono + self._offset

    def clock(
        self,
    ) -> tuple[Callable[[], tuple[float, float]], Callable[[float], Awaitable[None]], float]:
        """Return what the program asks for time and chance."""
        return lambda: (self.wall, self.mono), asyncio.sleep, CHANCE

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back; the monotonic clock goes on as it was."""
        self._offset += seconds

    def step(self, seconds: float) -> None:
        """Move both clocks without waking anybody: a process that was stopped."""
        self._loop.virtual += seconds

    async def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.mono + seconds
        await self.settle()
        while (due := self._loop.next_timer()) <= end:
            self._loop.virtual = max(self.mono, due)
            await self.settle()
        self._loop.virtual = max(self.mono, end)
        await self.settle()

    async def settle(self) -> None:
        """Let everything be done that needs no time."""
        await self._loop.rest()


def play(scene: Callable[[], Coroutine[Any, Any, str]]) -> str:
    """Run a scene on a loop of virtual time, and return its recording."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(scene())


# ---------------------------------------------------------------------------------------------------- network


async def ask(app: Any, call: Call, *headers: tuple[bytes, bytes]) -> Reply:
    """Send one request to an ASGI application."""
    started: dict[str, Any] = {}
    body, finished = bytearray(), False

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal finished
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            body.extend(message.get("body", b""))
            finished = not message.get("more_body", False)

    coding = ((b"accept-encoding", b"gzip"),) if call.accepts_gzip else ()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": call.method,
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": urlencode(call.query, errors="surrogatepass").encode(),
        "root_path": "",
        "headers": [(b"host", b"exporter.example:12758"), *coding, *headers],
        "client": ("192.0.2.1", 4711),
        "server": ("192.0.2.2", 12758),
    }
    await app(scope, receive, send)
    fields = tuple((name.lower(), value) for name, value in started["headers"])
    return Reply(started["status"], fields, bytes(body), cut=not finished)


class _Body(httpx.AsyncByteStream):
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._reply.body
        if self._reply.cut:
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


class Wire(httpx.AsyncBaseTransport):
    """The network between the program and an API, which notes every request with its virtual time."""

    def __init__(self, time: Time, api: Api) -> None:
        self.calls: list[tuple[float, str]] = []
        self.api = api
        self._time = time

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of the program."""
        query = dict(parse_qsl(request.url.query.decode(), keep_blank_values=True, errors="surrogatepass"))
        call = Call(request.method, request.url.path, query, "gzip" in request.headers["accept-encoding"])
        shown = urlencode({key: query[key] for key in sorted(query)}, errors="surrogatepass")
        self.calls.append(
            (self._time.elapsed, f"{call.method} {request.url.netloc.decode()}{call.path}?{shown}")
        )
        await asyncio.sleep(LATENCY)
        reply = await self.api(call)
        return httpx.Response(reply.status, headers=list(reply.headers), stream=_Body(reply))


# -------------------------------------------------------------------------------------------------- recording


class _Events(io.StringIO):
    """A stream for the log, which notes the virtual time of each line."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self._time = time
        self.lines: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        self.lines += [(self._time.elapsed, line) for line in text.splitlines()]
        return len(text)


class Offstage:
    """Virtual time, the network and the log for a function that is no daemon."""

    def __init__(self, api: Callable[[Time], Api]) -> None:
        self.time = Time()
        self.wire = Wire(self.time, api(self.time))
        self._events = _Events(self.time)

    async def result(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of work, which takes the virtual time that it needs."""
        with program.logged(self._events):
            task = asyncio.ensure_future(work)
            await self.time.settle()
            while not task.done():
                await self.time.run(1)
            return task.result()

    def log(self) -> list[str]:
        """Return the log so far."""
        return _timed(self._events.lines, _event)


class Stage:
    """A daemon on virtual time that polls an API in memory, and the recording of what it shows."""

    def __init__(self, document: Mapping[str, Any], api: Callable[[Time], Api], **options: Any) -> None:
        wall = options.pop("wall", WALL)
        self.time = Time(wall)
        self.document: object = document
        self.environ: dict[str, str] = options.pop("environ", None) or secrets(document)
        self.wire = Wire(self.time, api(self.time))
        self.sections: list[str] = []
        self._events = _Events(self.time)
        self._logging = program.logged(self._events)
        self._logging.__enter__()
        clock = self.time.clock()
        self.app = program.new_app(lambda: self.document, self.environ, clock, self.wire, **options)

    async def close(self, *, requests: bool = True) -> str:
        """Stop the daemon; return the recording, with all requests to the API where they are wanted."""
        await self.app.close()
        await self.time.settle()
        self._logging.__exit__(None, None, None)
        self.note("log", *_timed(self._events.lines, _event))
        if requests:
            self.note("requests", *_timed(self.wire.calls, lambda line: line))
        return "".join(self.sections)

    async def run(self, seconds: float) -> None:
        """Let so much time pass."""
        await self.time.run(seconds)

    async def until(self, seconds: float) -> None:
        """Let time pass until so many seconds after the start."""
        await self.time.run(seconds - self.time.elapsed)

    def note(self, title: str, *lines: str) -> None:
        """Record lines under a title that begins with the virtual time."""
        stamp = _stamp(self.time.elapsed)
        self.sections.append("".join(f"{line}\n" for line in (f"=== {stamp} {title}", *lines)))

    async def get(
        self,
        path: str,
        *headers: tuple[bytes, bytes],
        method: str = "GET",
        zipped: bool = False,
        query: Mapping[str, str] = NO_QUERY,
    ) -> Reply:
        """Send a request to the daemon. Time passes only where the answer needs some."""
        call = Call(method, path, query, accepts_gzip=zipped)
        task = asyncio.ensure_future(ask(self.app.web, call, *headers))
        await self.time.settle()
        while not task.done():
            await self.time.run(0.25)
        return task.result()

    async def metrics(
        self, path: str = "/metrics", *, help_too: bool = False, query: Mapping[str, str] = NO_QUERY
    ) -> None:
        """Record a metrics page; hold it to its gzip, and to OpenMetrics with its gzip."""
        texts = []
        for accept in (b"text/plain", OPENMETRICS):
            field = (b"accept", accept)
            plain = await self.get(path, field, query=query)
            zipped = await self.get(path, field, zipped=True, query=query)
            if zipped.status == 200:
                assert zipped.header(b"content-encoding") == "gzip"
                zipped = zipped._replace(body=gzip.decompress(zipped.body))
            assert (plain.status, plain.body) == (zipped.status, zipped.body)
            texts.append([str(plain.status), *_page(plain.body.decode(), help_too=help_too)])
        text, openmetrics = texts
        title = f"GET {path}" + (f"?{urlencode(query)}" if query else "")
        self.note(title, *text)
        # Most lines are the same in both formats.
        self.note(f"{title} as OpenMetrics, lines that text has not", *_without(openmetrics, text))
        self.note(f"{title} as text, lines that OpenMetrics has not", *_without(text, openmetrics))

    async def status(self, *, rows: int = 2, query: Mapping[str, str] = NO_QUERY) -> None:
        """Record the status as JSON, with so many of each site's newest rows."""
        reply = await self.get("/api/v1/status", query=query)
        title = "GET /api/v1/status" + (f"?{urlencode(query)}" if query else "")
        self.note(title, str(reply.status), *_outlined(_shortened(json.loads(reply.body), rows)))

    async def page(self, *, graphs: bool = False, query: Mapping[str, str] = NO_QUERY) -> None:
        """Record the status page's HTML, without its style, and with its graphs where they are asked for."""
        reply = await self.get("/", query=query)
        html = re.sub(r"<style>.*?</style>", "<style/>", reply.body.decode(), flags=re.DOTALL)
        if not graphs:
            html = re.sub(r' d="[^"]+"', ' d="..."', html)
        html = re.sub(r'(<span class="soft">)[0-9][^<]*(</span>)', r"\1VERSION\2", html, count=1)
        html = re.sub(r"Python [0-9][0-9.a-z+]*", "Python VERSION", html)
        # Sizes count the lines that are not recorded, too.
        html = re.sub(r"[0-9.]+ (?:[KMG]i)?B\b", "SIZE", html)
        html = re.sub(r"[0-9,]+ series", "COUNT series", html)
        title = "GET /" + (f"?{urlencode(query)}" if query else "")
        self.note(title, str(reply.status), *_lines(html))

    async def text(
        self,
        path: str,
        *headers: tuple[bytes, bytes],
        method: str = "GET",
        query: Mapping[str, str] = NO_QUERY,
    ) -> None:
        """Record a short answer with its header fields."""
        reply = await self.get(path, *headers, method=method, query=query)
        self.note(
            _title(method, path, query), str(reply.status), *_fields(reply), *_lines(reply.body.decode())
        )

    async def fields(
        self,
        path: str,
        *headers: tuple[bytes, bytes],
        method: str = "GET",
        zipped: bool = False,
        query: Mapping[str, str] = NO_QUERY,
    ) -> None:
        """Record the header fields of an answer alone."""
        reply = await self.get(path, *headers, method=method, zipped=zipped, query=query)
        asked = ", ".join(f"{name.decode()}: {value.decode()}" for name, value in headers)
        title = _title(method, path, query) + (f" ({asked})" if asked else "") + (" gzip" if zipped else "")
        self.note(f"{title}, header fields", str(reply.status), *_fields(reply), f"{bool(reply.body)}")

    async def reload(self) -> None:
        """Ask for a reload, and record the answer."""
        await self.text("/-/reload", method="POST")

    async def look(self) -> None:
        """Record the metrics, the status and the health."""
        await self.metrics()
        await self.status()
        reply = await self.get("/-/healthy")
        self.note("GET /-/healthy", str(reply.status), *_lines(reply.body.decode()))


def secrets(document: Mapping[str, Any]) -> dict[str, str]:
    """Return an environment that has the secret `secret-of-NAME` for each site's variable."""
    return {
        site["secret_env"]: f"secret-of-{site['name']}" for site in document["sites"] if "secret_env" in site
    }


def samples(page: str) -> list[str]:
    """Return the samples of a metrics page that are recorded, sorted."""
    return _page(page, help_too=False)


def rounded(line: str) -> str:
    """Return a line whose long numbers have 12 digits: the last ones depend on Python's version."""
    return LONG_NUMBER.sub(lambda match: f"{float(match[0]):.12g}", line)


def _stamp(elapsed: float) -> str:
    seconds = round(elapsed, 3)
    return f"+{int(seconds // 3600):02}:{int(seconds // 60 % 60):02}:{seconds % 60:06.3f}"


def _timed(lines: Iterable[tuple[float, str]], shown: Callable[[str], str]) -> list[str]:
    """Return lines by time; those of one moment are sorted, since the order of tasks is no promise."""
    moments: defaultdict[str, list[str]] = defaultdict(list)
    for at, line in lines:
        moments[_stamp(at)].append(shown(line))
    return [f"{stamp} {line}" for stamp in sorted(moments) for line in sorted(moments[stamp])]


def _event(line: str) -> str:
    """Return a log line without its real time, and without what is not recorded."""
    event = {key: value for key, value in json.loads(line).items() if key not in UNRECORDED_FIELDS}
    assert event.pop("timestamp").endswith("Z")
    return rounded(json.dumps(event, sort_keys=True))


def _page(text: str, *, help_too: bool) -> list[str]:
    """Return the samples, sorted; with HELP and TYPE they keep the order that they have."""
    recorded = [rounded(line) for line in text.split("\n") if not _named(line).startswith(UNRECORDED)]
    if not help_too:
        return sorted(line for line in recorded if line and not line.startswith("# "))
    # The order of this family's endpoints is that of a set, another one in each process.
    places = [place for place, line in enumerate(recorded) if line.startswith(UNORDERED)]
    if places:
        lines = [line for line in recorded if line.startswith(UNORDERED)]
        lines.sort(key=lambda line: re.findall('endpoint="([^"]*)"', line))
        recorded[places[0] : places[-1] + 1] = lines
    return recorded


def _named(line: str) -> str:
    return line.split(" ")[2] if line.startswith(("# HELP ", "# TYPE ")) else line


def _without(lines: list[str], others: list[str]) -> list[str]:
    found = set(others)
    return [line for line in lines if line not in found]


def _lines(text: str) -> list[str]:
    return [rounded(line) for line in text.rstrip("\n").split("\n")]


def _title(method: str, path: str, query: Mapping[str, str]) -> str:
    return f"{method} {path}" + (f"?{urlencode(query)}" if query else "")


def _fields(reply: Reply) -> list[str]:
    """Return the header fields but the length, which counts what is not recorded, and hashes of the style."""
    fields = [
        f"{name.decode()}: {value.decode()}" for name, value in reply.headers if name != b"content-length"
    ]
    return [re.sub("sha256-[^']*", "sha256-HASH", field) for field in fields]


def _shortened(status: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return the status with the newest rows of each site, and how many there are: files shall be small."""
    for site in status["sites"]:
        site["history_rows"] = len(site["history"])
        site["history"] = site["history"][-rows:]
    return status


def _outlined(document: Any) -> list[str]:
    """Return JSON with an object's key a line, and an object without objects on one."""
    return [rounded(line) for line in _branches("", _pruned(document))]


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(each) for key, each in sorted(value.items()) if key not in UNRECORDED_KEYS}
    return [_pruned(each) for each in value] if isinstance(value, list) else value


def _branches(path: str, value: Any) -> list[str]:
    below = [*(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())]
    if not any(isinstance(each, dict | list) for each in below):
        return [f"{path}: {json.dumps(value)}"]
    if isinstance(value, list):
        return [line for place, each in enumerate(value) for line in _branches(f"{path}[{place}]", each)]
    return [line for key, each in value.items() for line in _branches(f"{path}.{key}", each)]
