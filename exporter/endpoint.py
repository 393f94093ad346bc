"""The endpoints that are polled, and the reasons why a poll fails."""

from __future__ import annotations

from enum import StrEnum


class Endpoint(StrEnum):
    """The read endpoints, by the API's own paths; the names are those of config.yaml's `poll` section."""

    PAYOUT = "/stats/payout"
    HISTORY = "/stats/history"
    TOP_USERS = "/user/top"
    ALL_USERS = "/user/list"
    BALANCES = "/user/balance"


class Reason(StrEnum):
    """Why a poll failed; each failed poll counts under exactly one. The last two fail one user alone."""

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

    def concerns(self, endpoint: Endpoint) -> bool:
        """Whether a call of the endpoint can fail for this reason."""
        return _ONLY.get(self, endpoint) is endpoint


_ONLY = {
    Reason.INVALID_PAGE: Endpoint.ALL_USERS,
    Reason.MISSING_INPUT: Endpoint.BALANCES,
    Reason.UNKNOWN_USER: Endpoint.BALANCES,
}
USER_REASONS = (Reason.MISSING_INPUT, Reason.UNKNOWN_USER)  # of one watched user, never of a poll
