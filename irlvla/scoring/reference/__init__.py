"""The scorer once more, slow and plain: one plan at a time, shapely and scipy, nothing clever. Read these first.
They need scipy, which the extra `dev` brings; scoring itself does not.

Every function bears the name of its fast twin; tests/scoring/test_reference.py holds them together.
"""
