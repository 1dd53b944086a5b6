"""The picture from above on golden streets."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irlvla.data.maps import load_map
from irlvla.data.scenes import human_plan, open_scenes
from irlvla.evaluation.birds_eye import AHEAD_M, ASIDE_M, BEHIND_M, UNITS_PER_M, draw_birds_eye
from irlvla.evaluation.draw import HUMAN_COLOUR, OBJECT_COLOURS, DrawnPlan
from irlvla.types import Boxes, Scene

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def at_red_light(golden: Path) -> Scene:
    """A signalised crossing with cars, pedestrians and red connectors."""
    scenes = open_scenes(golden / "alpha", "test")
    token = next(t for t in scenes.tokens if scenes.log_name(t).endswith("cross_left"))
    return scenes.by_token(token)


def draw(golden: Path, scene: Scene, plans: tuple[DrawnPlan, ...] = (), **options: float) -> ElementTree.Element:
    return ElementTree.fromstring(
        draw_birds_eye(scene, load_map(golden / "alpha", scene.map_location), plans, **options)
    )


def coordinates(element: ElementTree.Element) -> np.ndarray:
    return np.array(re.findall(r"-?\d+", element.get("d", "")), dtype=int).reshape(-1, 2)


def test_everything_drawn_lies_in_the_picture(golden: Path, at_red_light: Scene) -> None:
    picture = draw(golden, at_red_light)
    left, top, width, height = map(int, picture.get("viewBox", "").split())
    assert (left, width) == (-ASIDE_M * UNITS_PER_M, 2 * ASIDE_M * UNITS_PER_M)
    paths = [p for p in picture.iter(f"{SVG}path") if "class" in p.attrib and p.get("class") != "object"]
    assert {p.get("class") for p in paths} >= {"road", "route", "crosswalk", "red", "ego"}
    for path in paths:
        points = coordinates(path)
        assert (points >= [left, top]).all(), path.get("class")
        assert (points <= [left + width, top + height]).all(), path.get("class")


def test_forward_is_up_and_left_is_left(golden: Path, at_red_light: Scene) -> None:
    box = np.array([[20.0, 5.0, 0.8, 4.0, 2.0, 1.6, 0.0]])
    lone = Boxes(box, np.zeros(1, dtype=np.int64), np.array([[3.0, 0.0, 0.0]]), ("car",))
    frames = tuple(replace(frame, boxes=lone) for frame in at_red_light.frames)
    picture = draw(golden, replace(at_red_light, frames=frames))
    (car,) = (p for p in picture.iter(f"{SVG}path") if p.get("class") == "object")
    np.testing.assert_allclose(coordinates(car).mean(axis=0), [-5 * UNITS_PER_M, -20 * UNITS_PER_M])


def test_objects_wear_the_colours_of_their_types(golden: Path, at_red_light: Scene) -> None:
    picture = draw(golden, at_red_light)
    fills = {g.get("style", "").split(";")[0].removeprefix("fill:") for g in picture.iter(f"{SVG}g")}
    assert {OBJECT_COLOURS["vehicle"], OBJECT_COLOURS["pedestrian"]} <= fills


def test_no_red_area_without_a_red_light(golden: Path, at_red_light: Scene) -> None:
    green = tuple(replace(frame, traffic_lights=()) for frame in at_red_light.frames)
    picture = draw(golden, replace(at_red_light, frames=green))
    assert not [p for p in picture.iter(f"{SVG}path") if p.get("class") == "red"]


def test_plan_has_a_dot_every_half_second_and_a_legend(golden: Path, at_red_light: Scene) -> None:
    plan = DrawnPlan("human & co", human_plan(at_red_light), HUMAN_COLOUR)
    picture = draw(golden, at_red_light, (plan,))
    assert len(list(picture.iter(f"{SVG}circle"))) == 8
    assert {"human & co", "10 m"} <= {text.text for text in picture.iter(f"{SVG}text")}


def test_ten_hertz_plan_has_dots_at_the_same_times(golden: Path, at_red_light: Scene) -> None:
    plan = np.zeros((40, 3))
    plan[:, 0] = np.arange(1, 41)
    circles = list(draw(golden, at_red_light, (DrawnPlan("fast", plan, "#000000"),)).iter(f"{SVG}circle"))
    assert [int(c.get("cy", "0")) for c in circles] == [-5 * k * UNITS_PER_M for k in range(1, 9)]


def test_picture_reaches_as_far_as_a_fast_plan(golden: Path, at_red_light: Scene) -> None:
    plan = np.zeros((8, 3))
    plan[:, 0] = np.linspace(10, 90, 8)
    picture = draw(golden, at_red_light, (DrawnPlan("fast", plan, "#000000"),))
    _, top, width, height = map(int, picture.get("viewBox", "").split())
    assert -top > 90 * UNITS_PER_M
    assert width / height == pytest.approx(2 * ASIDE_M / (AHEAD_M + BEHIND_M), rel=0.01)
