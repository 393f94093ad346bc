"""Files and environment become typed values, or a complete list of problems.

`load` reads a file, `parse` a plain mapping. Both return a `Config` with durations in seconds, sizes in bytes
and secrets read, or raise `ConfigError` with every problem. No problem names a path of the file system or
repeats a secret, because `/-/reload` answers with problems.
"""

from exporter.config.loading import load, parse
from exporter.config.printing import masked
from exporter.config.problems import ConfigError
from exporter.config.sections import Api, Config, Poll, Site, Users

__all__ = ["Api", "Config", "ConfigError", "Poll", "Site", "Users", "load", "masked", "parse"]
