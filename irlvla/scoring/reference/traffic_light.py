"""Traffic light compliance."""

from irlvla.scoring.reference.surroundings import Surroundings, body
from irlvla.types import Array


def traffic_light(scene: Surroundings, states: Array) -> float:
    """0 where the body ever touches a connector under a red light."""
    touched = any(
        body(state).intersects(red) for state, lights in zip(states, scene.red, strict=True) for red in lights
    )
    return 0.0 if touched else 1.0
