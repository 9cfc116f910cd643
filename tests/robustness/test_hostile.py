"""Files made to harm: broken models, paths that lead elsewhere, shapes of terabytes, bombs, code in data.

The long campaign is `python tests/robustness/hostile.py`; a bounded part of it runs here.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from seeds import convolutional

from onnxtune import DataError, ModelError, RuleError, UsageError, optimize
from onnxtune.calibrate.dataset import open_dataset
from onnxtune.cli import main
from onnxtune.model import load, save
from onnxtune.rule import read_card

ROOT = Path(__file__).resolve().parents[2]
CASES = int(os.environ.get("ONNXTUNE_HOSTILE_CASES", "300"))


def test_broken_models() -> None:
    ended, lost, peak = hostile.run(CASES, seed=1)
    assert not lost
    assert sum(ended.values()) == CASES
    assert peak < hostile.LIMIT
    assert ended["exit 0"] > CASES / 20, "some of them are still models"


# --- external data -------------------------------------------------------------------------------------


def outside(folder: Path, **entries: str) -> Path:
    """A model whose first weight lies in a file, with these entries of its own."""
    proto = convolutional()
    tensor = proto.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"offset": "99999999999999"}, "holds 864 bytes"),
        ({"offset": "-4"}, "cannot be read"),
        ({"offset": "four"}, "cannot be read"),
        ({"length": "99999999999999"}, "are promised"),
        ({"length": "4"}, "are promised"),
        ({"length": "-1"}, "are promised"),
        ({"location": "\x00"}, "missing"),
        ({"location": "x" * 5000}, "missing"),
        ({"location": "."}, "missing"),
        ({"location": "model.onnx/x"}, "missing"),
        ({"location": "/etc/passwd"}, "outside the folder"),
        ({"location": "/dev/zero"}, "outside the folder"),
        ({"location": "../../../../etc/passwd"}, "outside the folder"),
        ({"location": "sub/../../x"}, "outside the folder"),
    ],
)
def test_external_data_with_false_entries(tmp_path: Path, entries: dict[str, str], says: str) -> None:
    path = outside(tmp_path, **entries)
    with pytest.raises(ModelError, match=says) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_unknown_entries_are_let_be(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert load(outside(tmp_path, odd="1", basepath="/etc")).external
    assert not recwarn.list


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links(tmp_path: Path) -> None:
    folder, other = tmp_path / "model", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    path = outside(folder)
    data = folder / "weights.bin"
    data.rename(other / "secret.bin")
    data.symlink_to(other / "secret.bin")
    with pytest.raises(ModelError, match="outside the folder"):
        load(path)
    data.unlink()
    data.symlink_to(data)
    with pytest.raises(ModelError, match=r"missing|outside"):
        load(path)
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(ModelError, match="missing"):
        load(path)  # and does not wait for a writer
    data.unlink()
    (folder / "sub").symlink_to(other, target_is_directory=True)
    with pytest.raises(ModelError, match="outside the folder"):
        load(outside(folder, location="sub/secret.bin"))


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_download_cache_of_links(tmp_path: Path) -> None:
    """Both files are links into one folder of blobs, as the caches of model hubs keep them."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    outside(blobs)
    for name, blob in (("model.onnx", "aa11"), ("weights.bin", "bb22")):
        (blobs / name).rename(blobs / blob)
        (snapshot / name).symlink_to(blobs / blob)
    assert load(snapshot / "model.onnx").external


# --- sizes ---------------------------------------------------------------------------------------------

HUGE = 2**40


def model_of(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in weights.items())
    return proto


def false_weight() -> onnx.ModelProto:
    proto = model_of("g (float[N, 4] x) => (float[N, M] y) { y = MatMul (x, w) }")
    proto.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[4, HUGE], raw_data=b"1234"))
    return proto


TERABYTES: dict[str, Callable[[], onnx.ModelProto]] = {
    "an input": lambda: model_of(f"g (float[1, {HUGE}] x) => (float[1, {HUGE}] y) {{ y = Relu (x) }}"),
    "an input of many axes": lambda: model_of(f"g (float[{2**31}, {2**31}, {2**31}] x) => (float[A, B, C] y) {{ y = Relu (x) }}"),
    "a weight that is not there": false_weight,
    "ConstantOfShape": lambda: model_of("g (float[1] x) => (float[N] y) { k = ConstantOfShape (s)  y = Add (k, x) }", s=np.array([HUGE])),
    "Expand": lambda: model_of("g (float[1] x) => (float[N] y) { y = Expand (x, s) }", s=np.array([HUGE])),
    "Tile": lambda: model_of("g (float[4] x) => (float[N] y) { y = Tile (x, s) }", s=np.array([HUGE])),
    "Resize": lambda: model_of(
        'g (float[1, 1, 2, 2] x) => (float[1, 1, A, B] y) { y = Resize <mode = "nearest"> (x, , , s) }',
        s=np.array([1, 1, 2**20, 2**20])),
    "Pad": lambda: model_of("g (float[4] x) => (float[N] y) { y = Pad (x, s) }", s=np.array([0, HUGE])),
    "value_info": lambda: _stated(model_of("g (float[4] x) => (float[4] y) { a = Relu (x)  y = Abs (a) }")),
    "a chain that doubles": lambda: model_of("g (float[4] x) => (float[N] y) {" + " ".join(
        f"t{i} = Concat <axis = 0> ({p}, {p})" for i, p in enumerate(["x", *(f"t{j}" for j in range(39))])) + " y = Relu (t39) }"),
}  # fmt: skip


def _stated(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.value_info.append(helper.make_tensor_value_info("a", 1, [HUGE, HUGE]))
    return proto


@pytest.mark.parametrize("name", TERABYTES)
@pytest.mark.parametrize("command", ["optimize", "bench"])
def test_a_shape_of_terabytes_allocates_nothing(name: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(TERABYTES[name]().SerializeToString())
    code = (
        "import sys, onnxtune.cli as c\n"
        "from pathlib import Path\n"
        "try: c.main(sys.argv[1:])\n"
        "except SystemExit as e: pass\n"
        "peak = [x for x in Path('/proc/self/status').read_text().splitlines() if x.startswith('VmHWM')]\n"
        "print('PEAK', peak[0].split()[1] if peak else 0); sys.exit(e.code if 'e' in dir() else 0)"
    )
    words = [command, str(path), "--providers", "cpu", "--threads", "1"]
    words += ["--time-budget", "0", "--no-cache", "--dry-run"] if command == "optimize" else []
    if name == "value_info" and command == "bench":
        return  # a small model after all, which `bench` would time
    code = code.replace("except SystemExit as e: pass", "except SystemExit as stop: code = stop.code").replace(
        "e.code if 'e' in dir() else 0", "code"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert time.monotonic() - began < 90
    peak = int(done.stdout.rpartition("PEAK")[2]) * 1024
    assert peak < 600e6
    assert done.returncode == (0 if name == "value_info" else 3), done.stderr
    assert not done.returncode or len(done.stderr.strip().splitlines()) == 1


# --- data files ----------------------------------------------------------------------------------------


def opened(path: Path) -> None:
    with open_dataset(str(path), load(convolutional())) as data:
        data.feeds([0])


def bomb(path: Path, shape: tuple[int, ...], written: int) -> Path:
    """A NPZ whose member claims `shape` and holds `written` zeros, which pack to almost nothing."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(written // 2**20):
            member.write(bytes(2**20))
    return path


def test_npz_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not hold what its header says"):
        opened(bomb(tmp_path / "a.npz", (HUGE, 3, 8, 8), 2**20))


def test_npz_that_holds_more_than_it_claims(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.npz", (1, 3, 8, 8), 50 * 2**20)
    assert path.stat().st_size < 2**18
    with pytest.raises(DataError, match="does not hold what its header says"):
        opened(path)


def test_npz_that_does_not_fit_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20}))
    with pytest.raises(DataError, match="too much for the disk"):
        opened(bomb(tmp_path / "a.npz", (2**14, 3, 8, 8), 12 * 2**20))


def labelled(path: Path, labels: Path) -> None:
    with open_dataset(str(path), load(convolutional()), labels=labels):
        pass


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch pwned",))


@pytest.mark.parametrize("kind", ["npy", "npz", "labels"])
def test_pickles_are_not_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("a.npz" if kind == "npz" else "a.npy")
    evil = np.array([Evil()], object)
    with path.open("wb") as stream:
        np.savez(stream, x=evil) if kind == "npz" else np.save(stream, evil)
    good = tmp_path / "good.npy"
    np.save(good, np.zeros((64, 3, 8, 8), np.float32))
    with pytest.raises(DataError, match="pickled"):
        opened(path) if kind != "labels" else labelled(good, path)
    path.with_suffix(".npy").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError):
        opened(path.with_suffix(".npy"))
    assert not (tmp_path / "pwned").exists()


# --- TOML and rules ------------------------------------------------------------------------------------

BOMBS = {
    "nested arrays": "a = " + "[" * 5000 + "]" * 5000,
    "nested tables": "a = " + "{a = " * 5000 + "1" + "}" * 5000,
    "dotted keys": ".".join("a" * 30000) + " = 1",
    "a long number": "a = " + "9" * 10**6,
    "a long key": "k" * 10**6 + " = 1",
    "not UTF-8": None,
    "nul": "a = '\x00'",
}


@pytest.mark.parametrize("name", BOMBS)
def test_toml_bombs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = BOMBS[name]
    path = tmp_path / "bomb.toml"
    path.write_bytes(b"a = '\xff\xfe'" if text is None else text.encode())
    with pytest.raises(RuleError, match=r"bomb\.toml"):
        read_card(path)
    began = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        main(["optimize", str(tmp_path / "model.onnx"), "--config", str(path)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert "internal error" not in said
    assert len(said) < 2000
    assert time.monotonic() - began < 10


def test_a_huge_toml_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    with path.open("wb") as stream:
        stream.truncate(2**33)
    with pytest.raises(RuleError, match="larger than"):
        read_card(path)


CARD = 'name = "{name}"\ncode = "U1"\nsummary = """{text}"""\nwhy = "w"\n[settings]\nexpression = "__import__(\'os\').system(\'touch pwned\')"\n'
ATTACKS = (
    "{{__import__('os').system('touch pwned')}}", "${{touch pwned}}", "$(touch pwned)", "`touch pwned`",
    "%(touch pwned)s", "[link=file:///etc/passwd]x[/link]", "\\u001b]8;;http://x\\u0007",
)  # fmt: skip


@pytest.mark.parametrize("text", ATTACKS)
def test_toml_of_rules_is_never_code(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "mine.toml").write_text(CARD.format(name="mine", text=text.replace("{{", "{").replace("}}", "}")))
    (folder / "mine.py").write_text("raise SystemError('the code of a rule is run')\n")
    with pytest.raises(SystemExit) as stop:
        main(["rules", "list", "--rules", str(folder)])
    out, err = capsys.readouterr()
    assert stop.value.code == (2 if "\\u001b" in text else 0), "listing imports no code of the rule"
    assert "mine" in out + err
    assert "\x1b" not in out + err
    assert not (tmp_path / "pwned").exists()


# --- plug-ins ------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that offers a rule and leaves a trace when it is imported."""
    site = tmp_path / "site"
    (site / "their_rules-1.0.dist-info").mkdir(parents=True)
    (site / "their_rules-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-rules\nVersion: 1.0\n"
    )
    (site / "their_rules-1.0.dist-info" / "entry_points.txt").write_text(
        "[onnxtune.rules]\ntheirs = their_rules:change\n"
    )
    trace = tmp_path / "imported"
    (site / "their_rules.py").write_text(f"open({str(trace)!r}, 'w').close()\ndef change(proto): return proto\n")
    monkeypatch.syspath_prepend(str(site))
    assert any(p.name == "theirs" for p in metadata.entry_points(group="onnxtune.rules"))
    yield trace
    sys.modules.pop("their_rules", None)


def test_plug_ins_are_listed_with_their_package(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rules", "list"])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "theirs" in x]
    assert "[their-rules]" in line


def test_plug_ins_that_are_off_are_not_even_imported(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rules", "list", "--no-plugins"])
    assert "theirs" not in capsys.readouterr().out
    optimize(convolutional(), providers="cpu", threads=1, time_budget=0, plugins=False)
    assert not plugin.exists()
    with pytest.raises(UsageError, match="unknown rule 'theirs'"):
        optimize(convolutional(), only=["theirs"], plugins=False)
    optimize(convolutional(), providers="cpu", threads=1, time_budget=0, only=["theirs"])
    assert plugin.exists()


def test_saving_never_follows_a_link_out_of_the_way(tmp_path: Path) -> None:
    """The output is what `-o` names: a link there is replaced, its target stays."""
    target, link = tmp_path / "precious.txt", tmp_path / "out.onnx"
    target.write_text("precious")
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("this system lets nobody make symbolic links")
    save(load(convolutional()), link)
    assert target.read_text() == "precious"
    assert load(link).proto.graph.node
