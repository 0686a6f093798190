"""The plan of docs/architecture.md: which room imports which, and what stays unloaded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import models
import transformations
from transformations.config import ROOT

ROOMS = (
    "transformations",
    "models",
    "operations",
    "feature_repo",
    "stores",
    "serving",
    "pipelines",
    "benchmarks",
)
# Room → exactly what of ours its files import, besides their own room; docs/architecture.md shows
# the same table. A sub-room has a line where more is forbidden to it than to its room.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "transformations": (),
    "models": ("transformations",),
    "operations": ("models", "transformations"),
    "feature_repo": (
        "models.lines",
        "models.rankers.package",
        "models.rankers.reading",
        "operations.composition",
        "operations.fits",
        "operations.rankers",
        "operations.workspace",
        "transformations.config",
        "transformations.errors",
        "transformations.item_kinds",
        "transformations.member_columns",
        "transformations.names",
        "transformations.rules",
        "transformations.secrets",
        "transformations.stats.columns",
    ),
    "stores": (),
    "serving": ("feature_repo", "models", "operations", "stores", "transformations"),
    "serving.publish": (
        "feature_repo",
        "models",
        "operations.composition",
        "operations.fits",
        "operations.workspace",
        "serving.answers",
        "serving.stream.states",
        "stores.columnar",
        "stores.eviction",
        "stores.kinds",
        "stores.sqlite",
        "stores.writing",
        "transformations",
    ),
    "serving.request": (
        "models",
        "operations.fits",
        "serving.outage",
        "serving.searches",
        "serving.times",
        "stores",
        "transformations",
    ),
    "serving.recommend": (
        "models",
        "operations.composition",
        "operations.fits",
        "operations.rankers",
        "operations.releases",
        "operations.traffic",
        "serving.request",
        "serving.stream.bus",
        "serving.times",
        "stores",
        "transformations",
    ),
    "serving.stream": (
        "models",
        "operations",
        "serving.answers",
        "serving.outage",
        "serving.publish",
        "serving.searches",
        "serving.times",
        "stores",
        "transformations",
    ),
    "pipelines": ("models", "operations", "serving", "stores.ids", "transformations"),
    "pipelines.engine": ("transformations",),
    "pipelines.experiments": (
        "operations.experiments",
        "pipelines.ranking.impressions",
        "transformations",
    ),
    "pipelines.drift": (
        "models",
        "operations.alert_failures",
        "operations.drift",
        "operations.drift_rule",
        "operations.ledger",
        "operations.rankers",
        "operations.workspace",
        "pipelines.progress",
        "pipelines.ranking.impressions",
        "pipelines.terminal",
        "transformations",
    ),
    "benchmarks": (
        "models",
        "operations",
        "pipelines",
        "serving",
        "stores",
        "transformations",
    ),
}
# Third-party packages that a room must know nothing of.
MUST_NOT_IMPORT = {
    "transformations": ("tensorflow", "keras", "feast"),
    "models": ("feast",),
    "operations": ("tensorflow", "keras", "feast"),
    "feature_repo": ("tensorflow", "keras"),
    "stores": ("tensorflow", "keras"),
}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room.replace(".", "/")).rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path) -> Iterator[str]:
    """Name every module that a file imports anywhere; of `from a import b`, `a.b` if it is one."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: expected an absolute import"
            module = node.module or ""
            for alias in node.names:
                inside = ROOT / module.replace(".", "/") / alias.name
                is_module = inside.is_dir() or inside.with_suffix(".py").exists()
                yield f"{module}.{alias.name}" if is_module else module


def within(module: str, *allowed: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_what_its_line_says(room: str) -> None:
    """Neither more, so that imports run down only, nor less, so that the table stays true."""
    taken = {
        (file.relative_to(ROOT).as_posix(), module)
        for file in files(room)
        for module in imported(file)
        if within(module, *ROOMS, "tests") and not within(module, room)
    }
    allowed = MAY_IMPORT[room]
    assert {pair for pair in taken if not within(pair[1], *allowed)} == set()
    unused = [name for name in allowed if not any(within(module, name) for _, module in taken)]
    assert unused == [], f"MAY_IMPORT[{room!r}] allows what nothing imports"


@pytest.mark.parametrize("room", MUST_NOT_IMPORT)
def test_a_room_knows_nothing_of_some_libraries(room: str) -> None:
    taken = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files(room)
        for module in imported(file)
        if within(module, *MUST_NOT_IMPORT[room])
    ]
    assert taken == []


def test_every_folder_of_code_is_a_room() -> None:
    tracked = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert tracked == {*ROOMS, "tests"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_of(file): file for room in ROOMS for file in files(room)}
    graph = {
        name: {module for module in imported(file) if module in modules} - {name}
        for name, file in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, with the circle


def test_nobody_takes_private_names_of_another_module() -> None:
    """Shipped code only: what others use has no underscore."""
    taken = [
        f"{file.relative_to(ROOT)} takes {node.module}.{alias.name}"
        for room in ROOMS
        for file in files(room)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and within(str(node.module), *ROOMS)
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert taken == []


def test_imports_are_seen_wherever_they_stand(tmp_path: Path) -> None:
    """The test above is worth what `imported` finds."""
    file = tmp_path / "module.py"
    file.write_text(
        "import models.embed as e\nfrom models import catalog, nothing\n"
        "from transformations.config import Config\ndef f():\n    import tensorflow.data\n"
    )
    assert list(imported(file)) == [
        "models.embed",
        "models.catalog",
        "models",
        "transformations.config",
        "tensorflow.data",
    ]
    assert not within("models_elsewhere", "models")


def test_only_one_module_imports_tensorflow() -> None:
    """Elsewhere its start-up chatter would reach the terminal."""
    importing = {
        file.relative_to(ROOT).as_posix()
        for room in ROOMS
        for file in files(room)
        if any(within(module, "tensorflow", "keras") for module in imported(file))
    }
    assert importing == {"models/backend.py"}


@pytest.mark.parametrize("module", ["models.catalog", "feature_repo.definitions"])
def test_importing_a_declaration_loads_no_tensorflow(module: str, tmp_path: Path) -> None:
    config = tmp_path / "activity.yaml"
    config.write_text(f"data_dir: {tmp_path}/data\nitems: {{text: [title]}}\n")
    code = f"import sys, {module}; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"ACTIVITY_CONFIG": str(config), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_generic_names_are_this_repositorys() -> None:
    for package in (models, transformations):
        assert Path(str(package.__file__)).resolve().is_relative_to(ROOT)
