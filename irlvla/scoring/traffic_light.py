"""Traffic light compliance: the ego vehicle stays off lane connectors whose light is red."""

import numpy as np

from irlvla.scoring.footprint import Footprints
from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import box_touches_polygon
from irlvla.simulation.traffic import RedLights
from irlvla.types import Array


@kernel
def _traffic_light(lights: RedLights, ego: Footprints, scores: Array) -> None:
    plans, steps = ego.speed_mps.shape
    for plan in range(plans):
        for light in range(len(lights.red)):
            for step in range(steps):
                if lights.red[light, step] and box_touches_polygon(ego.corners[plan, step], lights.polygons, light):
                    scores[plan] = 0.0
                    break


def traffic_light(lights: RedLights, ego: Footprints) -> Array:
    """Traffic light compliance [C]: 0 where the body ever touches a connector under a red light, else 1.

    Standing on the connector already at t=0 counts too.

    Source: navsim `PDMScorer._calculate_traffic_light_compliance`.
    """
    scores = np.ones(len(ego.speed_mps))
    _traffic_light(lights, ego, scores)
    return scores
