"""Bodies keep to their boxes, whatever they are and do."""

import numpy as np
import pytest

from irlvla.world.bodies import (
    BRAKE,
    CAR_FORMS,
    GAIT_PHASES,
    HEADLIGHT,
    LEFT_TURN,
    PAINT,
    RIGHT_TURN,
    TOP,
    body,
    gather,
    livery,
    place,
)
from irlvla.world.raster import GLOW, MeshBuilder

SHAPES = [
    *((("car", GAIT_PHASES, variant, simple)) for variant in range(len(CAR_FORMS)) for simple in (False, True)),
    *((shape, GAIT_PHASES, 0, simple) for shape in ("van", "truck", "bus") for simple in (False, True)),
    *(("pedestrian", phase, coat, False) for phase in range(GAIT_PHASES + 1) for coat in (0, 1)),
    *(("bicycle", phase, 0, False) for phase in range(GAIT_PHASES)),
    *(
        (shape, GAIT_PHASES, 0, False)
        for shape in ("traffic_cone", "barrier", "czone_sign", "generic_object", "shelter")
    ),
]


@pytest.mark.parametrize(("shape", "phase", "variant", "simple"), SHAPES)
def test_a_body_fills_its_box_and_does_not_stick_out(shape: str, phase: int, variant: int, simple: bool) -> None:
    form = body(shape, phase, variant=variant, simple=simple)
    assert np.abs(form.vertices[:, :2]).max() <= 0.525
    assert form.vertices[:, 2].min() >= 0.0
    top = max(form.vertices[:, 2].max(), *(form.blobs[:, 2] + form.blobs[:, 4]), 0.0)
    assert top == pytest.approx(1.0, abs=0.01)
    if shape not in ("pedestrian", "czone_sign"):
        assert np.abs(form.vertices[:, 0]).max() > 0.45
    counts = np.diff(form.start)
    assert counts.min() >= 3
    assert len(form.colour) == len(form.slot) == len(form.material) == len(counts) + len(form.blobs)


def test_faces_that_are_seen_from_outside_only_look_outwards() -> None:
    form = body("car")
    for k in np.flatnonzero(form.one_sided):
        corners = form.vertices[form.start[k] : form.start[k + 1]]
        normal = np.sum(np.cross(corners, np.roll(corners, -1, axis=0)), axis=0)
        assert normal @ (corners.mean(axis=0) - [0.0, 0.0, 0.45]) > 0 or abs(corners[:, 1]).min() > 0.3


def test_lamps_show_what_a_driver_does() -> None:
    calm = livery(7)
    assert calm.glow.max() == 0
    assert livery(7, braking=True).glow[BRAKE] > 0
    assert livery(7, lamps=1.0).glow[HEADLIGHT] > 0
    assert livery(7, blink_left=True).glow[LEFT_TURN] > 0 == livery(7, blink_left=True).glow[RIGHT_TURN]


def test_individuals_keep_their_colours_and_differ_from_each_other() -> None:
    np.testing.assert_array_equal(livery(5).colour[PAINT], livery(5, braking=True).colour[PAINT])
    assert len({tuple(livery(number).colour[TOP]) for number in range(40)}) > 10


def test_gathered_bodies_stand_in_their_places() -> None:
    box = np.array([10.0, 5.0, 0.75, 4.0, 2.0, 1.5, np.pi / 2])
    walker = np.array([3.0, 3.0, 0.9, 0.7, 0.7, 1.8, 0.0])
    build = MeshBuilder()
    build.face(np.array([[0.0, 0, 5], [1, 0, 5], [1, 0, 6]]), (1.0, 0.0, 0.0), GLOW, detail=(1.5,))
    mesh = gather([place(body("car"), box, livery(1)), place(body("pedestrian"), walker, livery(2))], build.mesh())
    polygons = len(mesh.start) - 1
    assert polygons == sum(len(body(shape).start) - 1 for shape in ("car", "pedestrian")) + 1
    assert len(mesh.colour) == len(mesh.material) == len(mesh.radius) == polygons + len(mesh.blobs)
    car = mesh.vertices[: len(body("car").vertices)]
    np.testing.assert_allclose(car.min(axis=0), [9.0, 3.0, 0.0], atol=0.06)
    np.testing.assert_allclose(car.max(axis=0), [11.0, 7.0, 1.5], atol=0.06)
    # The traffic light's lens comes after all bodies' polygons.
    assert mesh.material[polygons - 1] == GLOW
    assert mesh.detail[polygons - 1, 0] == 1.5


def test_nothing_at_all_can_be_gathered() -> None:
    assert len(gather([], MeshBuilder().mesh()).radius) == 0
