"""Measurements behind the documentation's figures, each run as ``python -m benchmarks.NAME``."""

from stillwatch.machine.threads import set_thread_policy

set_thread_policy()  # before a benchmark imports torch
