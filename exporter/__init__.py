"""Prometheus exporter for the Crypto-Loot HTTP API."""

__version__ = "0.1.0"
