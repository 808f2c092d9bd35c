"""What is packed, and which way imports run (the design's "Imports run one way")."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "tinyasc": ROOT / "tinyasc",
    "tinyasc_export": ROOT / "export/tinyasc_export",
    "tinyasc_firmware_sim": ROOT / "firmware_sim/tinyasc_firmware_sim",
}
# What each part may import of ours; a part may always import itself. `errors` and `files` are common ground.
EDGE = {"errors", "tinyasc_export"}
COMMON = EDGE | {"files"}
MAY_IMPORT = {
    "tinyasc_export": set(),
    "tinyasc_firmware_sim": {"tinyasc_export"},
    "": {"infer"},  # tinyasc/__init__.py, when `load` is first asked for
    "errors": {"tinyasc_export"},
    "printable": set(),
    "files": {"errors"},
    "audio": EDGE,
    "frontend": EDGE,
    "frontend_torch": EDGE | {"frontend"},
    "frontend_device": EDGE | {"frontend"},
    "infer": COMMON | {"audio", "frontend", "frontend_device"},
    "augment": COMMON | {"audio"},
    "models": COMMON,
    "data": COMMON | {"audio", "frontend"},
    "evaluate": COMMON | {"audio", "frontend", "infer", "data", "models"},
    "training": COMMON | {"audio", "frontend", "frontend_torch", "augment", "models", "data", "evaluate", "infer"},
    "compress": COMMON
    | {"audio", "frontend", "frontend_device"}
    | {"models", "data", "evaluate", "infer", "training", "tinyasc_firmware_sim"},
    "cli": {"*"},
}
HEAVY = {"torch", "lightning", "rich", "matplotlib", "pydantic", "yaml", "safetensors", "onnx", "scipy", "librosa"}
# Of tinyasc/cli.
EDGE_FILES = ("main.py", "infer.py", "listen.py", "show.py", "show_text.py", "answer_text.py", "progress.py")
NUMPY_ONLY = ("audio", "frontend", "frontend_device", "infer", "errors")


def modules():
    """(part, file, module's dotted package) of every source file of ours."""
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            inside = file.relative_to(folder)
            first = inside.parts[0].removesuffix(".py")
            part = package if package != "tinyasc" else ("" if first == "__init__" else first)
            yield part, file, ".".join([package, *inside.parts[:-1]])


def imported(file, package):
    """(dotted name, line) of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base]).rstrip(".")
            # `from tinyasc import augment` names a part, `from tinyasc.audio import read_audio` does not.
            yield from ((f"{base}.{alias.name}" if base == "tinyasc" else base, node.lineno) for alias in node.names)


def part_of(name):
    first, _, rest = name.partition(".")
    if first != "tinyasc":
        return first if first in PACKAGES else None
    part = rest.partition(".")[0]
    return "" if part.startswith("__") else part


def test_every_part_has_its_rule():
    assert {part for part, _, _ in modules()} <= set(MAY_IMPORT)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_run_one_way(part):
    allowed = MAY_IMPORT[part] | {part, ""}
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for ours, file, package in modules()
        if ours == part
        for name, line in imported(file, package)
        if (target := part_of(name)) is not None and target not in allowed and "*" not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rules_have_no_circle():
    done = set()

    def visit(part, above):
        assert part not in above, f"circle: {[*above, part]}"
        for other in MAY_IMPORT[part] - {part} if part not in done else ():
            visit(other, [*above, part])
        done.add(part)

    for part in MAY_IMPORT:
        if part != "cli":
            visit(part, [])


def test_the_edge_half_imports_nothing_heavy():
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for part, file, package in modules()
        if part in NUMPY_ONLY or (package == "tinyasc.cli" and file.name in EDGE_FILES)
        for name, line in imported(file, package)
        if name.partition(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_is_imported_in_capture_and_qat_alone_of_the_export():
    files = {
        file.name
        for part, file, package in modules()
        if part == "tinyasc_export" and any(name.split(".")[0] == "torch" for name, _ in imported(file, package))
    }
    assert files <= {"capture.py", "qat.py"}


def test_the_reader_of_imports_sees_them_all(tmp_path):
    source = (
        "import tinyasc.cli\nfrom tinyasc import data, models\ndef f():\n    from .. import audio\n    import torch.nn"
    )
    (tmp_path / "x.py").write_text(source)
    names = [name for name, _ in imported(tmp_path / "x.py", "tinyasc.infer")]
    assert sorted(names) == ["tinyasc.audio", "tinyasc.cli", "tinyasc.data", "tinyasc.models", "torch.nn"]
    assert [part_of(name) for name in sorted(names)] == ["audio", "cli", "data", "models", None]


def test_the_bare_install_asks_for_nothing_heavy():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bare = {d.split(";")[0].split(">")[0].split("=")[0].strip().replace("-", "_") for d in project["dependencies"]}
    assert not bare & {name.replace("-", "_") for name in HEAVY | {"onnxruntime"}}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow  # pip fetches hatchling
def test_the_wheel_holds_every_module_and_recipe_and_nothing_else(wheel):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    # C sources and templates lie beside the modules that use them.
    files = [
        (p, d, f) for p, d in PACKAGES.items() for f in d.rglob("*") if f.is_file() and "__pycache__" not in f.parts
    ]
    expected = {f"{p}/{f.relative_to(d).as_posix()}" for p, d, f in files}
    expected |= {f"tinyasc/configs/{f.relative_to(ROOT / 'configs').as_posix()}" for f in ROOT.glob("configs/*/*.yaml")}
    expected |= {f.relative_to(ROOT).as_posix() for f in (ROOT / "tinyasc/infer/bundled").iterdir()}
    expected |= {"tinyasc/py.typed", "tinyasc_export/py.typed"}
    c99 = [f for part in ("kernels", "templates") for f in (ROOT / "export/tinyasc_export/c99" / part).iterdir()]
    expected |= {f.relative_to(ROOT / "export").as_posix() for f in c99}
    assert expected <= names
    assert not {n for n in names - expected if not n.startswith("tinyasc/configs/")}


@pytest.mark.slow
def test_recipes_load_from_the_unpacked_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import tinyasc; from tinyasc.training.recipe import load_recipe\n"
    code += "print(tinyasc.__file__); print(load_recipe('teachers/demo').name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    where, name = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path) and name == "demo-teacher"
