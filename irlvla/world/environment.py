"""`irlvla/Drive-v0`: driving in the embedded world as a Gymnasium environment."""

import string
import tempfile
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from irlvla.data.sensors import POINT_FIELDS, load_image, load_point_cloud
from irlvla.errors import ConfigError
from irlvla.geometry import ego_to_world, world_to_ego
from irlvla.types import COMMANDS, HISTORY_FRAMES, PLAN_POSES, Array, Scene
from irlvla.world.closed_loop import ClosedLoop, Moment, Stretch
from irlvla.world.overview import Overview
from irlvla.world.place import Place, held_out_networks, open_place
from irlvla.world.presets import PRESETS

LIDAR_POINTS = 8192
"""Rows of the `lidar` observation; a sweep with fewer points is filled up with zeros, of one with more some are left
out, evenly."""

_MAX_AHEAD_M, _MAX_BACK_M, _MAX_ASIDE_M = 160.0, 20.0, 80.0
# Farther than any LiDAR sees, faster than any car drives, and more than intensities and rings count.
_MAX_SEEN = 300.0
_MAX_TEXT = 400


class DriveEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """Plans in, half seconds of driving out; traffic reacts. Every step is 0.5 s.

    Action: `Box` [8, 3], a plan as NAVSIM takes it: x forward, y left (m), heading (rad) in the ego frame of now, 0.5 s
    apart. Values beyond the box are brought to its rim.

    Observation: `Dict`
        | key | content |
        |---|---|
        | images | [V, H, W, 3] uint8 RGB of the preset's cameras, decoded from JPEG as a log's are |
        | lidar | [LIDAR_POINTS, 6] x, y, z (m, ego frame), intensity, ring, LiDAR id |
        | lidar_count | [1] rows of `lidar` that are points |
        | ego_history | [4, 7] oldest first: x, y, heading in the ego frame of now, velocity (2), acceleration (2) |
        | command | [4] one-hot: left, straight, right, unknown |
        | instruction | the driving question |

    Reward: metres gained along the route in this half second; none where the scorer's rules were broken (an at-fault
    collision, a red light, off the road, against or off the route).

    Episodes end (`terminated`) when the route is driven, at a collision, or after LOST_S off the road or the route;
    they are cut off (`truncated`) at the time limit. `info` holds the privileged state (ego state, boxes of everybody
    around, red connectors, place along the route) and what happened in the step; `scene` the same as a scene.

    Args:
        world: Name of a preset.
        world_seed: Seed of the world, which decides its networks.
        training_networks: Drive on the networks of the training split instead of the held-out ones.
        time_limit_s: Longest episode.
        render_mode: `rgb_array` for `render`, which shows cameras and the view from above.
        folder: Keeps networks and maps for the next environment; a temporary one if left out.
    Raises:
        ConfigError: The preset is unknown, or has no network of the wanted kind.
        RunError: SUMO is missing or dies.

    Example:
        >>> import gymnasium, irlvla.world.registration
        >>> environment = gymnasium.make("irlvla/Drive-v0", world="mini")
        >>> environment.action_space.shape
        (8, 3)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (Gymnasium's interface)

    def __init__(
        self,
        world: str = "tiny",
        *,
        world_seed: int = 0,
        training_networks: bool = False,
        time_limit_s: float = 60.0,
        render_mode: str | None = None,
        folder: str | Path | None = None,
    ) -> None:
        if world not in PRESETS:
            raise ConfigError(f"unknown preset {world!r}: there are {', '.join(PRESETS)}")
        if render_mode not in {None, "rgb_array"}:
            raise ConfigError(f"unknown render mode {render_mode!r}: there is 'rgb_array'")
        self.render_mode = render_mode
        self._preset = PRESETS[world]
        self._world_seed = world_seed
        self._time_limit_s = time_limit_s
        held_out = held_out_networks(self._preset)
        all_networks = range(len(self._preset.networks))
        self._networks = [i for i in all_networks if (i in held_out) != training_networks]
        if not self._networks:
            raise ConfigError(f"preset {world!r} has no network of this kind")
        self._temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="irlvla-places-")
        self._folder = Path(folder if folder is not None else self._temporary.name)  # type: ignore[union-attr]
        self._places: dict[int, tuple[Place, Overview]] = {}
        self._loop: ClosedLoop | None = None
        self._plan_world: Array | None = None
        low = np.array([-_MAX_BACK_M, -_MAX_ASIDE_M, -np.pi], dtype=np.float32)
        high = np.array([_MAX_AHEAD_M, _MAX_ASIDE_M, np.pi], dtype=np.float32)
        plans = spaces.Box(np.tile(low, (PLAN_POSES, 1)), np.tile(high, (PLAN_POSES, 1)), dtype=np.float32)
        self._lowest, self._highest = plans.low, plans.high
        self.action_space = plans
        images = (len(self._preset.cameras), self._preset.image_height_px, self._preset.image_width_px, 3)
        self.observation_space = spaces.Dict(
            {
                "images": spaces.Box(0, 255, images, dtype=np.uint8),
                "lidar": spaces.Box(-_MAX_SEEN, _MAX_SEEN, (LIDAR_POINTS, len(POINT_FIELDS)), dtype=np.float32),
                "lidar_count": spaces.Box(0, LIDAR_POINTS, (1,), dtype=np.int64),
                "ego_history": spaces.Box(-_MAX_SEEN, _MAX_SEEN, (HISTORY_FRAMES, 7), dtype=np.float32),
                "command": spaces.Box(0, 1, (len(COMMANDS),), dtype=np.int8),
                "instruction": spaces.Text(_MAX_TEXT, min_length=1, charset=string.printable),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Equal seeds begin equal episodes.
            options: `network` takes one of the preset's networks by its number instead of any.
        """
        super().reset(seed=seed)
        network = int(self.np_random.choice(self._networks))
        if options and "network" in options:
            network = int(options["network"])
            if network not in self._networks:
                raise ConfigError(f"network {network} is not among those driven here: {self._networks}")
        episode_seed = int(self.np_random.integers(2**31))
        if network not in self._places:
            place = open_place(self._preset, network, self._world_seed, self._folder)
            self._places[network] = place, Overview(place)
        place, _ = self._places[network]
        if self._loop is None or self._loop.place is not place:
            if self._loop is not None:
                self._loop.close()
            self._loop = ClosedLoop(place, time_limit_s=self._time_limit_s)
        self._network = network
        self._plan_world = None
        scene = self._loop.start(episode_seed)
        return self._observation(scene), self._info(self._loop, None)

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        loop = self._going_on()
        plan = np.asarray(action, dtype=np.float64)
        if plan.shape != (PLAN_POSES, 3) or not np.isfinite(plan).all():
            raise ValueError(f"an action is [{PLAN_POSES}, 3] finite poses, got shape {plan.shape}: {plan}")
        plan = np.clip(plan, self._lowest, self._highest)
        self._plan_world = ego_to_world(plan, loop.now.ego_state[:3])
        before_m = loop.progress_m
        stretch = loop.advance(plan)
        gained_m = loop.progress_m - before_m
        reward = gained_m if stretch.judgement.is_clean else 0.0
        truncated = stretch.end == "time limit"
        terminated = stretch.end is not None and not truncated
        return self._observation(loop.scene), reward, terminated, truncated, self._info(loop, stretch)

    def render(self) -> NDArray[np.uint8] | None:
        """Cameras and the view from above of now [SIDE_PX, CAMERAS_PX + SIDE_PX, 3] RGB."""
        if self.render_mode is None:
            return None
        loop = self._going_on()
        moment: Moment = loop.now
        words = [
            f"{loop.time_s:.1f} s   {3.6 * moment.ego_state[3]:.0f} km/h",
            f"command: {COMMANDS[int(np.argmax(loop.scene.now.command))]}",
        ]
        return self._places[self._network][1].picture(loop, moment, self._plan_world, words)

    @property
    def scene(self) -> Scene:
        """What there is now, for policies that plan for scenes; boxes, lights and route are privileged."""
        return self._going_on().scene

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def _going_on(self) -> ClosedLoop:
        if self._loop is None:
            raise RuntimeError("call reset() first")
        return self._loop

    def _observation(self, scene: Scene) -> dict[str, Any]:
        images = [load_image(scene.now.cameras[name]) for name in self._preset.cameras]
        lidar = np.zeros((LIDAR_POINTS, len(POINT_FIELDS)), dtype=np.float32)
        count = 0
        if scene.now.lidar_path is not None and self._preset.lidar:
            points = load_point_cloud(scene.now.lidar_path)
            if len(points) > LIDAR_POINTS:
                points = points[np.linspace(0, len(points) - 1, LIDAR_POINTS).round().astype(int)]
            count = len(points)
            lidar[:count] = points
        history = [
            np.concatenate(
                [
                    world_to_ego(frame.ego_pose_world, scene.now.ego_pose_world),
                    frame.ego_velocity_mps,
                    frame.ego_acceleration_mps2,
                ]
            )
            for frame in scene.history
        ]
        return {
            "images": np.stack(images),
            "lidar": lidar,
            "lidar_count": np.array([count], dtype=np.int64),
            "ego_history": np.stack(history).astype(np.float32),
            "command": scene.now.command.astype(np.int8),
            "instruction": scene.instruction,
        }

    @staticmethod
    def _info(loop: ClosedLoop, stretch: Stretch | None) -> dict[str, Any]:
        now = loop.scene.now
        info: dict[str, Any] = {
            "boxes": now.boxes.boxes,
            "box_types": now.boxes.types,
            "box_velocities_mps": now.boxes.velocity_mps,
            "red_connectors": np.array([int(fid) for fid, red in now.traffic_lights if red], dtype=np.int64),
            "ego_state": loop.now.ego_state.copy(),
            "time_s": loop.time_s,
            "progress_m": loop.progress_m,
            "route_m": loop.referee.route_m,
            "end": stretch.end if stretch is not None else None,
        }
        if stretch is not None:
            judgement = stretch.judgement
            info |= {
                "collisions": len(judgement.collisions),
                "collisions_at_fault": sum(touched.at_fault for touched in judgement.collisions),
                "red_lights_run": len(judgement.red_lights_run),
                "off_road": bool(judgement.off_road.any()),
                "wrong_way": bool(judgement.wrong_way.any()),
                "moved_m": float(judgement.moved_m.sum()),
            }
        return info
