"""Errors a user can cause and cure; anything else is our own bug and crashes."""


class IrlvlaError(Exception):
    """Base of every error that names a cause outside the program and its cure."""


class DataError(IrlvlaError):
    """A file or folder of a data root is missing, damaged, hostile or inconsistent."""


class SceneDataError(DataError):
    """One scene cannot be read, planned or scored; the others can.

    Args:
        token: The scene's token.
        reason: What is wrong, in one sentence.
    """

    def __init__(self, token: str, reason: str) -> None:
        super().__init__(f"scene {token}: {reason}")
        self.token = token
        self.reason = reason

    def __reduce__(self) -> tuple[type["SceneDataError"], tuple[str, str]]:
        # Errors travel between processes by what they were made of; by default that would be the message alone.
        return type(self), (self.token, self.reason)


class ConfigError(IrlvlaError):
    """A recipe, option or stored configuration cannot be used."""


class RunError(IrlvlaError):
    """A run cannot go on: no disk space, a foreign run folder, a missing earlier stage."""
