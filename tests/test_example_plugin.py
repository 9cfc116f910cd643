"""The plug-in package in examples/: installed without network into a folder of its own, found and used there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxtune.testing import model_of

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # three processes that install and use it
PLUGIN = ROOT / "examples" / "onnxtune-plugin-clips"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed, as pip builds it from its pyproject.toml."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: the plug-in cannot be built without network")
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", folder / "site", folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def onnxtune(installed: Path, *words: object, cwd: Path) -> str:
    path = os.pathsep.join([str(installed), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "onnxtune", *map(str, words)]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_in_the_catalogue(installed: Path, tmp_path: Path) -> None:
    listed = onnxtune(installed, "rules", "list", cwd=tmp_path)
    row = next(line for line in listed.splitlines() if "merge_clips" in line)
    assert row.endswith("[onnxtune-plugin-clips]")
    told = onnxtune(installed, "rules", "explain", "merge_clips", cwd=tmp_path)
    assert "clip(clip(x, a, b), c, d)" in told
    assert "the two intervals have no number in common" in told
    assert "merge_clips" not in onnxtune(installed, "rules", "list", "--no-plugins", cwd=tmp_path)


def test_it_rewrites_a_model(installed: Path, tmp_path: Path) -> None:
    bounds = {name: np.float32(value) for name, value in zip("abcd", (0, 6, 0, 1), strict=True)}
    text = "g (float[N, 3, 64, 64] x) => (float[N, 3, 64, 64] y) { t = Clip (x, a, b)  y = Clip (t, c, d) }"
    onnx.save(model_of(text, bounds), tmp_path / "model.onnx")
    flags = [
        "--force-rules",
        "merge_clips",
        "--only",
        "merge_clips",
        "--threads",
        1,
        "--providers",
        "cpu",
        "--no-cache",
    ]
    report = json.loads(onnxtune(installed, "optimize", "model.onnx", *flags, "--json", "-", cwd=tmp_path))
    kept = [o for o in report["outcomes"] if o["kind"] == "kept"]
    assert [o["rewrite"]["rule"] for o in kept] == ["merge_clips"]
    after = onnx.load(tmp_path / "model.tuned.onnx")
    assert [n.op_type for n in after.graph.node] == ["Clip"]


def test_its_own_tests_pass(installed: Path) -> None:
    path = os.pathsep.join([str(installed), str(ROOT), os.environ.get("PYTHONPATH", "")])
    flags = ["-q", "-p", "no:cacheprovider", "--rootdir", PLUGIN, "-c", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, PLUGIN / "tests"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "6 passed" in done.stdout


def test_the_documentation_shows_these_files() -> None:
    """docs/own-rules.md quotes the package: what it shows is what is tested."""
    page = (ROOT / "docs" / "own-rules.md").read_text(encoding="utf-8")
    package = PLUGIN / "onnxtune_plugin_clips"
    for file in (package / "merge_clips.toml", package / "merge_clips.py", PLUGIN / "tests" / "test_merge_clips.py"):
        assert file.read_text(encoding="utf-8").strip() in page, file.name
    assert 'merge_clips = "onnxtune_plugin_clips.merge_clips"' in page
