"""Prometheus exporter for the Crypto-Loot HTTP API."""

__version__ = "0.1.0"
USER_AGENT = f"cryptoloot-exporter/{__version__}"  # what the API sees in every request
