"""How the followers of reactive traffic drive, one step after the other and each behind whatever is in its way.

Every follower keeps others out of an *area*: its box and what it covers within its headway. Whatever area touches its
*corridor*, the rest of its lane, is in its way. `irlvla.scoring.reference.reactive_traffic` does the same, slow and
plain: read it first.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from irlvla.geometry import EGO_LENGTH_M, EGO_WIDTH_M
from irlvla.simulation import bicycle
from irlvla.simulation.kernels import kernel
from irlvla.simulation.polygons import boxes_touch
from irlvla.simulation.search_tree import NODE_CHILDREN, nearest_in_tree, order_in_tree
from irlvla.simulation.strips import (
    PROGRESS,
    Areas,
    Lines,
    Pieces,
    Reach,
    Strip,
    area_bounds,
    area_distance,
    enclose,
    lay_box,
    lay_reach,
    lay_strip,
    most_pieces,
    past_end,
    pieces_for,
    pose_at,
    reach_touches,
    segment_near,
    strip_between,
)
from irlvla.types import ROLLOUT_STEP_S, Array

REACH_M = 100.0
"""Followers that get further away from the ego vehicle are gone for good."""
HEADWAY_S = 1.5
_MIN_GAP_M = 1.0
_ACCELERATION_MPS2 = 1.0
_BRAKING_MPS2 = 2.0

FINE, LOST_LANE, NOBODY_TO_SEE = 0, 1, 2
"""How driving ended: well; with a follower off its lane; with something in a follower's way that it overlooks."""


class Drivers(NamedTuple):
    """Followers in the layout that the kernel reads, D of them."""

    lines: Lines
    progress_m: Array
    """[D] at the start, like everything here."""
    speed_mps: Array
    wanted_speed_mps: Array
    snapped_boxes: Array
    """[D, 5]"""
    is_hidden: NDArray[np.bool_]
    """[D, D + 1] whom a driver overlooks though it is in its way; the ego vehicle last."""
    is_taken_for_ego: NDArray[np.bool_]
    """[D] whose speed and heading officially are confused with the ego vehicle's."""
    bystanders: Array
    """[B, 4, 2] corners of vehicles that stay where they are."""


class Drives(NamedTuple):
    """What the followers of a scene do beside each of C rollouts."""

    poses: Array
    """[C, D, 41, 3] box center x, y (m, world), heading (rad)."""
    speed_mps: Array
    """[C, D, 41]"""
    present: NDArray[np.bool_]
    """[C, D, 41]"""
    bystanders_present: NDArray[np.bool_]
    """[C, B, 41]"""


class _State(NamedTuple):
    """Followers on their way, and the areas that they and the ego vehicle, the last, keep others out of."""

    progress_m: Array
    """[D]"""
    speed_mps: Array
    """[D]"""
    poses: Array
    """[D + 1, 3]"""
    is_here: NDArray[np.bool_]
    """[D + 1]"""
    has_moved: NDArray[np.bool_]
    """[D] whether it claims its headway; nobody does at first."""
    is_laid: NDArray[np.bool_]
    """[D + 1] whether the area's pieces are there; they are laid when somebody comes near."""
    pieces: Pieces
    areas: Areas
    """[D + 1]"""
    near: NDArray[np.int64]
    """[D + 1] room for areas in somebody's way."""
    nearest: NDArray[np.int64]
    """[D + 1] and for the nearest of them."""
    bounds: Array
    """[4] room for an area's bounds."""


class _Alone(NamedTuple):
    """What everybody does where there is no ego vehicle; the first axis is the step.

    Beside an ego vehicle, a driver does the same until the ego vehicle, or somebody who did not do the same, comes into
    its way, or no longer does.
    """

    is_known: bool
    progress_m: Array
    """[41, D]"""
    speed_mps: Array
    """[41, D]"""
    poses: Array
    """[41, D, 3]"""
    hulls: Array
    """[41, D, 3] circles around what they claim."""
    corridor_starts: Array
    """[41, D, 2] where the corridors began that they looked along (m, world)."""
    next_vertex: NDArray[np.int64]
    """[41, D] where a corridor's third segment began."""
    in_way: NDArray[np.bool_]
    """[41, D, D + 1] who was in it."""


@kernel
def _claimed(drivers: Drivers, state: _State, driver: int) -> Strip:
    """The lane that a driver covers from its tail to the end of its headway."""
    half_m = drivers.snapped_boxes[driver, 3] / 2
    progress_m, speed_mps = state.progress_m[driver], state.speed_mps[driver]
    end_m = progress_m + half_m + speed_mps * HEADWAY_S
    return strip_between(drivers.lines, driver, progress_m - half_m, end_m)


@kernel
def _lay_area(drivers: Drivers, state: _State, area: int, x: float, y: float, heading: float) -> None:
    """Lay an area's box around a center, and what is claimed beyond it."""
    length_m, width_m = EGO_LENGTH_M, EGO_WIDTH_M
    if area < len(state.has_moved):
        length_m, width_m = drivers.snapped_boxes[area, 3], drivers.snapped_boxes[area, 4]
    spans = state.areas.spans
    lay_box(state.pieces, spans[area, 0], x, y, heading, length_m, width_m)
    spans[area, 1], spans[area, 2], spans[area, 3] = spans[area, 0] + 1, 0, 0
    if area < len(state.has_moved) and state.has_moved[area]:
        lay_strip(drivers.lines, area, _claimed(drivers, state, area), state.pieces, state.areas, area)
    else:
        for axis in range(3):
            state.areas.hull[area, axis] = state.pieces.circles[spans[area, 0], axis]
    state.is_laid[area] = True


@kernel
def _lay_claim(drivers: Drivers, state: _State, area: int) -> None:
    pose = state.poses[area]
    _lay_area(drivers, state, area, pose[0], pose[1], pose[2])


@kernel
def _first_of_nearest(drivers: Drivers, state: _State, driver: int, near: NDArray[np.int64]) -> int:
    """Which of the areas in a driver's way counts as the nearest, where several are equally near.

    Officially one tree finds out who is in the way, and another one, filled in the order in which the first listed
    them, who is nearest.
    """
    everybody = np.flatnonzero(state.is_here)
    bounds, gap_to = np.empty((len(everybody), 4)), np.full(len(state.is_here), np.inf)
    for position in range(len(everybody)):
        area = int(everybody[position])
        if not state.is_laid[area]:
            _lay_claim(drivers, state, area)
        area_bounds(state.pieces, state.areas, area, bounds[position])
    for area in near:
        gap_to[area] = area_distance(state.pieces, state.areas, driver, area, np.inf)
    order = order_in_tree(bounds)
    order = order[np.isfinite(gap_to[everybody[order]])]
    own_bounds = bounds[np.searchsorted(everybody, driver)]
    return everybody[order[nearest_in_tree(bounds[order], gap_to[everybody[order]], own_bounds)]]


@kernel
def _lowest(state: _State, areas: NDArray[np.int64]) -> int:
    """The area whose middle has the lowest y, -1 if several have: the first that a tree of a single node finds."""
    lowest, lowest_y, bounds = -1, np.inf, state.bounds
    for area in areas:
        area_bounds(state.pieces, state.areas, area, bounds)
        y = bounds[1] + bounds[3]
        if y < lowest_y:
            lowest, lowest_y = area, y
        elif y == lowest_y:
            lowest = -1
    return lowest


@kernel
def _move(drivers: Drivers, state: _State, driver: int, gap_m: float, lead_speed_mps: float) -> None:
    """One Euler step of the intelligent driver model behind a leader.

    Source: nuplan-devkit v1.2 `IDMPolicy.solve_forward_euler_idm_policy`.
    """
    speed_mps = state.speed_mps[driver]
    approach = speed_mps * (speed_mps - lead_speed_mps)
    wanted_gap_m = _MIN_GAP_M + speed_mps * HEADWAY_S + approach / (2 * math.sqrt(_ACCELERATION_MPS2 * _BRAKING_MPS2))
    freedom = 1 - (speed_mps / drivers.wanted_speed_mps[driver]) ** 4
    acceleration = _ACCELERATION_MPS2 * (freedom - (wanted_gap_m / max(gap_m, _MIN_GAP_M)) ** 2)
    acceleration = min(max(-_BRAKING_MPS2, acceleration), _ACCELERATION_MPS2)
    state.progress_m[driver] += ROLLOUT_STEP_S * speed_mps
    state.speed_mps[driver] = max(speed_mps + ROLLOUT_STEP_S * acceleration, 0.0)
    x, y, heading = pose_at(drivers.lines, driver, state.progress_m[driver])
    state.poses[driver, 0], state.poses[driver, 1], state.poses[driver, 2] = x, y, heading
    state.has_moved[driver], state.is_laid[driver] = True, False
    length_m, width_m = drivers.snapped_boxes[driver, 3], drivers.snapped_boxes[driver, 4]
    longest_m = max(length_m + state.speed_mps[driver] * HEADWAY_S, drivers.lines.longest_m[driver])
    radius_m = math.hypot(length_m, width_m) / 2
    enclose(x, y, radius_m, _claimed(drivers, state, driver), longest_m, state.areas.hull[driver])


@kernel
def _follow(
    drivers: Drivers, state: _State, alone: _Alone, step: int, driver: int, at: int, ego_speed_mps: float
) -> int:
    """Move one driver one step on, behind whatever is nearest in its way; says how that ended.

    Args:
        drivers, state: All of them.
        alone: Is told what was in the way, where there is no ego vehicle.
        step: Step that the move ends with.
        driver: Which one.
        at: Where there is room for the pieces of a corridor's beginning.
        ego_speed_mps: Of the ego vehicle.
    Source: navsim `NavsimIDMAgentManager.propagate_agents`.
    """
    count, lines, pieces, areas = len(state.progress_m), drivers.lines, state.pieces, state.areas
    near, nearest, found, tied, overlooked, gap_m = state.near, state.nearest, 0, 0, 0, np.inf
    corridor = lay_reach(lines, driver, state.progress_m[driver], pieces, at)
    begin, past = corridor.next_vertex - 1, past_end(lines, corridor)
    # Once it has moved, its box lies around where its corridor begins.
    if not state.has_moved[driver] and not reach_touches(lines, corridor, begin, pieces, areas, driver):
        return LOST_LANE
    if not state.is_here[count]:
        alone.corridor_starts[step, driver, 0], alone.corridor_starts[step, driver, 1] = corridor.x, corridor.y
        alone.next_vertex[step, driver] = corridor.next_vertex
    for other in range(count + 1):
        if other == driver or not state.is_here[other]:
            continue
        vertex = segment_near(lines, corridor, begin, areas.hull[other])
        if vertex >= past:
            continue
        if not state.is_laid[other]:
            _lay_claim(drivers, state, other)
        if not reach_touches(lines, corridor, vertex, pieces, areas, other):
            continue
        if not state.is_here[count]:
            alone.in_way[step, driver, other] = True
        if drivers.is_hidden[driver, other]:
            overlooked += 1
            continue
        if not state.is_laid[driver]:
            _lay_claim(drivers, state, driver)
        near[found] = other
        found += 1
        apart_m = area_distance(pieces, areas, driver, other, gap_m)
        if apart_m <= gap_m:
            tied = tied + 1 if apart_m == gap_m else 1
            nearest[tied - 1], gap_m = other, apart_m
    if found > 0:
        leader = nearest[0]
        if tied > 1:
            leader = _lowest(state, nearest[:tied]) if found <= NODE_CHILDREN else -1
            if leader < 0:
                leader = _first_of_nearest(drivers, state, driver, near[:found])
        lead_speed_mps, lead_heading = ego_speed_mps, state.poses[count, 2]
        if leader < count and not drivers.is_taken_for_ego[leader]:
            lead_speed_mps, lead_heading = state.speed_mps[leader], state.poses[leader, 2]
        turned = (lead_heading - state.poses[driver, 2] + math.pi) % (2 * math.pi) - math.pi
        _move(drivers, state, driver, gap_m, lead_speed_mps * math.cos(turned))
    elif overlooked > 0:
        return NOBODY_TO_SEE
    else:
        # It brakes for the end of its lane, where officially nothing stands.
        rest_m = lines.vertices[lines.first[driver + 1] - 1, PROGRESS] - state.progress_m[driver]
        _move(drivers, state, driver, rest_m - drivers.snapped_boxes[driver, 3] / 2, 0.0)
    return FINE


@kernel
def _begin(drivers: Drivers, state: _State) -> None:
    for driver in range(len(drivers.progress_m)):
        state.progress_m[driver], state.speed_mps[driver] = drivers.progress_m[driver], drivers.speed_mps[driver]
        state.has_moved[driver], state.is_here[driver] = False, True
        box = drivers.snapped_boxes[driver]
        _lay_area(drivers, state, driver, box[0], box[1], box[2])
        # The lane may end before the place where the vehicle was put.
        x, y, heading = pose_at(drivers.lines, driver, drivers.progress_m[driver])
        state.poses[driver, 0], state.poses[driver, 1], state.poses[driver, 2] = x, y, heading


@kernel
def _drive_alone(drivers: Drivers, state: _State, alone: _Alone, at: int) -> bool:
    """Drive everybody where there is no ego vehicle; says whether that went well."""
    count = len(drivers.progress_m)
    _begin(drivers, state)
    state.is_here[count] = False
    for step in range(1, len(alone.progress_m)):
        for driver in range(count):
            if _follow(drivers, state, alone, step, driver, at, 0.0):
                return False
            alone.progress_m[step, driver] = state.progress_m[driver]
            alone.speed_mps[step, driver] = state.speed_mps[driver]
            for axis in range(3):
                alone.poses[step, driver, axis] = state.poses[driver, axis]
                alone.hulls[step, driver, axis] = state.areas.hull[driver, axis]
    return True


@kernel
def _is_as_alone(
    drivers: Drivers, state: _State, alone: _Alone, is_astray: NDArray[np.bool_], step: int, driver: int
) -> bool:
    """Whether a driver will surely do what it does where there is no ego vehicle."""
    count, lines = len(state.progress_m), drivers.lines
    start = alone.corridor_starts[step, driver]
    corridor = Reach(driver, start[0], start[1], alone.next_vertex[step, driver], 0, 0)
    begin, past = corridor.next_vertex - 1, past_end(lines, corridor)
    for other in range(count + 1):
        if not is_astray[other] or other == driver:
            continue
        if alone.in_way[step, driver, other]:
            return False
        if state.is_here[other] and segment_near(lines, corridor, begin, state.areas.hull[other]) < past:
            return False
    return True


@kernel
def _drive(
    drivers: Drivers,
    ego_states: Array,
    state: _State,
    alone: _Alone,
    is_astray: NDArray[np.bool_],
    at: int,
    plan: int,
    drives: Drives,
) -> int:
    """Drive everybody beside one rollout [41, 11]; `is_astray` [D + 1] is who does not do as in `alone`."""
    count = len(drivers.progress_m)
    _begin(drivers, state)
    is_astray[:] = not alone.is_known
    is_astray[count], state.is_here[count] = True, True
    for step in range(1, len(ego_states)):
        ego = ego_states[step - 1]
        state.poses[count, 0], state.poses[count, 1], state.poses[count, 2] = (
            ego[bicycle.X],
            ego[bicycle.Y],
            ego[bicycle.HEADING],
        )
        # Officially the box is centered on the rear axle.
        _lay_claim(drivers, state, count)
        for driver in range(count):
            dx, dy = state.poses[driver, 0] - ego[bicycle.X], state.poses[driver, 1] - ego[bicycle.Y]
            if math.hypot(dx, dy) > REACH_M:
                state.is_here[driver], is_astray[driver] = False, True
        for driver in range(count):
            if not state.is_here[driver]:
                continue
            if not is_astray[driver] and _is_as_alone(drivers, state, alone, is_astray, step, driver):
                state.progress_m[driver] = alone.progress_m[step, driver]
                state.speed_mps[driver] = alone.speed_mps[step, driver]
                for axis in range(3):
                    state.poses[driver, axis] = alone.poses[step, driver, axis]
                    state.areas.hull[driver, axis] = alone.hulls[step, driver, axis]
                state.has_moved[driver], state.is_laid[driver] = True, False
            else:
                failure = _follow(drivers, state, alone, step, driver, at, math.hypot(ego[bicycle.VX], ego[bicycle.VY]))
                if failure:
                    return failure
                is_astray[driver] = (
                    not alone.is_known
                    or is_astray[driver]
                    or state.progress_m[driver] != alone.progress_m[step, driver]
                    or state.speed_mps[driver] != alone.speed_mps[step, driver]
                )
            for axis in range(3):
                drives.poses[plan, driver, step, axis] = state.poses[driver, axis]
            drives.speed_mps[plan, driver, step], drives.present[plan, driver, step] = state.speed_mps[driver], True
        for bystander in range(len(drivers.bystanders)):
            drives.bystanders_present[plan, bystander, step] = _is_free(drivers, state, drives, plan, step, bystander)
    return FINE


@kernel
def _is_free(drivers: Drivers, state: _State, drives: Drives, plan: int, step: int, bystander: int) -> bool:
    """Whether nobody is in the place of a vehicle that stays where it is."""
    outline = drivers.bystanders[bystander]
    for driver in range(len(drivers.progress_m)):
        if not state.is_here[driver]:
            continue
        dx, dy = outline[0, 0] - state.areas.hull[driver, 0], outline[0, 1] - state.areas.hull[driver, 1]
        reach_m = state.areas.hull[driver, 2] + math.hypot(outline[2, 0] - outline[0, 0], outline[2, 1] - outline[0, 1])
        if dx * dx + dy * dy > reach_m * reach_m:
            continue
        if not state.is_laid[driver]:
            _lay_claim(drivers, state, driver)
        if boxes_touch(outline, state.pieces.quads[state.areas.spans[driver, 0]]):
            return False
    for earlier in range(bystander):
        if drives.bystanders_present[plan, earlier, step] and boxes_touch(outline, drivers.bystanders[earlier]):
            return False
    return True


_WORTH_SHARING = 3
"""Plans a scene from which on it pays to drive everybody without an ego vehicle first."""


@kernel
def drive_all(drivers: Drivers, rollouts: Array, drives: Drives) -> int:
    """Drive everybody beside each of the rollouts [C, 41, 11]; says what failed."""
    count, lines, steps = len(drivers.progress_m), drivers.lines, drives.poses.shape[2]
    # A box and the four outermost segments of its claim, for everybody; then the first two segments of a corridor.
    room = 1 + most_pieces(lines, 4)
    at = lines.slot[-1] + (count + 1) * room
    state = _State(
        np.empty(count),
        np.empty(count),
        np.empty((count + 1, 3)),
        np.empty(count + 1, dtype=np.bool_),
        np.empty(count, dtype=np.bool_),
        np.empty(count + 1, dtype=np.bool_),
        pieces_for(lines, (count + 2) * room),
        Areas(np.zeros((count + 1, 4), dtype=np.int64), np.empty((count + 1, 3))),
        np.empty(count + 1, dtype=np.int64),
        np.empty(count + 1, dtype=np.int64),
        np.empty(4),
    )
    for area in range(count + 1):
        state.areas.spans[area, 0] = lines.slot[-1] + area * room
    # Who is taken for the ego vehicle is nobody without one.
    shared = steps if len(rollouts) >= _WORTH_SHARING and not drivers.is_taken_for_ego.any() else 0
    alone = _Alone(
        False,
        np.empty((shared, count)),
        np.empty((shared, count)),
        np.empty((shared, count, 3)),
        np.empty((shared, count, 3)),
        np.empty((shared, count, 2)),
        np.empty((shared, count), dtype=np.int64),
        np.zeros((shared, count, count + 1), dtype=np.bool_),
    )
    is_known = shared > 0 and _drive_alone(drivers, state, alone, at)
    alone = _Alone(is_known, *alone[1:])
    is_astray = np.empty(count + 1, dtype=np.bool_)
    for plan in range(len(rollouts)):
        failure = _drive(drivers, rollouts[plan], state, alone, is_astray, at, plan, drives)
        if failure:
            return failure
    return FINE
