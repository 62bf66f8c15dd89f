"""Imports only point down: the floors of docs/architecture.md, checked on the syntax trees."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOOR: dict[str, float] = {
    "qcluster.cli": 5,
    "deployments": 4,
    "actors": 3,
    "qcluster.joint": 2.5,  # one plan of three rooms' plans
    "qcluster.qtransformers": 2.5,  # models, on q_attention's samplers
    "qcluster.exports": 2.5,  # plans of any planner, in q_nvlink's and its own writers
    "qcluster.q_": 2,
    "qcluster.quantum": 1,
    "qcluster.telemetry": 1,
    "qcluster.codec": 1,
    "qcluster.testing": 1,
    "qcluster": 0,
}
RAY_ALLOWED = {
    "qcluster/q_hpo/ray_restore.py",
    "qcluster/q_hpo/searchers.py",
    "qcluster/q_hpo/tune_sweep.py",
    "qcluster/qtransformers/on_ray.py",
}


def floor_of(module: str) -> float | None:
    for prefix, floor in FLOOR.items():
        if module == prefix or module.startswith((prefix + ".", prefix if "_" in prefix else "?")):
            return floor
    return None


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported modules, and whether only for type checking."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) in typing_only))
    return found


def sources() -> list[Path]:
    return [
        p
        for top in ("qcluster", "actors", "deployments")
        for p in sorted((ROOT / top).rglob("*.py"))
    ]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own = floor_of(name)
    if name == "qcluster.__main__":
        own = 5
    for module, typing_only in imports(path):
        floor = floor_of(module)
        if floor is None or typing_only:
            continue
        assert floor <= own, f"{name} (floor {own}) imports {module} (floor {floor})"
        if own == 2 and floor == 2:
            assert room_of(module) == room_of(name), f"{name} imports the other room {module}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_library_knows_neither_ray_nor_http_servers(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    if not relative.startswith("qcluster/") or relative in RAY_ALLOWED:
        return
    for module, _ in imports(path):
        top = module.split(".")[0]
        assert top not in {"ray", "fastapi", "starlette", "uvicorn"}, f"{relative} imports {module}"


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_qcluster_is_light() -> None:
    assert not loaded_by("import qcluster") & {"ray", "torch", "numpy", "pydantic", "scipy"}


@pytest.mark.parametrize(
    "package",
    [
        "quantum",
        "telemetry",
        "codec",
        "exports",
        "q_routing",
        "q_energy",
        "q_nvlink",
        "q_attention",
        "qtransformers",
        "q_compressor",
        "q_decompressor",
        "q_hpo",
        "joint",
    ],
)
def test_rooms_load_no_heavy_library_on_import(package: str) -> None:
    heavy = {"ray", "torch", "pennylane", "qiskit", "torch_geometric", "sklearn"}
    assert not loaded_by(f"import qcluster.{package}") & heavy
