"""Generated images: the built-in sample set, and synthetic anomalies.

``image_set`` writes the two categories of the sample set with defects and masks, which ``plate``
and ``cloth`` draw; ``small_defects`` writes a category of large images with small defects, for
benchmarks; ``synthetic`` makes anomalies for a category that has none.
"""
