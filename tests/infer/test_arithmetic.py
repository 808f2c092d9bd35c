"""A board's features on this machine: what they are, that they go through a model unchanged, what is refused."""

import dataclasses

import numpy as np
import pytest
import tiny_models as tiny

from tinyasc.errors import InputError
from tinyasc.frontend_device import BOARD_ARITHMETICS, board_features, int16_samples, plan_for
from tinyasc.infer.backends.base import ARITHMETICS
from tinyasc.infer.backends.litert_backend import quantize
from tinyasc.infer.runner import load
from tinyasc_export.graphfile import save_graph
from tinyasc_export.onnx import to_onnx
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8


def graph_of(dtype: str, front_end=tiny.FRONT_END):
    graph = tiny.graph(front_end=front_end)
    clips = np.random.default_rng(0).uniform(-1, 1, (4, *graph.tensors["features"].shape[1:])).astype(np.float32)
    return {"int8": quantize_int8, "int16": quantize_int16x8}[dtype](graph, calibrate(graph, clips))


def saved(folder, graph, front_end=tiny.FRONT_END):
    (folder / "g.npz").write_bytes(save_graph(graph, tiny.bundle(front_end=front_end)))
    return folder / "g.npz"


def test_the_names_are_those_of_boards():
    assert ("reference", *BOARD_ARITHMETICS) == ARITHMETICS


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("arithmetic", BOARD_ARITHMETICS)
def test_the_model_takes_the_integers_of_the_board(tmp_path, dtype, arithmetic):
    graph = graph_of(dtype)
    model = load(saved(tmp_path, graph), arithmetic=arithmetic)
    plan = plan_for(tiny.FRONT_END, graph)
    for label in tiny.LABELS:
        samples = tiny.tone(label)
        mel = model.features(samples)
        assert mel.shape == tiny.FRONT_END.shape and mel.dtype == np.float32
        got = quantize(mel, model.backend.taken)[0]
        expected = board_features(int16_samples(samples), plan, arithmetic)
        assert np.array_equal(got, expected) and got.dtype == dtype and len(np.unique(got)) > 10


def test_other_runtimes_hear_the_same_integers(tmp_path):
    """LiteRT's reference kernels on a graph of one linear layer give the reference's logits."""
    (tmp_path / "m.tflite").write_bytes(tiny.tflite_int8())
    ours = load(saved(tmp_path, tiny.int8_graph()), arithmetic="device")
    theirs = load(tmp_path / "m.tflite", exact=True, arithmetic="device")
    for label in tiny.LABELS:
        p, q = (model.predict(tiny.tone(label)).probabilities for model in (ours, theirs))
        assert np.array_equal(p, q)


def test_arithmetics_differ_and_the_default_is_the_record_s(tmp_path):
    path, samples = saved(tmp_path, graph_of("int16")), tiny.tone("middle")
    maps = [load(path, arithmetic=name).features(samples) for name in ARITHMETICS]
    assert np.array_equal(load(path).features(samples), maps[0])
    assert not np.array_equal(maps[1], maps[2])
    for mel in maps[1:]:
        inside = np.abs(maps[0]) < 0.9  # of the range that integers hold
        assert 0 < np.abs(mel - maps[0])[inside].max() < 0.1


def test_sound_beyond_full_scale_saturates(tmp_path):
    model = load(saved(tmp_path, graph_of("int8")), arithmetic="device")
    loud = 3 * tiny.tone("low")
    assert np.array_equal(model.features(loud), model.features(np.clip(loud, -1, 32767 / 32768)))


def test_what_cannot_be_is_one_line(tmp_path):
    (tmp_path / "m.onnx").write_bytes(to_onnx(tiny.graph(), tiny.bundle()))
    for path in (saved(tmp_path, tiny.graph()), tmp_path / "m.onnx"):
        with pytest.raises(InputError, match="device arithmetic gives integers, and this model takes float32"):
            load(path, arithmetic="device")
    with pytest.raises(InputError, match="'fast' is not there; take one of reference, device, fixed"):
        load(saved(tmp_path, tiny.graph()), arithmetic="fast")
    for change, says in (({"center": True}, "center=true"), ({"log": False}, "needs log=true")):
        front_end = dataclasses.replace(tiny.FRONT_END, **change)
        with pytest.raises(InputError, match=f"{says}.*or take the reference arithmetic") as caught:
            load(saved(tmp_path, graph_of("int8", front_end), front_end), arithmetic="fixed")
        assert "--front-end" not in str(caught.value)
