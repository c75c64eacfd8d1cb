"""New images in the inbox.

``arrivals`` scans the inbox, ``admission`` moves each file to the image set or to the
``quarantine``, ``announcements`` keeps admitted files that are not announced yet. ``labels`` takes
a person's labels, ``champion_check`` finds new normals that the champion rejects.
"""
