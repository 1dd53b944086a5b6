"""How objects are laid out for the scoring kernels."""

import numpy as np
import shapely

from irlvla.geometry import box_corners
from irlvla.simulation.traffic import traffic_from_boxes


def test_centroids_are_rounded_as_geos_rounds_them() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.normal(0.0, 1e6, (500, 2)), rng.uniform([-9, 0.1, 0.1], [9, 20, 4], (500, 3))], axis=1)
    traffic = traffic_from_boxes(boxes[:, None], np.ones((500, 1), dtype=np.bool_), np.zeros(500, int), np.zeros(500))
    theirs = shapely.get_coordinates(shapely.centroid(shapely.polygons(box_corners(boxes))))
    np.testing.assert_array_equal(traffic.centroid[:, 0], theirs)


def test_a_box_without_area_has_a_centroid_as_well() -> None:
    flat = np.array([[[3.0, 4.0, 0.0, 2.0, 0.0]]])
    traffic = traffic_from_boxes(flat, np.ones((1, 1), dtype=np.bool_), np.zeros(1, int), np.zeros(1))
    np.testing.assert_allclose(traffic.centroid[0, 0], [3.0, 4.0])
