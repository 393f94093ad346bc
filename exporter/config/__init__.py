"""Files and environment become typed values, or a complete list of problems.

`source` decides whether a file or the environment is read, `load` reads a file, `parse` a plain mapping. The
result is a `Config` with durations in seconds, sizes in bytes and secrets read, or a `ConfigError` with every
problem. No text of a problem names a directory or repeats a secret, because `/-/reload` answers with it.
"""

from exporter.config.loading import load, parse, source
from exporter.config.printing import masked
from exporter.config.problems import ConfigError
from exporter.config.sections import Api, Config, Poll, Site, Users

__all__ = ["Api", "Config", "ConfigError", "Poll", "Site", "Users", "load", "masked", "parse", "source"]
