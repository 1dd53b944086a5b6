"""Importing this module makes the embedded world known to Gymnasium, which has no plugins of its own since 1.0.

Example:
    >>> import gymnasium, irlvla.world.registration
    >>> gymnasium.spec("irlvla/Drive-v0").entry_point
    'irlvla.world.environment:DriveEnv'
"""

import gymnasium

ENVIRONMENT = "irlvla/Drive-v0"

gymnasium.register(ENVIRONMENT, entry_point="irlvla.world.environment:DriveEnv")
