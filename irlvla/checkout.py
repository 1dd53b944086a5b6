"""What ran: commit, digest of the sources and command line, as they are stamped on every result."""

import hashlib
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path


def checkout_commit() -> str:
    """Commit of the checkout this package runs from, marked where files differ from it; `unknown` outside of one."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "--", "."],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


@lru_cache(maxsize=1)
def scorer_digest() -> bytes:
    """Digest of every source file that has a say in a scoring context or a score."""
    package = Path(__file__).parent
    sources = [package / "geometry.py", package / "types.py"]
    for part in ("data", "simulation", "scoring"):
        sources += sorted((package / part).glob("*.py"))
    hasher = hashlib.blake2b(digest_size=20)
    for source in sources:
        code = source.read_bytes()
        hasher.update(len(code).to_bytes(8, "little") + code)
    return hasher.digest()


def command_line() -> str:
    """The command this process was started with, as one would type it."""
    program = Path(sys.argv[0])
    name = "irlvla" if program.parent.name == "cli" else program.name
    return shlex.join([name, *sys.argv[1:]])
