"""Checks that every detector passes, and small parts to test a detector with.

``battery`` has the checks (``check_detector``); ``toys`` makes a small teacher and small images.
"""
