"""What holds the house up: which way imports go, how large a file may grow, what an import costs, what is installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Imports only go down, and rooms of one rank never import each other. The order is the design's.
RANKS = {
    0: ["errors", "types", "registry", "progress"],
    1: ["config", "durable", "validate", "filters", "latent", "models", "index"],
    2: ["readers", "encoders", "vectors", "metadata"],
    3: ["truth", "fit", "export"],
    4: ["ingest", "query", "check", "describe"],
    5: ["compute"],
    6: ["explore"],
    7: ["show", "upkeep"],
    8: ["store"],
    9: ["cli"],
}
RANK = {room: rank for rank, rooms in RANKS.items() for room in rooms}
#: Imported for types alone, or on purpose: (room, room it reaches).
BESIDE = {("metadata", "migrations")}


def modules() -> list[tuple[str, Path]]:
    """(room, file) of all library and CLI code."""
    found = []
    for path in sorted((ROOT / "embedstore").rglob("*.py")):
        inside = path.relative_to(ROOT / "embedstore")
        if str(inside) != "__init__.py":
            found.append((inside.parts[0].removesuffix(".py"), path))
    return found + [("cli", path) for path in sorted((ROOT / "cli").rglob("*.py"))]


def imports(path: Path) -> list[str]:
    """Rooms of embedstore that a file imports, wherever in it."""
    rooms = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""]
            if node.module == "embedstore":
                names = [f"embedstore.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms += [name.split(".")[1] for name in names if name.startswith("embedstore.")]
    return rooms


def test_every_room_has_a_rank() -> None:
    assert {room for room, _ in modules()} == set(RANK)


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda value: getattr(value, "name", value))
def test_imports_only_go_down(room: str, path: Path) -> None:
    public = {"Store", "create", "open", "EmbedstoreError", "__version__"}  # of the package itself, for the CLI
    for other in imports(path):
        # Every room may raise our errors; the design counts them to rank 0 with the rest of the floor.
        if other in (room, "errors") or (room == "cli" and other in public) or (room, other) in BESIDE:
            continue
        assert RANK[other] < RANK[room], f"{path.name} ({room}, rank {RANK[room]}) imports {other} ({RANK[other]})"


def test_no_file_is_longer_than_400_lines() -> None:
    long = {}
    for folder in ("embedstore", "cli", "migrations", "tests", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > 400:
                long[str(path.relative_to(ROOT))] = lines
    assert long == {}


def test_sql_is_written_in_metadata_alone() -> None:
    for room, path in modules():
        text = path.read_text(encoding="utf-8")
        if room not in ("metadata", "check"):
            assert "import sqlite3" not in text or path.name == "backup.py", path
            assert "sqlalchemy" not in text, path


def test_every_package_is_listed_for_the_build() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {"embedstore", "embedstore.cli", "embedstore.migrations", "embedstore.migrations.versions"}
    there |= {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "embedstore").rglob("*/__init__.py")}
    assert listed == there


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_embedstore_loads_no_heavy_library() -> None:
    heavy = ["torch", "faiss", "sklearn", "pyarrow", "pandas", "sqlalchemy", "alembic", "PIL"]
    loaded = run(f"import sys, embedstore; print([name for name in {heavy} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_opening_and_searching_loads_neither_torch_nor_sklearn_nor_alembic(tmp_path: Path) -> None:
    code = f"""
import sys, numpy as np, embedstore
with embedstore.create({str(tmp_path / "a.store")!r}) as store:
    store.add_vectors(["a", "b"], np.eye(2, 4, dtype=np.float32), [{{"n": 1}}, {{"n": 2}}])
"""
    run(code)
    code = f"""
import sys, embedstore
with embedstore.open({str(tmp_path / "a.store")!r}, read_only=True) as store:
    hits = store.search(store.item("a"))
    assert hits.metadata == [{{"n": 2}}], hits
print("sqlalchemy" in sys.modules)
with embedstore.open({str(tmp_path / "a.store")!r}, read_only=True) as store:
    hits = store.search(store.item("a"), where="n > 1")
    assert hits.ids == ["b"], hits
print([name for name in ("torch", "sklearn", "alembic", "pyarrow", "pandas", "PIL") if name in sys.modules])
"""
    assert run(code).split("\n")[:2] == ["False", "[]"]


def test_no_top_level_cli_or_migrations_reaches_site_packages(tmp_path: Path) -> None:
    """From a wheel, as users get it."""
    wheels = tmp_path / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    import zipfile

    (wheel,) = wheels.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"embedstore"}
    for needed in (
        "embedstore/py.typed",
        "embedstore/cli/main.py",
        "embedstore/migrations/env.py",
        "embedstore/migrations/versions/r0001_initial.py",
        "embedstore/truth/writer.py",
    ):
        assert needed in names


def test_a_store_is_data_not_code() -> None:
    forbidden = re.compile(
        r"(^|[^.\w])(eval|exec)\(|import pickle|pickle\.load|torch\.load\(|allow_pickle=True|trust_remote_code=True"
    )
    for _, path in modules():
        assert not forbidden.search(path.read_text(encoding="utf-8")), path
