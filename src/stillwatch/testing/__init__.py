"""What every detector must pass, and tiny parts to test one with.

``battery`` is the list of checks (``check_detector``), ``toys`` makes a small teacher and images.
"""
