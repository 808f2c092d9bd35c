"""`from tinyasc import load`: light to import, typed, without global state, for any number of threads."""

import inspect
import subprocess
import sys
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "infer"))
import tiny_models as tiny

import tinyasc
from tinyasc import Model, Prediction, load

FILES = {"m.tflite": tiny.tflite, "int8.tflite": tiny.tflite_int8, "m.onnx": tiny.onnx}


def test_import_alone_loads_nothing_of_the_runner():
    code = (
        "import sys, tinyasc\n"
        "print([m for m in ('numpy', 'soundfile', 'click', 'tinyasc.infer', 'tinyasc_export') if m in sys.modules])\n"
        "print(sorted({'load', 'Model', 'Prediction', '__version__'} - set(dir(tinyasc))))\n"
        "from tinyasc import load\nprint('tinyasc.infer.runner' in sys.modules, 'click' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "[]", "True False"], done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        tinyasc.laod  # noqa: B018
    with pytest.raises(ImportError):
        from tinyasc import laod  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]


def test_a_call_is_predict_by_a_shorter_name():
    plain = dict(inspect.signature(Model.predict).parameters)
    assert dict(inspect.signature(Model.__call__).parameters) == plain
    assert typing.get_type_hints(Model.__call__)["return"] is Prediction
    assert typing.get_type_hints(load)["return"] is Model


@pytest.mark.parametrize("name", FILES)
def test_a_call_answers_as_predict_does(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name]())
    model = load(tmp_path / name)
    samples = tiny.tone("middle", 3 * 4096, 2 * tiny.RATE)
    options = {"tta": 3, "seed": 5}
    called = model(samples, 2 * tiny.RATE, **options)
    np.testing.assert_array_equal(called.probabilities, model.predict(samples, 2 * tiny.RATE, **options).probabilities)
    assert isinstance(called, Prediction) and called.copies == 3 and called.top(1)[0][0] == "middle"


@pytest.mark.parametrize("name", FILES)
def test_threads_that_share_a_model_get_the_answers_of_one(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name]())
    model = load(tmp_path / name)
    random = np.random.default_rng(0)
    clips = [tiny.tone(tiny.LABELS[i % 3]) * random.uniform(0.1, 1) for i in range(60)]
    alone = [model(clip, tta=2, seed=i).probabilities for i, clip in enumerate(clips)]
    assert len({p.tobytes() for p in alone}) > 20, "clips that answer alike would prove nothing"
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            found = list(threads.map(lambda i: model(clips[i], tta=2, seed=i).probabilities, range(60)))
            np.testing.assert_array_equal(found, alone)


def test_models_keep_apart(tmp_path):
    """Two models in one process answer as each alone: nothing is kept outside them."""
    (tmp_path / "a.tflite").write_bytes(tiny.tflite())
    (tmp_path / "b.tflite").write_bytes(tiny.tflite(temperature=0.25))
    clip = tiny.tone("low")
    first = load(tmp_path / "a.tflite")
    before = first(clip).probabilities
    second = load(tmp_path / "b.tflite")(clip).probabilities
    np.testing.assert_array_equal(first(clip).probabilities, before)
    assert abs(before - second).max() > 0.01


def test_the_types_travel_with_the_packages():
    import tinyasc_export

    for package in (tinyasc, tinyasc_export):
        assert package.__file__ is not None and (Path(package.__file__).parent / "py.typed").is_file()
