"""The suite: networks, contenders, and how they are measured against each other. Run by `python -m benchmarks.run`."""
