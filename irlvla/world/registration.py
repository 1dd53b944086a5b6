"""Makes the embedded world known to Gymnasium.

Gymnasium calls `register_environments` by itself where irlvla is installed (entry point `gymnasium.envs`), in the name
space `irlvla`; it costs nothing until an environment is made.
"""

import gymnasium

ENVIRONMENT = "irlvla/Drive-v0"


def register_environments() -> None:
    """Register `irlvla/Drive-v0`."""
    if ENVIRONMENT not in gymnasium.registry:
        gymnasium.register(ENVIRONMENT, entry_point="irlvla.world.environment:DriveEnv")


register_environments()
