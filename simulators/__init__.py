"""Simulators of what the worker talks to: a private broker, the dialer, CRMs; and the demo made of them.

The tests, the benchmarks and integrators use them. The worker itself never imports them.
"""
