"""TEMPORARY."""

from exporter.api.client import *  # noqa
from exporter.api.client import (
    PollError,
    InvalidPage,
    InvalidResponse,
    TooLarge,
    MissingInput,
    UnknownUser,
    UserRefused,
)  # noqa
