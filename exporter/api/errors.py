"""Why a call of the API fails. Every leaf of the tree is one reason of the contract.

    PollError
    ├── Unreached            no whole answer arrived
    │   ├── Timeout
    │   ├── DnsFailed
    │   ├── ConnectFailed    also a connection that broke within the answer
    │   └── TlsFailed
    ├── BadStatus            the HTTP status of the answer is a failure
    │   ├── HttpStatus
    │   ├── RateLimited
    │   └── Redirected
    ├── BadBody              the body cannot be read
    │   ├── TooLarge
    │   ├── InvalidJson
    │   └── InvalidResponse
    └── ApiError             the API's own `error`: one leaf for each code
        ├── InvalidSecret, BadRequest, WrongMethod, NotFound, InternalError    (reference: Global Errors)
        ├── InvalidPage      /user/list only
        ├── UnknownError     any other code
        └── UserRefused      /user/balance only: the failure of one user, not of the poll
            └── MissingInput, UnknownUser

httpx puts the URL into its exceptions, and the URL holds the secret. So no exception of httpx is ever the
cause or the context of ours. The texts are made in `faults`, and those about a body where it is read. The
docstrings of the leaves are the table of reasons in docs/metrics.md.
"""

from typing import ClassVar

from exporter.endpoint import Reason


class PollError(Exception):
    """A poll that failed; `retry_after` is the answer's header as it came, if any."""

    reason: ClassVar[Reason]  # of each leaf
    retry_after: str | None = None

    def __init_subclass__(cls, reason: Reason | None = None) -> None:
        if reason:
            cls.reason = reason


class Unreached(PollError):
    """No whole answer arrived."""


class Timeout(Unreached, reason=Reason.TIMEOUT):
    """The whole call took longer than `api.timeout`."""


class DnsFailed(Unreached, reason=Reason.DNS):
    """The host name has no address."""


class ConnectFailed(Unreached, reason=Reason.CONNECT):
    """No connection, or one that broke within the answer."""


class TlsFailed(Unreached, reason=Reason.TLS):
    """The TLS handshake failed."""


class BadStatus(PollError):
    """The HTTP status of the answer is a failure."""


class HttpStatus(BadStatus, reason=Reason.HTTP_STATUS):
    """A status that is neither 2xx, 3xx nor 429, without an `error` of the API."""


class RateLimited(BadStatus, reason=Reason.RATE_LIMITED):
    """Status 429."""


class Redirected(BadStatus, reason=Reason.REDIRECT):
    """A redirect; it is not followed, since it could carry the secret to another host."""


class BadBody(PollError):
    """The body cannot be read."""


class TooLarge(BadBody, reason=Reason.TOO_LARGE):
    """A body over `api.max_response_bytes`, before or after inflating."""


class InvalidJson(BadBody, reason=Reason.INVALID_JSON):
    """A body that is not JSON."""


class InvalidResponse(BadBody, reason=Reason.INVALID_RESPONSE):
    """JSON of the wrong shape, or neither successful nor an error."""


class ApiError(PollError):
    """The API's own `error`."""


class InvalidSecret(ApiError, reason=Reason.INVALID_SECRET):
    """The API does not know the secret."""


class BadRequest(ApiError, reason=Reason.BAD_REQUEST):
    """The API could not read the request."""


class WrongMethod(ApiError, reason=Reason.WRONG_METHOD):
    """The API expected POST where GET was sent."""


class NotFound(ApiError, reason=Reason.NOT_FOUND):
    """The API has no such endpoint: look at `api.url`."""


class InternalError(ApiError, reason=Reason.INTERNAL_ERROR):
    """Something went wrong on the API's side."""


class InvalidPage(ApiError, reason=Reason.INVALID_PAGE):
    """Pages of `/user/list` vanished during the walk, and again each time it began anew."""


class UnknownError(ApiError, reason=Reason.UNKNOWN_ERROR):
    """The API gave a code that the reference does not have there."""


class UserRefused(ApiError):
    """The API refused one user of `/user/balance`. The poll can go on with the other users."""


class MissingInput(UserRefused, reason=Reason.MISSING_INPUT):
    """The API saw no name in the call."""


class UnknownUser(UserRefused, reason=Reason.UNKNOWN_USER):
    """The user has never connected to the pool."""


# The codes that every endpoint may answer. A request names those that only its endpoint has.
GLOBAL_ERRORS: tuple[type[ApiError], ...] = (InvalidSecret, BadRequest, WrongMethod, NotFound, InternalError)
