"""Which registered version is the champion, and who decided so.

``gate`` compares challenger and champion, ``promote`` and ``rollback`` move the alias (``alias``),
``history`` is the record of every move.
"""
