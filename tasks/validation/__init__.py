"""Checks of an image set, by Great Expectations.

``task`` is the Prefect task, ``suite`` the expectations of one category, ``report`` their outcome
and ``page`` its HTML page.
"""
