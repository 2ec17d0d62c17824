"""Benchmarks read from their published rows, on the hub or in a local folder."""
