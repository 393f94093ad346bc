"""Side-by-side benchmarks: the exporter and its peers on loopback, as an operator runs them."""
