"""In whose name a command of this process is done."""

import psutil


def os_user() -> str:
    """Who this process belongs to: what the environment claims does not count."""
    return str(psutil.Process().username())
