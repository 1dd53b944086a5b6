"""Which of several equally near things is found first, against GEOS."""

import numpy as np
import shapely

from irlvla.simulation.search_tree import nearest_in_tree, order_in_tree
from irlvla.types import Array


def boxes(rng: np.random.Generator, count: int) -> Array:
    """Bounds [count, 4] of boxes of which many stand in the very same place."""
    middle = rng.integers(-3, 4, (count, 2)).astype(np.float64)
    half = rng.choice([3.0, 0.75], (count, 1)) * rng.choice([1.0, 2.0], (count, 2))
    return np.concatenate([middle - half, middle + half], axis=1)


def test_things_are_listed_in_the_order_of_the_tree() -> None:
    rng = np.random.default_rng(0)
    for count in [*range(1, 40), 60, 130, 400]:
        bounds = boxes(rng, count)
        theirs = shapely.STRtree(shapely.box(*bounds.T)).query(shapely.box(-99, -99, 99, 99))
        np.testing.assert_array_equal(order_in_tree(bounds), theirs)


def test_the_first_found_of_the_nearest_is_the_trees() -> None:
    rng = np.random.default_rng(1)
    ties, differs_from_first = 0, 0
    for turn in range(600):
        bounds = boxes(rng, int(rng.integers(1, 12 if turn % 2 else 130)))
        middle = rng.normal(0.0, 3.0, 2)
        query = np.concatenate([middle - 2.0, middle + 2.0])
        geometries = shapely.box(*bounds.T)
        distances = shapely.distance(geometries, shapely.box(*query))
        nearest = nearest_in_tree(bounds, distances, query)
        if distances.min() == 0.0:
            assert nearest == shapely.STRtree(geometries).nearest(shapely.box(*query))
            ties += np.count_nonzero(distances == 0.0) > 1
            differs_from_first += nearest != distances.argmin()
        assert distances[nearest] == distances.min()
    assert ties > 100
    assert differs_from_first > 100
