"""Benchmarks: latency samples of one or more models, what they say, and how they are shown."""
