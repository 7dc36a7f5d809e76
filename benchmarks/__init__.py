"""Measurements, compared in one run as ratios, since machines are noisy: `python -m benchmarks`."""
