"""From keyframes to steps: what is present when, where, and how fast."""

from collections.abc import Sequence

import numpy as np
import pytest

from irlvla.simulation.observation import Tracks, interpolate_tracks, replayed
from irlvla.types import OBJECT_TYPES, Boxes, Frame

Sighting = tuple[str, str, float, float]
"""Token, type, x and speed along x."""


def frame(index: int, sightings: Sequence[Sighting]) -> Frame:
    boxes = np.zeros((len(sightings), 7))
    velocity = np.zeros((len(sightings), 3))
    for row, (_, _, x, speed) in enumerate(sightings):
        boxes[row] = x, 0.0, 0.8, 4.0, 2.0, 1.6, 0.0
        velocity[row, 0] = speed
    types = np.array([OBJECT_TYPES.index(kind) for _, kind, _, _ in sightings], dtype=np.int64)
    return Frame(
        token=f"{index:016x}",
        time_us=index * 500_000,
        ego_pose_world=np.zeros(3),
        ego_velocity_mps=np.zeros(2),
        ego_acceleration_mps2=np.zeros(2),
        command=np.array([0, 1, 0, 0]),
        roadblock_ids=(),
        traffic_lights=(),
        boxes=Boxes(boxes, types, velocity, tuple(token for token, *_ in sightings)),
        cameras={},
        lidar_path=None,
    )


def tracked(seen: dict[int, Sequence[Sighting]]) -> Tracks:
    return interpolate_tracks([frame(index, seen.get(index, ())) for index in range(9)])


def test_a_gap_between_sightings_is_bridged() -> None:
    tracks = tracked({0: [("car", "vehicle", 20.0, 2.0)], 6: [("car", "vehicle", 26.0, 4.0)]})
    assert tracks.present[0, :31].all()
    assert not tracks.present[0, 31:].any()
    assert tracks.boxes[0, 15, 0] == pytest.approx(23.0)
    assert tracks.velocity_mps[0, 15, 0] == pytest.approx(3.0)


def test_an_object_seen_once_stands_there_all_the_time() -> None:
    tracks = tracked({8: [("car", "vehicle", 20.0, 5.0)]})
    assert tracks.present.all()
    assert (tracks.boxes[0, :, 0] == 20.0).all()


def test_an_object_is_absent_before_its_first_sighting() -> None:
    tracks = tracked({4: [("car", "vehicle", 20.0, 5.0)], 5: [("car", "vehicle", 22.5, 6.0)]})
    assert np.flatnonzero(tracks.present[0]).tolist() == list(range(20, 26))
    assert tracks.first_speed_mps[0] == 5.0


def test_static_objects_have_no_speed_whatever_the_log_says() -> None:
    assert tracked({0: [("cone", "traffic_cone", 9.0, 3.0)]}).first_speed_mps[0] == 0.0


def test_size_and_type_are_those_of_the_first_sighting() -> None:
    tracks = tracked({0: [("it", "bicycle", 9.0, 3.0)], 1: [("it", "vehicle", 10.0, 3.0)]})
    assert OBJECT_TYPES[tracks.types[0]] == "bicycle"


def test_replay_removes_what_touches_the_ego_vehicle_now_and_nothing_else() -> None:
    now = [("inside", "vehicle", 2.0, 0.0), ("ahead", "vehicle", 9.0, 0.0)]
    later = [("ahead", "vehicle", 9.0, 0.0), ("arriving", "vehicle", 2.0, 0.0)]
    tracks = tracked({0: now, 1: later, 2: later})
    assert replayed(tracks, np.zeros(3)).tokens == ("ahead", "arriving")


def test_an_object_seen_once_later_is_removed_when_it_would_stand_in_the_ego_vehicle() -> None:
    assert replayed(tracked({7: [("ghost", "vehicle", 2.0, 0.0)]}), np.zeros(3)).tokens == ()


def test_no_objects_at_all_is_fine() -> None:
    tracks = tracked({})
    assert tracks.boxes.shape == (0, 41, 5)
    assert replayed(tracks, np.zeros(3)).tokens == ()
