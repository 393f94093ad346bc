"""The names that every part shares: an endpoint of the API, and the reasons why a poll fails."""

from enum import StrEnum
from typing import NewType

# A read endpoint, by the API's own path. Each collector has the constants of its own.
Endpoint = NewType("Endpoint", str)


class Reason(StrEnum):
    """Why a poll failed; each failed poll counts under exactly one.

    INVALID_PAGE, MISSING_INPUT and UNKNOWN_USER belong to one endpoint each. The last two are failures of one
    watched user; the poll itself goes on.
    """

    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    HTTP_STATUS = "http_status"
    RATE_LIMITED = "rate_limited"
    REDIRECT = "redirect"
    TOO_LARGE = "too_large"
    INVALID_JSON = "invalid_json"
    INVALID_RESPONSE = "invalid_response"
    # The API's own codes (reference: Global Errors).
    INVALID_SECRET = "invalid_secret"  # noqa: S105 - the code's name
    BAD_REQUEST = "bad_request"
    WRONG_METHOD = "wrong_method"
    NOT_FOUND = "not_found"
    INTERNAL_ERROR = "internal_error"
    INVALID_PAGE = "invalid_page"  # /user/list only
    UNKNOWN_ERROR = "unknown_error"  # any other code
    MISSING_INPUT = "missing_input"  # /user/balance only
    UNKNOWN_USER = "unknown_user"  # /user/balance only


USER_REASONS = (Reason.MISSING_INPUT, Reason.UNKNOWN_USER)
COMMON_REASONS = tuple(reason for reason in Reason if reason not in (Reason.INVALID_PAGE, *USER_REASONS))
