"""The `irlvla` command: find the sub-command, parse its options, call one function, print.

Nothing heavy is imported before a sub-command is chosen, so that `irlvla --help` answers at once.
"""

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from irlvla import __version__
from irlvla.errors import IrlvlaError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("irlvla.cli.demo:demo", "The main job on the embedded world: from nothing to a table of results"),
    "world build": ("irlvla.cli.commands:world_build", "Write an embedded world in NAVSIM's on-disk format"),
    "world instruct": (
        "irlvla.cli.commands:world_instruct",
        "Give every scene of a split instructions, with plans that obey them",
    ),
    "world sheet": ("irlvla.cli.commands:world_sheet", "Many scenes on one page: cameras, view from above, words"),
    "world report": ("irlvla.cli.commands:world_report", "How a split's scenes are distributed; tables and plots"),
    "train imitation": ("irlvla.cli.commands:train_imitation_command", "Stage 1: learn to drive as the human does"),
    "train reward": ("irlvla.cli.commands:train_reward_command", "Stage 2: learn the reward world model"),
    "train ppo": ("irlvla.cli.commands:train_ppo_command", "Stage 3: improve the driver against the reward model"),
    "score": ("irlvla.cli.commands:score", "Score a file of plans with NAVSIM v2's EPDMS"),
    "evaluate": ("irlvla.cli.commands:evaluate_command", "Compare drivers on a split; write table, pictures and page"),
    "plan": ("irlvla.cli.commands:plan", "Let a trained driver plan for a split; write plans.npz and pictures"),
    "doctor": ("irlvla.cli.commands:doctor", "Check that a data root is complete and consistent"),
    "drive": (
        "irlvla.cli.commands:drive",
        "Let drivers drive in closed loop on held-out networks; write what happened",
    ),
    "ask": ("irlvla.cli.commands:ask", "Ask a trained driver for its decision in words"),
}
"""Sub-command -> (function, one-line help). The function takes the remaining arguments."""

_SHARED = {"scipy", "pyarrow", "cv2", "simplejpeg"}
"""Packages that two extras bring."""

_EXTRAS = dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors", "accelerate"), "train")
_EXTRAS |= dict.fromkeys(("jinja2", "matplotlib", *_SHARED), "train")
_EXTRAS |= dict.fromkeys(("libsumo", "sumolib", "sumo", "traci", "gymnasium"), "world")
"""Package -> extra that brings it."""


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            f"irlvla {__version__}: a driving vision-language-action policy, its reward world model, and EPDMS",
            "",
            "usage: irlvla COMMAND [options]      irlvla COMMAND --help",
            "",
            *lines,
        ]
    )


def _find_command(arguments: Sequence[str]) -> tuple[str, list[str]] | None:
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, list(arguments[words:])
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Returns:
        0 on success, 2 for an error the user can cure (its cause and cure are printed), 130 when interrupted; other
        numbers as the sub-command says.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    found = _find_command(arguments)
    if found is None:
        asked = " ".join(arguments[:2])
        near = difflib.get_close_matches(asked, COMMANDS, n=1) or [c for c in COMMANDS if c.startswith(arguments[0])]
        hint = f" Perhaps you meant: irlvla {near[0]}." if near else ""
        print(f"irlvla: no such command: {asked!r}.{hint}\n\n{_help()}", file=sys.stderr)
        return 2
    name, rest = found
    # Idle OpenMP threads would otherwise spin and starve the processes that decode images and score plans.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    module, function = COMMANDS[name][0].split(":")
    try:
        code: int | None = getattr(importlib.import_module(module), function)(rest)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = "world" if name.startswith("world") and missing in _SHARED else _EXTRAS.get(missing)
        if extra is None:
            raise
        print(f"irlvla {name}: needs {error.name}; install it with: pip install 'irlvla[{extra}]'", file=sys.stderr)
        return 2
    except IrlvlaError as error:
        print(f"irlvla {name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        print(
            f"irlvla {name}: the disk is full ({error}); free space and run the command again: "
            "what is finished is kept",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"\nirlvla {name}: interrupted; the same command goes on from where it stopped", file=sys.stderr)
        return 130
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
