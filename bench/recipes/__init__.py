"""What people write today to see one site, each file as it would be kept; `bench.today` runs them."""
