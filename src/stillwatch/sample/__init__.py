"""Generated images: the built-in sample set, and synthetic anomalies.

``image_set`` writes the two categories of the sample set with defects and masks, which ``plate``
and ``cloth`` draw; ``synthetic`` makes anomalies for a category that has none.
"""
