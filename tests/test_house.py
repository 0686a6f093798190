"""The house of DESIGN.md: which part may import which, and what stays unloaded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import models
import transformations
from transformations.config import ROOT

PARTS = ("transformations", "models", "feature_repo", "stores", "pipelines", "serving")

# Part → the modules of ours that its files may import, besides those of their own part.
MAY_IMPORT = {
    "transformations": (),
    "models": ("transformations",),
    "feature_repo": (
        "models.catalog",
        "models.spec",
        "transformations.config",
        "transformations.errors",
    ),
    "stores": (),
    "pipelines": PARTS,
    "serving": PARTS,
}
# Third-party packages that a part must know nothing of.
MUST_NOT_IMPORT = {
    "transformations": ("tensorflow", "keras", "feast"),
    "models": ("feast",),
    "feature_repo": ("tensorflow", "keras"),
    "stores": ("tensorflow", "keras"),
}


def files(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


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


@pytest.mark.parametrize("part", [part for part in PARTS if files(part)])
def test_imports_go_in_one_direction(part: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files(part)
        for module in imported(file)
        if (within(module, *PARTS) and not within(module, part, *MAY_IMPORT[part]))
        or within(module, *MUST_NOT_IMPORT.get(part, ()))
    ]
    assert wrong == []


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
        for part in PARTS
        for file in files(part)
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
