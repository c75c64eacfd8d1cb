"""Which code a benchmark ran."""

import subprocess


def commit() -> str:
    """The checked-out commit's full hash."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()
