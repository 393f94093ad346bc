"""The Crypto-Loot HTTP API, played locally: written from the API's reference alone, and from nothing of ours.

A `World` has sites, found by their secrets. Every answer is a pure function of the seed, the world's clock
and the incidents of the site: earlier requests change nothing (what is kept between requests is only a
cache). Times are Unix seconds, rates hashes per second, amounts coins.

Where the reference is silent, the choice is stated beside the code that makes it. Section names in
docstrings ("Global Errors", "/user/list", ...) are those of the reference.

A new endpoint is a function and a line of `ENDPOINTS` in `simulator/api.py`.
"""

from exporter.simulator.api import ENDPOINTS, app
from exporter.simulator.curve import DAY, HOUR
from exporter.simulator.incidents import KINDS, Incident, parse_incident
from exporter.simulator.users import HOSTILE_NAMES, User
from exporter.simulator.world import (
    HEALTHY_SECRET,
    TROUBLED_SECRET,
    Payout,
    Request,
    Row,
    Site,
    World,
    demo_config,
    demo_world,
)

__all__ = [
    "DAY",
    "ENDPOINTS",
    "HEALTHY_SECRET",
    "HOSTILE_NAMES",
    "HOUR",
    "KINDS",
    "TROUBLED_SECRET",
    "Incident",
    "Payout",
    "Request",
    "Row",
    "Site",
    "User",
    "World",
    "app",
    "demo_config",
    "demo_world",
    "parse_incident",
]
