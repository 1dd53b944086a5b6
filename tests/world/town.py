"""A street made by hand: one lane eastwards that ends at a traffic light, and nothing else."""

import numpy as np
from shapely.geometry import LineString, Polygon

from irlvla.world.appearance import Appearance, Sky, TimeOfDay, random_appearance, weather
from irlvla.world.city import Area, City, Connector, Lane
from irlvla.world.logs import KeyFrame, SceneObject
from irlvla.world.scenery import Scenery

NOTHING = Scenery(np.zeros((0, 7)), np.zeros((0, 4)), ())
WIDTH_M = 3.2


def street(length_m: float) -> City:
    """A lane along the x axis from -30 m to `length_m`, whose light hangs beyond its end."""
    city = City("us-ma-boston", np.zeros(2))

    def lane(fid: int, start: float, end: float) -> Lane:
        baseline = np.stack([np.arange(start, end + 0.5), np.zeros(len(np.arange(start, end + 0.5)))], axis=1)
        polygon = Polygon(LineString(baseline).buffer(WIDTH_M / 2, cap_style="flat"))
        return Lane(fid, fid + 1, fid + 2, fid + 3, f"e{fid}_0", fid + 4, 0, baseline, polygon, WIDTH_M, 13.9,
                    baseline[0], baseline[-1])  # fmt: skip

    before, after = lane(10, -30.0, length_m), lane(20, length_m + 20.0, length_m + 60.0)
    way = np.stack([before.baseline[-1], after.baseline[0]])
    city.lanes += [before, after]
    city.roadblocks += [Area(14, before.polygon), Area(24, after.polygon)]
    city.connectors.append(
        Connector(30, 31, 32, 33, 34, before, after, 35, 36, way, Polygon(LineString(way).buffer(1.6)), 13.9, "s",
                  ("light", 0), 0, ())
    )  # fmt: skip
    return city


def moment(city: City, *objects: SceneObject, letter: str = "r", token: str = "0" * 16) -> KeyFrame:
    """The ego vehicle at the origin, looking east."""
    lights = tuple((connector, letter in "rR", letter) for connector in city.connectors)
    return KeyFrame(token, 40, 0, np.zeros(3), 5.0, 0.0, 0.0, 1, tuple(objects), lights)


def thing(
    kind: str, x: float, y: float, size_m: tuple[float, float, float], heading: float = 0.0, *, braking: bool = False,
    indicator: int = 0,
) -> SceneObject:  # fmt: skip
    """Something on the street; `kind` is a SUMO vehicle type or an annotated type."""
    kinds = ("pedestrian", "traffic_cone", "barrier", "czone_sign", "generic_object")
    annotated = kind if kind in kinds else ("bicycle" if kind.startswith("bicycle") else "vehicle")
    box = np.array([x, y, size_m[2] / 2, *size_m, heading])
    return SceneObject(f"{kind}.{x}.{y}", annotated, kind, box, np.zeros(2), braking, indicator)


def day(
    time_of_day: TimeOfDay = "day", sky: Sky = "overcast", *, rain: float = 0.0, fog: float = 0.0, seed: int = 3
) -> Appearance:
    """A log's look under a given sky."""
    rng = np.random.default_rng(seed)
    look = random_appearance(rng)
    return Appearance(**{**look.__dict__, "weather": weather(time_of_day, sky, rain=rain, fog=fog, wet_street=rain > 0,
                                                              rng=rng)})  # fmt: skip
