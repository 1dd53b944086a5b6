import numpy as np

from irlvla.world.motion import pedestrian_track, smooth_path, vehicle_track

CAR = (5.176, 2.297, 1.8)


def _track(front: np.ndarray):  # type: ignore[no-untyped-def]
    return vehicle_track("v", "ego0", 0, front, np.full(len(front), "lane_0", dtype=object), CAR)


def test_a_straight_drive_stays_straight_and_keeps_its_speed() -> None:
    front = np.stack([8.0 * np.arange(80) * 0.1, np.full(80, 3.0)], axis=1)
    track = _track(front)
    np.testing.assert_allclose(track.rear_axle[:, 2], 0.0, atol=1e-9)
    np.testing.assert_allclose(track.rear_axle[:, 1], 3.0, atol=1e-9)
    np.testing.assert_allclose(track.speed_mps[15:-15], 8.0, atol=1e-6)
    np.testing.assert_allclose(front[20:-20, 0] - track.rear_axle[20:-20, 0], 5.176 - 1.127, atol=1e-6)


def test_a_square_corner_becomes_a_bend_the_rear_axle_cuts() -> None:
    speed_m = 0.4
    leg = np.arange(0.0, 40.0, speed_m)
    front = np.concatenate([np.stack([leg, 0 * leg], 1), np.stack([np.full(len(leg), 40.0), leg], 1)])
    track = _track(front)
    yaw_rate = np.gradient(track.rear_axle[:, 2], 0.1)
    assert np.isclose(track.rear_axle[-1, 2], np.pi / 2, atol=0.02)
    assert yaw_rate.min() > -0.05
    inside = (track.rear_axle[:, 0] < 40.0 + 1e-6) & (track.rear_axle[:, 1] > -1e-6)
    assert inside.all()


def test_the_rear_axle_never_slides_sideways() -> None:
    angle = np.linspace(0, np.pi / 2, 120)
    front = 15.0 * np.stack([np.sin(angle), 1 - np.cos(angle)], axis=1)
    track = _track(front)
    step = np.gradient(track.rear_axle[:, :2], axis=0)
    across = -np.sin(track.rear_axle[:, 2]) * step[:, 0] + np.cos(track.rear_axle[:, 2]) * step[:, 1]
    assert np.abs(across[3:-3]).max() < 0.01


def test_a_standing_vehicle_has_a_track() -> None:
    track = _track(np.tile([[3.0, 4.0]], (30, 1)))
    np.testing.assert_allclose(track.speed_mps, 0.0, atol=1e-9)
    assert np.isfinite(track.rear_axle).all()


def test_a_pedestrian_who_stops_keeps_facing_the_same_way() -> None:
    walk = np.concatenate([np.arange(0, 5, 0.12), np.full(40, 5.0)])
    track = pedestrian_track("p", 0, np.stack([np.zeros_like(walk), walk], axis=1), np.full(len(walk), "", object))
    np.testing.assert_allclose(track.center[:, 2], np.pi / 2, atol=1e-6)


def test_smoothing_leaves_the_ends_of_a_path_in_place() -> None:
    corner = np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 20.0]])
    smooth, _ = smooth_path(corner, 1.5)
    np.testing.assert_allclose(smooth[[0, -1]], corner[[0, -1]], atol=1e-9)
    heading = np.unwrap(np.arctan2(*np.diff(smooth, axis=0).T[::-1]))
    assert np.abs(np.diff(heading)).max() < 0.2
