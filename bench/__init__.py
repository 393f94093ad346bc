"""Benchmarks: the exporter beside its peers, on loopback, run as an operator runs them."""
