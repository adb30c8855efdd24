"""Benchmarks: this library beside its peers, on the same data, in turns."""
