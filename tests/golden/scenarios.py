"""All golden runs by name: importing a module of scenes registers what it has."""

from __future__ import annotations

from tests.golden import answers, commands, configs, incidents, pages
from tests.golden.sites import SCENES

__all__ = ["SCENES", "answers", "commands", "configs", "incidents", "pages"]
