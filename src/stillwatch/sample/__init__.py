"""The built-in sample image set: two made categories with planted defects, and their masks.

``image_set`` writes the set, ``plate`` and ``cloth`` draw its two products, ``synthetic`` makes
anomalies for a category that has none.
"""
