"""New images: which are admitted to an image set, which are quarantined, and why.

``arrivals`` scans the inbox, ``rules`` and ``admission`` decide, ``labels`` takes corrected
verdicts, ``announcements`` remembers which categories have new images.
"""
