"""Every backend answers alike, within the bounds that docs/how-to/name-clips.md states, with test-time copies too.

The short test takes tones and a model of one layer; the slow one 200 recorded clips and a small net that is trained on
160 others for a minute. Which class is right does not matter here, only that answers lie as far apart as a trained
net's do.
"""

import copy

import c_folders
import numpy as np
import pytest
import tiny_models as tiny

from tinyasc.audio import read_audio
from tinyasc.errors import TinyascError
from tinyasc.frontend import FrontEnd, features, fit_length
from tinyasc.infer.backends.base import ARITHMETICS
from tinyasc.infer.c_library import find_compiler
from tinyasc.infer.quiet import quiet_stderr
from tinyasc.infer.runner import load
from tinyasc_export.bundle import Bundle
from tinyasc_export.graph import Graph
from tinyasc_export.graphfile import save_graph
from tinyasc_export.onnx import to_onnx
from tinyasc_export.tflite import to_tflite

# The stated bounds: on logits of one run (int8: in units of their last place), and on probabilities.
FLOAT_LOGITS, FLOAT_PROBABILITIES = 1e-4, 1e-5
UNITS = {"quick": 4, "exact": 1}
INT8_PROBABILITIES = {"quick": 0.1, "exact": 0.02}
# C has the reference's bits under every arithmetic.
C_BOUND = 0

COPIES = ("3", "3:shift+mean-mask,gain+zero-mask")


def write_run(folder, graph: Graph, int8: Graph, bundle: Bundle) -> None:
    """Files as `tinyasc compress` leaves them."""
    for precision, g in (("fp32", graph), ("int8", int8)):
        own = Bundle(bundle.labels, bundle.front_end, {"precision": precision})
        (folder / f"graph-{precision}.npz").write_bytes(save_graph(g, own))
        (folder / f"model-{precision}.tflite").write_bytes(to_tflite(g, own))
        if precision == "fp32":
            (folder / "model-fp32.onnx").write_bytes(to_onnx(g, own))


def hold_together(folder, int8: Graph, clips) -> dict[str, float]:
    """Asserts the bounds on every clip, plain and with copies of either kind by turns; the largest differences seen."""
    with quiet_stderr():
        floats = {
            "LiteRT": load(folder / "model-fp32.tflite"),
            "onnxruntime": load(folder / "model-fp32.onnx"),
            "reference": load(folder / "graph-fp32.npz"),
        }
        integers = {
            "quick": load(folder / "model-int8.tflite"),
            "exact": load(folder / "model-int8.tflite", exact=True),
            "reference": load(folder / "model-int8.tflite", backend="reference"),
        }
    scale = int8.tensors[int8.output].scale
    assert scale is not None
    seen: dict[str, float] = {}

    def note(what: str, a: np.ndarray, b: np.ndarray, bound: float) -> None:
        far = float(np.abs(np.subtract(a, b, dtype=np.float64)).max())
        seen[what] = max(seen.get(what, 0.0), far)
        assert far <= bound, (what, far)

    front_end = floats["reference"].front_end
    for i, samples in enumerate(clips):
        mel = features(fit_length(samples, front_end.clip_samples), front_end)
        for name in ("LiteRT", "onnxruntime"):
            note(f"{name} logits", floats[name].logits(mel, ""), floats["reference"].logits(mel, ""), FLOAT_LOGITS)
        for name, units in UNITS.items():
            steps = [integers[n].logits(mel, "") / scale.flat[0] for n in (name, "reference")]
            note(f"{name} int8 units", *steps, bound=units + 0.001)
        for tta in (None, COPIES[i % len(COPIES)]):
            copies = "plain" if tta is None else "copies"
            p = {name: model.predict(samples, tta=tta, seed=1).probabilities for name, model in floats.items()}
            for name in ("LiteRT", "onnxruntime"):
                note(f"{name} {copies}", p[name], p["reference"], FLOAT_PROBABILITIES)
            q = {name: model.predict(samples, tta=tta, seed=1) for name, model in integers.items()}
            for name, bound in INT8_PROBABILITIES.items():
                a, b = q[name], q["reference"]
                note(f"{name} int8 {copies}", a.probabilities, b.probabilities, bound)
                second, first = np.sort(b.probabilities)[-2:]
                assert first - second <= 2 * bound or a.top()[0][0] == b.top()[0][0]
    return seen


def hold_c_to_the_reference(folder, int8: Graph, bundle: Bundle, clips, monkeypatch) -> dict[str, float]:
    """Asserts C's bound on every clip under every arithmetic; the largest differences that arithmetics make."""
    try:
        find_compiler()
    except TinyascError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TINYASC_CACHE", str(folder / "cache"))
    in_c = c_folders.write(folder / "scenes", int8, bundle)
    models = {
        arithmetic: [
            load(path, backend=backend, arithmetic=arithmetic)
            for path, backend in ((in_c, "c"), (folder / "model-int8.tflite", "reference"))
        ]
        for arithmetic in ARITHMETICS
    }
    seen: dict[str, float] = {}
    for i, samples in enumerate(clips):
        answers = {}
        for arithmetic, (ours, theirs) in models.items():
            for tta in (None, COPIES[i % len(COPIES)]):
                p, q = (model.predict(samples, tta=tta, seed=1).probabilities for model in (ours, theirs))
                assert np.abs(p - q).max() <= C_BOUND, (arithmetic, tta)
                answers.setdefault(arithmetic, p)
        for arithmetic, p in answers.items():
            far = float(np.abs(p - answers[ARITHMETICS[0]]).max())
            seen[arithmetic] = max(seen.get(arithmetic, 0.0), far)
    return seen


def test_backends_agree_on_tones(tmp_path, monkeypatch):
    write_run(tmp_path, tiny.graph(), tiny.int8_graph(), tiny.bundle())
    random = np.random.default_rng(0)
    mixed = [(random.dirichlet(np.ones(3)) @ [tiny.tone(x) for x in tiny.LABELS]).astype(np.float32) for _ in range(9)]
    clips = [tiny.tone("low", n) for n in (1, 700, 4096, 15000)] + mixed
    hold_together(tmp_path, tiny.int8_graph(), clips)
    hold_c_to_the_reference(tmp_path, tiny.int8_graph(), tiny.bundle(), clips, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_backends_agree_on_two_hundred_recorded_clips(esc10_root, tmp_path, monkeypatch):
    from tinyasc.data import load_table

    table = load_table("esc10", esc10_root)
    record = FrontEnd(hop_length=2048)
    heard = [clip for clip in table.clips if clip.fold in (1, 2)]
    asked = [clip for clip in table.clips if clip.fold in (3, 4, 5)][:200]
    assert (len(heard), len(asked)) == (160, 200)
    graph, int8, front_end = small_student(
        np.stack([log_mels(read_audio(clip.path, record.sample_rate), record) for clip in heard]),
        np.array([table.labels.index(clip.scene) for clip in heard]),
        record,
    )
    write_run(tmp_path, graph, int8, Bundle(tuple(table.labels), front_end.to_dict()))
    seen = hold_together(tmp_path, int8, (read_audio(clip.path, record.sample_rate) for clip in asked))
    right = load(tmp_path / "graph-fp32.npz")
    hits = [right.predict(read_audio(c.path, record.sample_rate)).top()[0][0] == c.scene for c in asked[::5]]
    print(f"{100 * np.mean(hits):.0f} % right; largest differences: {seen}")
    bundle = Bundle(tuple(table.labels), front_end.to_dict())
    sounds = (read_audio(clip.path, record.sample_rate) for clip in asked)
    seen = hold_c_to_the_reference(tmp_path, int8, bundle, sounds, monkeypatch)
    print(f"C equals the reference; largest differences that arithmetics make: {seen}")
    assert np.mean(hits) > 0.3, "the net learnt nothing, so its answers lie too close together to test anything"


def log_mels(samples: np.ndarray, record: FrontEnd) -> np.ndarray:
    return features(fit_length(samples, record.clip_samples), record)


def small_student(x: np.ndarray, y: np.ndarray, record: FrontEnd) -> tuple[Graph, Graph, FrontEnd]:
    """The students' net at 8 channels after 15 epochs, its graphs, and the front end that feeds them.

    Args:
        x: (clips, 1, bands, frames) log-mel power in dB.
        y: (clips,) numbers of their classes.
        record: that made them.
    """
    import torch

    from tinyasc.models import build
    from tinyasc_export.api import activation_ranges, capture, cast, lower, quantize_int8

    mean, spread = x.mean(axis=(0, 3)), x.std(axis=(0, 3))
    record = record.with_normalization(1 / spread, -mean / spread)
    x = ((x - mean[..., None]) / spread[..., None]).astype(np.float32)
    torch.manual_seed(0)
    net = build("pooled_cnn", n_classes=10, n_mels=record.n_mels, base_channels=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(15):
        for part in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x)[part]), torch.from_numpy(y)[part])
            loss.backward()
            optimizer.step()
    exact, scale, offset = lower(capture(copy.deepcopy(net.eval()).double(), (1, *record.shape)))
    graph = cast(exact, "float32")
    taken = np.moveaxis(x * scale[:, None] + offset[:, None], 1, -1).astype(np.float32)
    return graph, quantize_int8(graph, activation_ranges("mse", graph, taken)), record.with_normalization(scale, offset)
