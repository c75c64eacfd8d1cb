"""Image sets in git and DVC.

``workspace`` finds the repository, ``version`` records a state of the images, ``checkout`` and
``pull`` bring one back, ``importing`` brings in a folder from outside.
"""
