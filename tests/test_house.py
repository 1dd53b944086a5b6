"""The house keeps its word: imports follow the order of the packages, and the docs name only what exists."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from irlvla.cli.main import COMMANDS

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "irlvla"

ORDER = (
    ("errors", "types", "geometry", "files", "processes", "checkout"),
    ("data",),
    ("simulation",),
    ("scoring",),
    ("world",),
    ("model",),
    ("stages",),
    ("evaluation",),
    ("recipes",),
    ("cli",),
)
"""A part imports only from its own rank and those before it."""

RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
LEARNED = {"model", "stages"}
"""Where torch may be imported when the module is; everywhere else only inside the functions that need it."""

MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
    ]
)


def _part(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def _label(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide where a name comes from"
        if node.module == "irlvla":
            return [f"irlvla.{alias.name}" for alias in node.names]
        return [node.module or ""]
    return []


def _imports_on_load(tree: ast.Module) -> Iterator[str]:
    """What importing the module imports: everything outside of functions and of `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        yield from _imported(node)
        waiting.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", MODULES, ids=_label)
def test_module_imports_only_from_parts_before_its_own(path: Path) -> None:
    part = _part(path)
    if part == "__init__":
        return
    assert part in RANK, f"irlvla/{part} has no place in the order of the packages"
    for node in ast.walk(_tree(path)):
        for name in _imported(node):
            if name.startswith("irlvla."):
                other = name.split(".")[1]
                if other == "__version__":
                    continue
                assert RANK[other] <= RANK[part], f"irlvla/{part} must not import {name}: {other} comes after it"


@pytest.mark.parametrize("path", [p for p in MODULES if _part(p) not in LEARNED], ids=_label)
def test_torch_waits_until_it_is_needed(path: Path) -> None:
    heavy = {name.split(".")[0] for name in _imports_on_load(_tree(path))} & {"torch", "transformers", "accelerate"}
    assert not heavy, f"{_label(path)} imports {', '.join(sorted(heavy))} when loaded"
    if _part(path) != "evaluation" and RANK.get(_part(path), 0) < RANK["model"]:
        anywhere = {name.split(".")[0] for node in ast.walk(_tree(path)) for name in _imported(node)}
        assert "torch" not in anywhere, f"irlvla/{_part(path)} must work where torch is not installed"


def _loaded_modules(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after running `code`."""
    probe = f"{code}\nimport sys\nprint('LOADED', *sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


def test_help_imports_nothing_heavy() -> None:
    loaded = _loaded_modules("from irlvla.cli.main import main\nmain(['--help'])")
    assert not loaded & {"torch", "transformers", "numba", "scipy", "shapely", "cv2", "pyarrow", "libsumo"}


EXTRAS = {"torch", "transformers", "accelerate", "scipy", "pyarrow", "cv2", "libsumo", "jinja2", "matplotlib", "ray"}
"""What `pip install irlvla` does not bring."""


def test_scoring_loads_nothing_of_the_extras() -> None:
    modules = [p for p in MODULES if _part(p) == "scoring" and p.parent.name != "reference"]
    names = [".".join(p.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for p in modules]
    loaded = _loaded_modules("import " + ", ".join(names))
    assert "irlvla" in loaded
    # numba looks for scipy, and takes it where it finds it.
    assert not loaded & (EXTRAS - {"scipy"})


def _run_without_extras(command: str) -> subprocess.CompletedProcess[str]:
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from irlvla.cli.main import main
sys.exit(main({command.split()!r}))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)


@pytest.mark.parametrize("options", ["", "--metric pdms-1.1", "--traffic reactive"])
def test_score_needs_nothing_of_the_extras(options: str, golden: Path, tmp_path: Path) -> None:
    """Compiled kernels count: numba's linear algebra would ask for scipy."""
    alpha, out = golden / "alpha", tmp_path / "scores.parquet"
    command = f"score --data {alpha} --split test --plans {alpha / 'plans_reactive.npz'} --out {out} {options}"
    done = _run_without_extras(command)
    assert done.returncode == 0, done.stderr
    assert out.is_file()


def test_world_report_needs_nothing_of_the_extras(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "root" / "navsim_logs" / "test").mkdir(parents=True)
    (tmp_path / "root" / "maps").symlink_to(golden / "alpha" / "maps")
    log = sorted((golden / "alpha" / "navsim_logs" / "test").glob("*.pkl"))[0]
    (tmp_path / "root" / "navsim_logs" / "test" / log.name).symlink_to(log)
    done = _run_without_extras(f"world report {tmp_path / 'root'} --split test --out {tmp_path} --workers 1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "test.md").is_file()


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("evaluate plans.npz --data {alpha} --split test --out {out}", "train"),
        ("train imitation quick --data {alpha} --out {out}", "train"),
        ("world build quick --out {out}", "world"),
        ("score --data {alpha} --plans {alpha}/plans.npz --out {out} --workers ray", "scale"),
    ],
)
def test_a_missing_extra_is_named(command: str, extra: str, golden: Path, tmp_path: Path) -> None:
    done = _run_without_extras(command.format(alpha=golden / "alpha", out=tmp_path / "out"))
    assert done.returncode == 2, done.stderr
    assert f"pip install 'irlvla[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluating_plans_needs_no_torch() -> None:
    loaded = _loaded_modules("import irlvla.evaluation.evaluate, irlvla.evaluation.policies, irlvla.evaluation.report")
    assert "irlvla" in loaded
    assert not loaded & {"torch", "transformers"}


# --- documents ---------------------------------------------------------------------------------------------------

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS = {p.name for p in REPOSITORY.iterdir() if p.is_dir() and not p.name.startswith(".")}
PATH = re.compile(r"[\w.-]+(?:/[\w.*-]+)*/?")
DOTTED = re.compile(r"irlvla(?:\.\w+)+")
MADE_BY_COMMANDS = {"runs"}
"""Folders that commands write; the repository does not hold them."""


def _inline(text: str) -> list[str]:
    return CODE.findall(FENCE.sub("", text))


def _defines(statement: ast.stmt, name: str) -> bool:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return statement.name == name
        case ast.Assign():
            return any(isinstance(n, ast.Name) and n.id == name for t in statement.targets for n in ast.walk(t))
        case ast.AnnAssign():
            return isinstance(statement.target, ast.Name) and statement.target.id == name
        case ast.Import() | ast.ImportFrom():
            return any((alias.asname or alias.name) == name for alias in statement.names)
        case _:
            return False


def _resolves_in_module(path: Path, names: list[str]) -> bool:
    """Whether `names` (a function, or a class and its member) are defined by the module at `path`."""
    body: list[ast.stmt] = _tree(path).body
    for name in names:
        found = next((statement for statement in body if _defines(statement, name)), None)
        if found is None:
            return False
        body = found.body if isinstance(found, ast.ClassDef) else []
    return True


def _dotted_exists(dotted: str) -> bool:
    """Whether `irlvla.a.b.name` is a package, a module, or something defined in one."""
    parts = dotted.split(".")
    here = REPOSITORY
    for index, part in enumerate(parts):
        if (here / part).is_dir():
            here = here / part
        elif (here / f"{part}.py").is_file():
            return _resolves_in_module(here / f"{part}.py", parts[index + 1 :])
        else:
            return _resolves_in_module(here / "__init__.py", parts[index:])
    return True


def _path_exists(written: str, beside: Path) -> bool:
    for root in (REPOSITORY, beside):
        if "*" in written:
            if any(root.glob(written)):
                return True
        elif (root / written).exists():
            return True
    return False


def _wrong_path_or_symbol(span: str, beside: Path) -> str | None:
    """What is wrong with a back-ticked span, if it is a path into the repository or a dotted name of ours."""
    dotted = DOTTED.match(span)
    if dotted and not span.startswith(("irlvla/", "irlvla ")):
        return None if _dotted_exists(dotted.group()) else f"`{span}` names nothing in the package"
    path_text, _, symbol = span.partition(":")
    if not PATH.fullmatch(path_text) or path_text.split("/")[0] in MADE_BY_COMMANDS:
        return None
    looks_ours = "/" in path_text and path_text.split("/")[0] in FOLDERS
    looks_ours |= "/" not in path_text and path_text.endswith((".md", ".toml"))
    if not looks_ours:
        return None
    if not _path_exists(path_text, beside):
        return f"`{span}`: there is no {path_text}"
    name = symbol.strip().removesuffix("()")
    if path_text.endswith(".py") and re.fullmatch(r"[A-Za-z_][\w.]*", name):
        target = REPOSITORY / path_text
        if not target.exists():
            target = beside / path_text
        if not _resolves_in_module(target, name.split(".")):
            return f"`{span}`: {path_text} defines no {name}"
    return None


def _commands(text: str) -> Iterator[str]:
    """Every `irlvla …` and `make …` command line in a document, in back-ticks or in a fenced block."""
    lines = [span for span in _inline(text) if span.startswith(("irlvla ", ".venv/bin/irlvla ", "make "))]
    for block in FENCE.findall(text):
        lines += [line.strip().removeprefix("$ ") for line in block.splitlines()]
    for line in lines:
        yield from re.findall(r"(?:^|\s|;|&&)((?:\.venv/bin/)?irlvla [a-z-][^;&|#]*|make [a-z][^;&|#]*)", line)


def _wrong_command(command: str) -> str | None:
    words = command.split()
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        asked = [word for word in words[1:] if "=" not in word][:1]
        return next((f"`{command}`: the Makefile has no {word}" for word in asked if word not in targets), None)
    if words[1].startswith("--"):
        return None if words[1] in {"--help", "--version"} else f"`{command}`: irlvla has no option {words[1]}"
    firsts = {name.split()[0] for name in COMMANDS}
    if words[1] not in firsts:
        return f"`{command}`: no such command"
    seconds = {name.split()[1] for name in COMMANDS if name.startswith(f"{words[1]} ")}
    if seconds and len(words) > 2:
        alternatives = set(words[2].strip("[]").split("|"))
        if not alternatives <= seconds:
            return f"`{command}`: irlvla {words[1]} knows {', '.join(sorted(seconds))}"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=_label)
def test_document_names_only_paths_and_symbols_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    wrong = [_wrong_path_or_symbol(span, document.parent) for span in _inline(text)]
    for target in LINK.findall(text):
        path = target.split("#")[0]
        if path and "://" not in path and not path.startswith("mailto:"):
            wrong.append(None if (document.parent / path).exists() else f"link to {target}: there is no such file")
    assert not (found := [problem for problem in wrong if problem]), "\n".join(found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_label)
def test_document_names_only_commands_that_exist(document: Path) -> None:
    found = [p for p in map(_wrong_command, _commands(document.read_text(encoding="utf-8"))) if p]
    assert not found, "\n".join(found)


def test_every_command_points_to_a_function() -> None:
    for name, (target, summary) in COMMANDS.items():
        module, _, function = target.partition(":")
        assert _dotted_exists(f"{module}.{function}"), f"irlvla {name} points to {target}, which does not exist"
        assert summary


@pytest.mark.parametrize(
    ("span", "right"),
    [
        ("irlvla.geometry.ego_to_world", True),
        ("irlvla.geometry.ego_to_mars", False),
        ("irlvla.types.Rollout.states_world", True),
        ("irlvla.types.Rollout.no_such_field", False),
        ("irlvla/types.py:SubScores", True),
        ("irlvla/types.py:SubScores.names()", True),
        ("irlvla/types.py:OverScores", False),
        ("irlvla/no_such_module.py", False),
        ("tests/*.py", True),
        ("tests/*.rs", False),
        ("navsim_logs/<split>", True),
        ("speed_mps", True),
    ],
)
def test_the_reader_of_documents_tells_right_from_wrong(span: str, right: bool) -> None:
    assert (_wrong_path_or_symbol(span, REPOSITORY) is None) == right


@pytest.mark.parametrize(
    ("command", "right"),
    [
        ("irlvla score --data ROOT", True),
        ("irlvla train imitation|reward|ppo RECIPE", True),
        ("irlvla train gail", False),
        ("irlvla fly", False),
        ("make test", True),
        ("make coffee", False),
    ],
)
def test_the_reader_of_commands_tells_right_from_wrong(command: str, right: bool) -> None:
    assert (_wrong_command(command) is None) == right
