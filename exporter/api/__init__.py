"""The Crypto-Loot HTTP API: calls, errors, answers."""
