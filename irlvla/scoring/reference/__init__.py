"""The scorer once more, slow and plain: one plan at a time, shapely and scipy, nothing clever. Read these first.

Every function bears the name of its fast twin; tests/scoring/test_reference.py holds them together.
"""
