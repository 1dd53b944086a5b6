"""True closed loop: plans at 2 Hz, tracked at 10 Hz by the scorer's own simulator, among traffic that reacts.

One drive: SUMO fills the streets and drives a car for a few seconds; then plans move that car. Every half second the
plan is followed for five steps by `irlvla.simulation.tracker.simulate`, SUMO is told at each step where the car is and
moves everybody else, and what is then to be seen becomes the next `Scene`, with the very sensors and records of a log.
"""

import tempfile
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from irlvla.data.logs import frame_from_record
from irlvla.errors import RunError
from irlvla.geometry import EGO_FRONT_M, EGO_LENGTH_M, EGO_WHEEL_BASE_M, wrap_angle
from irlvla.simulation.bicycle import AX, HEADING, STEERING, VX, YAW_ACCELERATION, YAW_RATE, X, Y
from irlvla.simulation.reference import reference_poses
from irlvla.simulation.tracker import simulate
from irlvla.types import HISTORY_FRAMES, OBJECT_TYPES, PLAN_POSES, PLAN_STEP_S, Array, Frame, Scene
from irlvla.world.city import Connector
from irlvla.world.drives import FRAME_STEPS
from irlvla.world.live_traffic import LiveTraffic, Snapshot
from irlvla.world.logs import (
    OBJECT_REACH_M,
    SIGNAL_REACH_M,
    KeyFrame,
    RouteCompass,
    SceneObject,
    frame_records,
    nearest_objects,
    object_type,
    token_of,
)
from irlvla.world.motion import STEP_S, Track, vehicle_track
from irlvla.world.place import Place
from irlvla.world.referee import Judgement, Objects, Referee
from irlvla.world.sensors import Look

Image = NDArray[np.uint8]

DrivenBy = Literal["plans", "sumo"]
"""Who moves the ego vehicle: plans, or SUMO's own driver as the human of this world."""

End = Literal["route driven", "collision", "off the road", "off the route", "time limit"]
"""Why a drive ended; all but the time limit are the drive's own doing."""

LOST_S = 5.0
"""A drive ends when the ego vehicle has been off the road, or off its route, for so long."""

MIN_ROUTE_M = 120.0
"""Shortest route that a drive begins with."""

_SETTLE_STEPS = 40
"""Steps for which SUMO drives the later ego under watch: 1.5 s of them are history, the others let motion settle."""
_MIN_SETTLE_M = 8.0
_MIN_START_MPS = 3.0
_SEARCH_S = 90.0
# SUMO's driver is shown this much late: its motion is smoothed with what comes after, as in recorded logs.
_SMOOTHING_LAG_STEPS = 20
_ROUTE_BEHIND_EDGES = 3
_JUDGED_REACH_M = 30.0
_START_US = 1_700_000_000_000_000


class NoDriveError(RunError):
    """No car in this traffic has a route to drive; another seed may have one."""


@dataclass(frozen=True)
class Moment:
    """The world at one step."""

    snapshot: Snapshot
    ego_state: Array
    """[11] rear axle, world."""

    @property
    def step(self) -> int:
        return self.snapshot.step


@dataclass(frozen=True)
class Stretch:
    """One half second of driving."""

    moments: tuple[Moment, ...]
    """The moment it began at, then one for each step."""
    judgement: Judgement
    end: End | None
    """Why the drive is over; None while it goes on."""


class ClosedLoop:
    """Drives through one place, one after another.

    Args:
        place: Where.
        time_limit_s: Longest drive.
        sensors: Whether images and point clouds are made; without them only drivers that need none can drive.
    """

    def __init__(self, place: Place, *, time_limit_s: float = 60.0, sensors: bool = True) -> None:
        self.place = place
        self.time_limit_s = time_limit_s
        self._sensors = sensors
        self.traffic: LiveTraffic | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        city = place.city
        self._signalled = [connector for connector in city.connectors if connector.signal is not None]
        self._signal_xy = np.array([c.baseline[0] for c in self._signalled]).reshape(-1, 2)
        self._statics = np.array([item.pose for item in place.scenery.objects]).reshape(-1, 3)
        self._static_boxes = np.array([[*item.pose, *item.size_m[:2]] for item in place.scenery.objects]).reshape(-1, 5)

    # What a drive is made of; set by `start`.
    name: str
    referee: Referee
    frames: list[Frame]
    """Keyframes from the first of the history to now."""
    states: list[Array]
    """[11] ego states at 10 Hz from the moment the driver took over."""
    route: list[str]
    """Roadblock ids of the whole route."""
    look: Look
    """Weather and light of the drive."""

    def start(self, seed: int, driver: DrivenBy = "plans") -> Scene:
        """Begin a drive.

        Args:
            seed: Decides traffic, which car becomes the ego, its route, weather and noise. Equal place and seed begin
                equally, whoever drives.
            driver: Who moves the ego vehicle.
        Returns:
            What there is to be seen when the driver takes over.
        Raises:
            NoDriveError: No car in this traffic has a route to drive.
            RunError: SUMO dies.
        """
        self.close()
        self._driver: DrivenBy = driver
        self._folder = tempfile.TemporaryDirectory(prefix="irlvla-drive-")
        rng = np.random.default_rng([seed, 61])
        preset = self.place.preset
        demand, bus_stops = self.place.write_demand(
            int(rng.integers(2**31)), _SEARCH_S + self.time_limit_s + 10.0, Path(self._folder.name)
        )
        self.traffic = LiveTraffic(self.place.network, demand, int(rng.integers(2**31)), bus_stops)
        self.traffic.run_until(preset.warm_up_s)
        self._snapshots: list[Snapshot] = []
        self._choose_ego(rng)
        self.name = f"closed-loop_{self.place.spec.location}_{seed:010d}"
        self.look = self.place.sensors.random_look(rng, self.name)
        self._noise = rng
        self._seed = seed
        self._compass = RouteCompass(self.place.city, self._edges)
        self._lost_steps = [0, 0]
        self._time_step = 0
        self._end: End | None = None
        self._moments = self._settled_moments()
        self.states = [self._moments[-1].ego_state]
        self.frames = []
        for number in range(HISTORY_FRAMES):
            moment = self._moments[-1 - (HISTORY_FRAMES - 1 - number) * FRAME_STEPS]
            self.frames.append(self._observe(moment, number))
        now = self._moments[-1]
        self.referee.begin(now.ego_state, self._objects(now))
        self._moments = [now]
        if driver == "plans":
            self.traffic.take_over()
        return self.scene

    @property
    def scene(self) -> Scene:
        """What there is now, as a log would tell it; its token is that of a scene no human drove through."""
        location = self.place.spec.location
        return Scene(self.frames[-1].token, self.name, location, tuple(self.frames[-HISTORY_FRAMES:]))

    @property
    def time_s(self) -> float:
        """Time since the driver took over."""
        return self._time_step * STEP_S

    @property
    def progress_m(self) -> float:
        """Way along the route so far."""
        return self.referee.progress_m

    @property
    def now(self) -> Moment:
        return self._moments[-1]

    @property
    def _blobs(self) -> Path:
        """Folder of this drive's images and point clouds; it goes when the next drive begins."""
        assert self._folder is not None
        return Path(self._folder.name) / "blobs"

    def advance(self, plan: Array | None = None) -> Stretch:
        """Drive on for half a second.

        Args:
            plan: [8, 3] or [40, 3] poses in the ego frame of now; None where SUMO drives.
        Raises:
            ValueError: The plan has another shape, or poses that are not finite.
            RunError: SUMO dies.
        """
        if self.traffic is None or self._end is not None:
            raise RuntimeError("no drive is going on: begin one with start()")
        before = self._moments[-1]
        moments = self._follow(plan) if self._driver == "plans" else self._let_sumo_drive()
        self._moments = [before, *moments]
        self.states += [moment.ego_state for moment in moments]
        self._time_step += len(moments)
        judgement = self.referee.judge(
            np.stack([moment.ego_state for moment in self._moments]),
            [self._objects(moment) for moment in self._moments],
            [self._red(moment) for moment in self._moments],
        )
        self._end = self._why_over(judgement)
        if len(moments) == FRAME_STEPS:
            self.frames.append(self._observe(moments[-1], len(self.frames)))
        return Stretch(tuple(self._moments), judgement, self._end)

    def run_out(self) -> None:
        """Let the last plan, or SUMO's driver, drive on after the end, so that its four seconds are known in full.

        Adds `PLAN_POSES` - 1 frames without sensors and as many half seconds of states; nothing is judged any more.
        """
        if self._end is None or self.traffic is None:
            raise RuntimeError("the drive is not over")
        for half_second in range(1, PLAN_POSES):
            if self._driver == "plans":
                moments = self._drive_along(self._rollout[FRAME_STEPS * half_second :])
            else:
                moments = self._let_sumo_drive()
            if len(moments) < FRAME_STEPS:
                return
            self._moments = [self._moments[-1], *moments]
            self.states += [moment.ego_state for moment in moments]
            self.frames.append(self._frame(moments[-1], len(self.frames))[1])

    def close(self) -> None:
        """End the drive and remove its files."""
        if self.traffic is not None:
            self.traffic.close()
            self.traffic = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def render(self, moment: Moment) -> list[Image]:
        """Images [H, W, 3] RGB of the preset's cameras at a moment."""
        return self.place.sensors.render(self.key_frame(moment, "render", 0), self.look)

    def key_frame(self, moment: Moment, token: str, number: int) -> KeyFrame:
        """A moment as the recorder of logs describes it."""
        state = moment.ego_state
        pose = state[:3]
        lane = moment.snapshot.ego.lane if moment.snapshot.ego is not None else ""
        near = np.flatnonzero(np.hypot(*(self._signal_xy - pose[:2]).T) < SIGNAL_REACH_M)
        lights = []
        for connector in (self._signalled[index] for index in near):
            letter = _letter(connector, moment)
            lights.append((connector, letter in "rRu", letter))
        return KeyFrame(
            token,
            moment.step,
            _START_US + number * round(PLAN_STEP_S * 1e6),
            pose,
            float(state[VX]),
            float(state[AX]),
            float(state[YAW_RATE]),
            self._compass.command(lane, pose),
            self._visible(moment),
            tuple(lights),
        )

    # --- the ego vehicle -------------------------------------------------------------------------------------------

    def _choose_ego(self, rng: np.random.Generator) -> None:
        """Find a car that drives well and far enough, and let SUMO drive it under watch."""
        assert self.traffic is not None
        traffic, city = self.traffic, self.place.city
        give_up_s = traffic.time_s + _SEARCH_S
        tried: set[str] = set()
        while traffic.time_s < give_up_s:
            moving = [name for name, speed in traffic.possible_egos() if speed > _MIN_START_MPS and name not in tried]
            if not moving:
                traffic.run_until(traffic.time_s + 5.0)
                continue
            ego = moving[rng.integers(len(moving))]
            tried.add(ego)
            edges = traffic.watch(ego)
            snapshots = [traffic.step() for _ in range(_SETTLE_STEPS)]
            last = snapshots[-1].ego
            first = snapshots[0].ego
            if first is None or last is None or np.hypot(*np.subtract(last.front, first.front)) < _MIN_SETTLE_M:
                continue
            edge = last.lane.rsplit("_", 1)[0]
            if edge.startswith(":") or edge not in edges:
                continue
            edges = edges[max(0, edges.index(edge) - _ROUTE_BEHIND_EDGES) :]
            route = city.route_roadblocks(edges)
            # Blocks and connectors take turns; fewer mean a gap on the map.
            if len(route) < 2 * len(edges) - 1:
                continue
            self._snapshots = snapshots
            self._edges, self.route = edges, route
            moment = self._settled_moments()[-1]
            self.referee = Referee(self.place.city_map, route, moment.ego_state[:3])
            if self.referee.route_m < MIN_ROUTE_M or not self.referee.is_sound(moment.ego_state, self._objects(moment)):
                continue
            if self._driver == "sumo":
                self._snapshots += [traffic.step() for _ in range(_SMOOTHING_LAG_STEPS)]
            return
        raise NoDriveError(
            f"no car at {self.place.spec.location} has {MIN_ROUTE_M:.0f} m to drive within {_SEARCH_S:.0f} s: give "
            "another seed, or a preset with a larger network or more traffic"
        )

    def _settled_moments(self) -> list[Moment]:
        """Moments of the steps SUMO drove before the driver takes over."""
        states = self._sumo_states()
        return [
            Moment(snapshot, state) for snapshot, state in zip(self._snapshots[:_SETTLE_STEPS], states, strict=False)
        ]

    def _sumo_states(self) -> Array:
        """[T, 11] ego states of all watched steps SUMO drove."""
        fronts = [snapshot.ego for snapshot in self._snapshots if snapshot.ego is not None]
        ego_size = (EGO_LENGTH_M, 0.0, 0.0)
        lanes = np.array([ego.lane for ego in fronts], dtype=object)
        track = vehicle_track("ego", "ego", 0, np.array([ego.front for ego in fronts]), lanes, ego_size)
        return _states_of(track, self.place.city.offset)

    def _follow(self, plan: Array | None) -> list[Moment]:
        """Track a plan for half a second, and let the traffic see it."""
        poses = np.asarray(plan, dtype=np.float64) if plan is not None else np.zeros(0)
        if poses.shape not in {(8, 3), (40, 3)}:
            raise ValueError(f"a plan is [8, 3] or [40, 3] poses, got shape {poses.shape}")
        if not np.isfinite(poses).all():
            raise ValueError("the plan holds NaN or infinite poses")
        state = self._moments[-1].ego_state
        reference = reference_poses(poses[None], state[:3], self.frames[-1].time_us)
        self._rollout = simulate(reference, state)[0]
        return self._drive_along(self._rollout)

    def _drive_along(self, states: Array) -> list[Moment]:
        """Half a second along simulated states, of which the first is now."""
        assert self.traffic is not None
        offset = self.place.city.offset
        moments = []
        for step in range(1, FRAME_STEPS + 1):
            x, y, heading = states[step, :3]
            front = (
                float(x + EGO_FRONT_M * np.cos(heading) - offset[0]),
                float(y + EGO_FRONT_M * np.sin(heading) - offset[1]),
            )
            snapshot = self.traffic.step(front, float(heading), on_route=not self._lost_steps[1])
            moments.append(Moment(snapshot, states[step]))
        return moments

    def _let_sumo_drive(self) -> list[Moment]:
        assert self.traffic is not None
        if self._snapshots[-1].ego is not None:
            self._snapshots += [self.traffic.step() for _ in range(FRAME_STEPS)]
        states = self._sumo_states()
        first = self.now.step - self._snapshots[0].step + 1
        steps = range(first, min(first + FRAME_STEPS, len(states)))
        return [Moment(self._snapshots[step], states[step]) for step in steps]

    def _why_over(self, judgement: Judgement) -> End | None:
        if judgement.collisions:
            return "collision"
        if self.referee.arrived:
            return "route driven"
        for kind, flags in enumerate((judgement.off_road, judgement.wrong_way)):
            for lost in flags:
                self._lost_steps[kind] = self._lost_steps[kind] + 1 if lost else 0
        if self._lost_steps[0] * STEP_S >= LOST_S:
            return "off the road"
        vanished = self.now.snapshot.ego is None
        if self._driver == "sumo":
            # SUMO takes its own driver off the road at the end of the route.
            vanished = len(self._moments) <= FRAME_STEPS
            if vanished:
                return "route driven"
        if vanished or self._lost_steps[1] * STEP_S >= LOST_S:
            return "off the route"
        return "time limit" if self.time_s >= self.time_limit_s - 1e-9 else None

    # --- what is to be seen ----------------------------------------------------------------------------------------

    def _observe(self, moment: Moment, number: int) -> Frame:
        """A keyframe with its sensors, whose files are kept as long as a scene may show them."""
        key_frame, frame = self._frame(moment, number)
        if not self._sensors:
            return frame
        if number >= HISTORY_FRAMES:
            past = self.frames[number - HISTORY_FRAMES]
            for path in (*(camera.image_path for camera in past.cameras.values()), past.lidar_path):
                if path is not None:
                    path.unlink(missing_ok=True)
        self.place.sensors.write_frame(key_frame, self.look, self._blobs / self.name, self._noise)
        return frame

    def _frame(self, moment: Moment, number: int) -> tuple[KeyFrame, Frame]:
        """A moment as a keyframe, and that as the reader of logs gives it."""
        # 17 characters mark a scene without a human to compare with.
        key_frame = self.key_frame(moment, token_of(self.name, number) + "c", number)
        preset = self.place.preset
        (record,) = frame_records([key_frame], self.place.city, self.route, self.name, preset, self._seed)
        if not preset.lidar:
            record["lidar_path"] = None
        return key_frame, frame_from_record(record, self._blobs if self._sensors else None)

    def _red(self, moment: Moment) -> Set[int]:
        near = np.flatnonzero(np.hypot(*(self._signal_xy - moment.ego_state[:2]).T) < _JUDGED_REACH_M)
        connectors = (self._signalled[index] for index in near)
        return {connector.fid for connector in connectors if _letter(connector, moment) in "rRu"}

    def _visible(self, moment: Moment) -> tuple[SceneObject, ...]:
        pose = moment.ego_state[:3]
        cos, sin = np.cos(pose[2]), np.sin(pose[2])
        to_ego = np.array([[cos, sin], [-sin, cos]])
        here = pose[:2] - self.place.city.offset
        found: list[tuple[float, SceneObject]] = []
        for user in moment.snapshot.users:
            x, y = to_ego @ (np.array(user.center[:2]) - here)
            distance = float(np.hypot(x, y))
            if distance > OBJECT_REACH_M:
                continue
            length, width, height = user.size_m
            heading = float(wrap_angle(np.array(user.center[2] - pose[2])))
            box = np.array([x, y, height / 2, length, width, height, heading])
            velocity = to_ego @ np.array(user.velocity_mps)
            found.append(
                (distance, SceneObject(user.name, object_type(user.kind), user.kind, box, velocity, user.braking))
            )
        return nearest_objects(found, self.place.scenery, self._statics, pose)

    def _objects(self, moment: Moment) -> Objects:
        """Everything that could be touched at a moment."""
        here = moment.ego_state[:2]
        offset = self.place.city.offset
        users = [
            user
            for user in moment.snapshot.users
            if abs(user.center[0] + offset[0] - here[0]) < _JUDGED_REACH_M
            and abs(user.center[1] + offset[1] - here[1]) < _JUDGED_REACH_M
        ]
        near = np.flatnonzero((np.abs(self._static_boxes[:, :2] - here) < _JUDGED_REACH_M).all(axis=1))
        statics = [self.place.scenery.objects[index] for index in near]
        boxes = np.array([[*user.center, *user.size_m[:2]] for user in users]).reshape(-1, 5)
        boxes[:, :2] += offset
        names = [object_type(user.kind) for user in users] + [item.type for item in statics]
        return Objects(
            tuple(user.name for user in users) + tuple(item.name for item in statics),
            np.array([OBJECT_TYPES.index(name) for name in names], dtype=np.int64),
            np.concatenate([boxes, self._static_boxes[near]]),
            np.array([user.speed_mps for user in users] + [0.0] * len(statics)),
        )


def _letter(connector: Connector, moment: Moment) -> str:
    """State of a connector's light, as SUMO writes it; "O" where there is none."""
    if connector.signal is None:
        return "O"
    light, link = connector.signal
    state = moment.snapshot.signals.get(light, "")
    return state[link] if link < len(state) else "O"


def _states_of(track: Track, offset: Array) -> Array:
    """[T, 11] states of a car that followed a track, as the bicycle would have had them."""
    states = np.zeros((len(track), 11))
    states[:, [X, Y]] = track.rear_axle[:, :2] + offset
    states[:, HEADING] = wrap_angle(track.rear_axle[:, 2])
    states[:, VX] = np.maximum(track.speed_mps, 0.0)
    states[:, AX] = np.gradient(track.speed_mps, STEP_S)
    yaw_rate = np.gradient(track.rear_axle[:, 2], STEP_S)
    states[:, YAW_RATE] = yaw_rate
    states[:, YAW_ACCELERATION] = np.gradient(yaw_rate, STEP_S)
    # Standing, any steering angle gives no yaw rate.
    turning = np.where(track.speed_mps > 0.5, yaw_rate / np.maximum(track.speed_mps, 0.5), 0.0)
    states[:, STEERING] = np.arctan(EGO_WHEEL_BASE_M * turning)
    return states
