"""SUMO traffic that is stepped while somebody takes part in it: others brake, yield and queue behind the ego vehicle.

SUMO runs as a process of its own and is spoken to through its TraCI socket; any number of simulations can run side by
side. Positions are in network coordinates, as in `irlvla.world.traffic`.
"""

import contextlib
import io
import math
import os
import socket
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import traci
from numpy.typing import NDArray
from traci import constants

from irlvla.errors import RunError
from irlvla.world.motion import EGO_REAR_OVERHANG_M
from irlvla.world.networks import sumo_home
from irlvla.world.traffic import DRIVING_OPTIONS, EGO_TYPE_PREFIX, STEP_S, WORKS_TYPE_PREFIX

Array = NDArray[np.float64]

WATCH_REACH_M = 130.0
"""Road users this far from the ego vehicle are followed; they become visible nearer, when their motion has settled."""

_PEDESTRIAN_SIZE_M = (0.7, 0.7, 1.75)
_WALK_SMOOTHING = 0.3
_STANDING_MPS = 0.3
_WALKING_MPS = 0.15
_BRAKING_MPS2 = 0.5
# As where recorded tracks are cut: farther than the speed allows.
_JUMP_M = 1.5
# How far the ego may be from every road; farther than any drive goes before it ends.
_SEARCH_LANE_M = 1000.0
_START_TRIES = 5
_CONNECT_TRIES = 500
_CONNECT_EVERY_S = 0.02
_CLOSE_WAIT_S = 10.0


@dataclass(frozen=True)
class RoadUser:
    """Somebody near the ego vehicle at one step."""

    name: str
    kind: str
    """SUMO vehicle type, or "pedestrian"."""
    size_m: tuple[float, float, float]
    """Length, width, height."""
    center: tuple[float, float, float]
    """Box center x, y (m), heading (rad)."""
    velocity_mps: tuple[float, float]
    """Of the box center."""
    speed_mps: float
    braking: bool


@dataclass(frozen=True)
class EgoInTraffic:
    """Where SUMO has the ego vehicle."""

    front: tuple[float, float]
    """Middle of the front bumper."""
    lane: str
    """SUMO lane; empty off the network."""
    speed_mps: float


@dataclass(frozen=True)
class Snapshot:
    """The traffic around the ego vehicle at one step."""

    step: int
    """Steps of STEP_S since the simulation began."""
    users: tuple[RoadUser, ...]
    """Everybody within WATCH_REACH_M but the ego vehicle, by name."""
    signals: dict[str, str]
    """Traffic light id to its state string."""
    ego: EgoInTraffic | None
    """None once SUMO has taken it off the road, at the end of its route."""


class _Body:
    """The body of a vehicle whose front bumper SUMO moves.

    The causal twin of `irlvla.world.motion.vehicle_track`: a guide point runs along the front bumper's path some way
    behind it, and the rear axle is drawn after the guide point.
    """

    def __init__(self, front: tuple[float, float], heading: float, size_m: tuple[float, float, float], ego: bool):
        length = size_m[0]
        self.size_m = size_m
        self._rear_overhang = EGO_REAR_OVERHANG_M if ego else 0.2 * length
        self._guide_to_axle = 2.0 if ego else max(0.4, 0.4 * length)
        self._front_to_guide = length - self._rear_overhang - self._guide_to_axle
        cos, sin = math.cos(heading), math.sin(heading)
        back = self._front_to_guide + 1.0
        self._path = deque([(front[0] - back * cos, front[1] - back * sin), front])
        self._path_length = back
        self._front = front
        reach = self._front_to_guide + self._guide_to_axle
        self._axle = (front[0] - reach * cos, front[1] - reach * sin)
        self._heading = heading
        self.center = self._center()
        self.velocity = (0.0, 0.0)
        self.speed_mps = 0.0
        self.braking = False

    def jumps_to(self, front: tuple[float, float], speed_mps: float) -> bool:
        """Whether SUMO has put the vehicle somewhere else."""
        return math.dist(front, self._front) > max(speed_mps, self.speed_mps) * STEP_S + _JUMP_M

    def follow(self, front: tuple[float, float], speed_mps: float) -> None:
        self._front = front
        gap = math.dist(front, self._path[-1])
        if gap > 0.02:
            self._path.append(front)
            self._path_length += gap
            while True:
                first = math.dist(self._path[0], self._path[1])
                if self._path_length - first < self._front_to_guide + 0.5:
                    break
                self._path.popleft()
                self._path_length -= first
        guide = self._guide()
        dx, dy = guide[0] - self._axle[0], guide[1] - self._axle[1]
        if dx * dx + dy * dy > 1e-6:
            self._heading = math.atan2(dy, dx)
        cos, sin = math.cos(self._heading), math.sin(self._heading)
        self._axle = (guide[0] - self._guide_to_axle * cos, guide[1] - self._guide_to_axle * sin)
        before, self.center = self.center, self._center()
        self.velocity = ((self.center[0] - before[0]) / STEP_S, (self.center[1] - before[1]) / STEP_S)
        self.braking = (self.speed_mps - speed_mps) / STEP_S > _BRAKING_MPS2 or speed_mps < _STANDING_MPS
        self.speed_mps = speed_mps

    def _guide(self) -> tuple[float, float]:
        left = self._front_to_guide
        ahead = self._front
        for point in reversed(self._path):
            gap = math.dist(ahead, point)
            if gap >= left and gap > 0:
                share = left / gap
                return ahead[0] + share * (point[0] - ahead[0]), ahead[1] + share * (point[1] - ahead[1])
            left -= gap
            ahead = point
        return ahead

    def _center(self) -> tuple[float, float, float]:
        forward = self.size_m[0] / 2 - self._rear_overhang
        cos, sin = math.cos(self._heading), math.sin(self._heading)
        return self._axle[0] + forward * cos, self._axle[1] + forward * sin, self._heading


class _Walker:
    """A pedestrian; the heading follows the smoothed walk and is held while standing."""

    size_m = _PEDESTRIAN_SIZE_M
    braking = False

    def __init__(self, at: tuple[float, float], heading: float):
        self.center = (at[0], at[1], heading)
        self.velocity = (0.0, 0.0)
        self.speed_mps = 0.0

    def jumps_to(self, at: tuple[float, float], speed_mps: float) -> bool:
        return math.dist(at, self.center[:2]) > speed_mps * STEP_S + _JUMP_M

    def follow(self, at: tuple[float, float], speed_mps: float) -> None:
        x, y, heading = self.center
        vx, vy = self.velocity
        vx += _WALK_SMOOTHING * ((at[0] - x) / STEP_S - vx)
        vy += _WALK_SMOOTHING * ((at[1] - y) / STEP_S - vy)
        self.velocity, self.speed_mps = (vx, vy), math.hypot(vx, vy)
        self.center = (at[0], at[1], math.atan2(vy, vx) if self.speed_mps > _WALKING_MPS else heading)


class LiveTraffic:
    """One running SUMO simulation.

    Args:
        network: SUMO network file.
        demand: Route file, as `irlvla.world.traffic.write_demand` writes it.
        bus_stops: File of the stops that it serves.
        seed: Fixes all chance in SUMO: equal files, seed and ego motion give equal traffic.
    Raises:
        RunError: SUMO is not installed or does not start.
    """

    def __init__(self, network: Path, demand: Path, seed: int, bus_stops: Path | None = None) -> None:
        # SUMO's last words, for the error message; unnamed, so that nothing is left behind.
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as SUMO runs)
        self._step = 0
        self._ego = ""
        self._followed: dict[str, _Body | _Walker] = {}
        self._sizes: dict[str, tuple[float, float, float]] = {}
        self._route: tuple[str, ...] = ()
        self._is_rerouted = False
        home = sumo_home()
        options = ["-n", str(network), "-r", str(demand), "--seed", str(seed % 2**31), *DRIVING_OPTIONS]
        if bus_stops is not None:
            options += ["-a", str(bus_stops)]
        for attempt in range(_START_TRIES):
            port = _free_port()
            self._process = subprocess.Popen(
                [str(home / "bin" / "sumo"), *options, "--remote-port", str(port)],
                env={**os.environ, "SUMO_HOME": str(home)},
                stdout=self._messages,
                stderr=subprocess.STDOUT,
            )
            try:
                # It reports every try on standard output, which is not its to write on.
                with contextlib.redirect_stdout(io.StringIO()):
                    self._sumo: Any = traci.connect(port, _CONNECT_TRIES, "127.0.0.1", self._process, _CONNECT_EVERY_S)
                # It listens before it has read its files.
                self._sumo.simulation.getTime()
                return
            except (traci.TraCIException, traci.FatalTraCIError) as error:
                self._stop()
                # Another program may have taken the port in the meantime.
                if attempt + 1 == _START_TRIES or "port" not in self._last_words():
                    raise RunError(f"SUMO does not start on {network} {self._death()}") from error

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def time_s(self) -> float:
        return self._step * STEP_S

    def run_until(self, time_s: float) -> None:
        """Let the traffic run by itself."""
        with self._running():
            self._sumo.simulationStep(time_s)
        self._step = round(time_s / STEP_S)

    def possible_egos(self) -> list[tuple[str, float]]:
        """Vehicles with the ego's outline that are on the road, and their speeds (m/s), by name."""
        with self._running():
            vehicles = self._sumo.vehicle
            names = sorted(n for n in vehicles.getIDList() if vehicles.getTypeID(n).startswith(EGO_TYPE_PREFIX))
            return [(name, float(vehicles.getSpeed(name))) for name in names]

    def watch(self, ego: str) -> tuple[str, ...]:
        """Follow what happens around a vehicle from now on.

        Returns:
            SUMO edges of the whole route it is on, driven ones included.
        """
        motion = [constants.VAR_POSITION, constants.VAR_ANGLE, constants.VAR_SPEED, constants.VAR_TYPE]
        with self._running():
            vehicles = self._sumo.vehicle
            if self._ego in vehicles.getIDList():
                for domain in (constants.CMD_GET_VEHICLE_VARIABLE, constants.CMD_GET_PERSON_VARIABLE):
                    vehicles.unsubscribeContext(self._ego, domain, WATCH_REACH_M)
                vehicles.unsubscribe(self._ego)
            self._followed.clear()
            self._ego, self._is_rerouted = ego, False
            self._route = tuple(vehicles.getRoute(ego))
            vehicles.subscribeContext(ego, constants.CMD_GET_VEHICLE_VARIABLE, WATCH_REACH_M, motion)
            vehicles.subscribeContext(ego, constants.CMD_GET_PERSON_VARIABLE, WATCH_REACH_M, motion[:3])
            vehicles.subscribe(ego, [constants.VAR_POSITION, constants.VAR_LANE_ID, constants.VAR_SPEED])
            for light in self._sumo.trafficlight.getIDList():
                self._sumo.trafficlight.subscribe(light, [constants.TL_RED_YELLOW_GREEN_STATE])
        return self._route

    def take_over(self) -> None:
        """From now on the ego vehicle goes where `step` puts it."""
        with self._running():
            # Lane changes of SUMO's own driver would be registered with its neighbours.
            self._sumo.vehicle.setLaneChangeMode(self._ego, 0)

    def step(self, front: tuple[float, float] | None = None, heading: float = 0.0, on_route: bool = True) -> Snapshot:
        """Advance all traffic by STEP_S.

        Args:
            front: Where the middle of the ego's front bumper is at the end of the step; None lets SUMO's driver drive.
            heading: The ego's heading then.
            on_route: Whether the ego is on its route; if not, SUMO looks for it on any road, or off the roads.
        Raises:
            RunError: SUMO is gone.
        """
        with self._running():
            if front is not None:
                self._place(front, heading, on_route)
            self._sumo.simulationStep()
            self._step += 1
            vehicles, lights = self._sumo.vehicle, self._sumo.trafficlight
            around = vehicles.getContextSubscriptionResults(self._ego)
            own = vehicles.getSubscriptionResults(self._ego)
            signals = {
                light: str(values[constants.TL_RED_YELLOW_GREEN_STATE])
                for light, values in lights.getAllSubscriptionResults().items()
            }
            users = tuple(
                self._user(name, around[name])
                for name in sorted(around)
                # Where road works are, the others see a vehicle that is not there.
                if name != self._ego and not name.startswith(WORKS_TYPE_PREFIX)
            )
        for gone in self._followed.keys() - around.keys():
            del self._followed[gone]
        ego = None
        if own:
            x, y = own[constants.VAR_POSITION]
            ego = EgoInTraffic((x, y), str(own[constants.VAR_LANE_ID]), float(own[constants.VAR_SPEED]))
        return Snapshot(self._step, users, signals, ego)

    def close(self) -> None:
        """End the simulation; closing twice does no harm."""
        if not self._messages.closed:
            self._stop()
            self._messages.close()

    def _place(self, front: tuple[float, float], heading: float, on_route: bool) -> None:
        """Put the ego vehicle at its exact place; the lane that others look for it on is the nearest one."""
        vehicles = self._sumo.vehicle
        # Allowed to leave the network (2), an ego that crosses a junction off its route makes SUMO 1.28 crash.
        keep_route, any_road = 1, 0
        angle = math.degrees(math.pi / 2 - heading) % 360.0
        try:
            if on_route and self._is_rerouted:
                edge = str(vehicles.getRoadID(self._ego))
                if edge in self._route:
                    vehicles.setRoute(self._ego, self._route[self._route.index(edge) :])
                    self._is_rerouted = False
            keep = keep_route if on_route and not self._is_rerouted else any_road
            # Freed from its route, SUMO forgets it.
            self._is_rerouted |= keep == any_road
            vehicles.moveToXY(self._ego, "", -1, front[0], front[1], angle, keep, _SEARCH_LANE_M)
        except traci.TraCIException as error:
            if self._ego in vehicles.getIDList():
                raise RunError(f"SUMO does not take the ego vehicle at {self.time_s:.1f} s: {error}") from error
            # SUMO has taken it off the road at the end of its route; the snapshot says so.

    def _user(self, name: str, values: dict[int, Any]) -> RoadUser:
        place = values[constants.VAR_POSITION]
        at = (float(place[0]), float(place[1]))
        heading = math.radians(90.0 - values[constants.VAR_ANGLE])
        speed = float(values[constants.VAR_SPEED])
        # A type that was altered for one vehicle is named after both.
        kind = str(values.get(constants.VAR_TYPE, "pedestrian")).split("@", 1)[0]
        followed = self._followed.get(name)
        if followed is None or followed.jumps_to(at, speed):
            followed = (
                _Walker(at, heading)
                if kind == "pedestrian"
                else _Body(at, heading, self._size_m(kind), kind.startswith(EGO_TYPE_PREFIX))
            )
            followed.velocity = (speed * math.cos(heading), speed * math.sin(heading))
            followed.speed_mps = speed
            self._followed[name] = followed
        else:
            followed.follow(at, speed)
        return RoadUser(
            name, kind, followed.size_m, followed.center, followed.velocity, followed.speed_mps, followed.braking
        )

    def _size_m(self, kind: str) -> tuple[float, float, float]:
        if kind not in self._sizes:
            types = self._sumo.vehicletype
            self._sizes[kind] = (types.getLength(kind), types.getWidth(kind), types.getHeight(kind))
        return self._sizes[kind]

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Turn the death of SUMO into an error that says when, and its last words."""
        try:
            yield
        except (traci.FatalTraCIError, OSError) as error:
            self._stop()
            raise RunError(
                f"SUMO died {self.time_s:.1f} s into the simulation {self._death()}; what is finished is kept: give "
                "the same command again, and another seed if it dies there again"
            ) from error

    def _death(self) -> str:
        words = self._last_words()
        return f"(exit code {self._process.returncode}" + (f", its last words: {words})" if words else ")")

    def _last_words(self) -> str:
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("Error")] or lines
        return errors[-1].strip() if errors else ""

    def _stop(self) -> None:
        sumo: Any = getattr(self, "_sumo", None)
        if sumo is not None:
            with contextlib.suppress(traci.FatalTraCIError, traci.TraCIException, OSError):
                sumo.close(False)
        try:
            self._process.wait(_CLOSE_WAIT_S if sumo is not None else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
