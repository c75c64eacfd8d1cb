"""Image sets in git and DVC.

``workspace`` finds the repository, ``version`` records a version of the images, ``checkout``
restores one, ``pull`` fetches one on another machine, ``importing`` copies a folder from outside.
"""
