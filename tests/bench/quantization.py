"""Quantisation after training beside quantisation-aware training, on ESC-10: 5 folds, several seeds, int8 and int16x8.

    python tests/bench/quantization.py train ROOT      # float32 students, one run folder for each fold and seed
    python tests/bench/quantization.py quantize ROOT   # both ways, both precisions; answers on the test fold
    python tests/bench/quantization.py table           # the table of docs/benchmarks.md

ROOT is ESC-50's folder. Everything lies under --runs (runs/quantization); killed and run again, each step goes on.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
from pathlib import Path

import click
import numpy as np
import onnxruntime
from tflite_micro import runtime

from tinyasc.compress.deploy import Deployed, deploy, graph_features
from tinyasc.compress.qat import quantization_aware
from tinyasc.data.cache import load_features
from tinyasc.evaluate import metrics
from tinyasc.files import write_atomic
from tinyasc.frontend import normalize
from tinyasc.infer.runner import softmax
from tinyasc.training.features import Prepared, cache_folder, class_indices, prepare
from tinyasc.training.fit import fit
from tinyasc.training.recipe import Recipe, load_recipe
from tinyasc.training.recipe_parts import Qat
from tinyasc.training.run import Run
from tinyasc_export import reference
from tinyasc_export.drift import quantize_input
from tinyasc_export.graph import Graph
from tinyasc_export.onnx import to_onnx
from tinyasc_export.quantize import INT16_HEADROOM, quantize_int16x8
from tinyasc_export.tflite import to_tflite

FOLDS = (1, 2, 3, 4, 5)
PRECISIONS = ("int8", "int16x8")
CALIBRATION = "mse"
SETTINGS = "settings"
ARENA_BYTES = 1 << 24


def recipe(root: str, fold: int, seed: int) -> Recipe:
    """The seed student at half its width, 78 frames, without a teacher; ReLU in its attention, which int16x8 needs."""
    return load_recipe(
        "students/sepconv_ca",
        [
            f"data={{name: esc10, root: {root}, test_fold: {fold}}}",
            "front_end={sample_rate: 32000, clip_seconds: 5.0, n_fft: 2048, hop_length: 2048, n_mels: 64}",
            "model={family: sepconv_ca, base_channels: 32, attention_activation: relu}",
            "distill=null",
            "augment.time_mask=10",
            "training.epochs=80",
            "training.lr=2e-3",
            f"training.seed={seed}",
        ],
    )


def prepared(wanted: Recipe) -> Prepared:
    """Training and validation features."""
    assert wanted.data is not None and wanted.front_end is not None
    return prepare(wanted.data, wanted.front_end.record())


@click.group()
def main() -> None:
    """Quantisation after and in training."""


seeds_option = click.option("--seeds", default=3)
runs_option = click.option("--runs", default="runs/quantization", type=Path)


@main.command()
@click.argument("root")
@seeds_option
@runs_option
def train(root: str, seeds: int, runs: Path) -> None:
    """Trains the float32 students."""
    for seed in range(seeds):
        for fold in FOLDS:
            wanted = recipe(root, fold, seed)
            run = Run(runs / f"fold{fold}-seed{seed}")
            data = prepared(wanted)
            with run.locked():
                trained = fit(wanted, run, data)
            print(f"{run.path}: validation {trained.validation}", flush=True)


@main.command()
@click.argument("root")
@seeds_option
@runs_option
def quantize(root: str, seeds: int, runs: Path) -> None:
    """Quantises both ways and keeps every answer on the test fold."""
    for seed in range(seeds):
        for fold in FOLDS:
            run = Run(runs / f"fold{fold}-seed{seed}")
            if _kept_settings(run) != _settings():
                _quantize(recipe(root, fold, seed), run)
            print(f"{run.path / 'answers.npz'}", flush=True)


def _settings() -> str:
    """What answers depend on beside the trained student; those of other settings are made anew."""
    return json.dumps(
        {
            "tinyasc": importlib.metadata.version("tinyasc"),
            "int16_headroom": INT16_HEADROOM,
            "calibration": CALIBRATION,
            "qat": [_qat(precision).model_dump() for precision in PRECISIONS],
        }
    )


def _kept_settings(run: Run) -> str | None:
    """The settings of the answers that are there; None where there are none, or of a version that kept no settings."""
    file = run.path / "answers.npz"
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as kept:
        return str(kept[SETTINGS]) if SETTINGS in kept.files else None


def _qat(precision: str) -> Qat:
    return Qat.model_validate({"precision": precision})


def _quantize(wanted: Recipe, run: Run) -> None:
    data, trained = prepared(wanted), run.load()
    deployed = deploy(trained, data.train.features, CALIBRATION)
    x = _test_features(data, deployed)
    kept = {
        SETTINGS: np.array(_settings()),
        "labels": class_indices(data.split.test, data.labels),
        "float32": np.concatenate([reference.run(deployed.float_graph, x[i : i + 8]) for i in range(0, len(x), 8)]),
    }
    after = {"int8": deployed.int8_graph, "int16x8": quantize_int16x8(deployed.float_graph, deployed.ranges)}
    for precision in PRECISIONS:
        settings = _qat(precision)
        graphs = {"after": after[precision], "aware": quantization_aware(deployed, trained, settings, run, data)}
        for how, graph in graphs.items():
            answers, scale, zero_point = _reference(graph, x)
            kept[f"{precision}-{how}"] = (answers - zero_point) * scale
            kept[f"{precision}-{how}-wheel"] = answers - _wheel(graph, x)
            if precision == "int8":
                # ONNX rounds once, as the reference's `single` rounding does.
                steps = np.rint(_onnx(graph, x) / scale + zero_point).astype(int)
                kept[f"{precision}-{how}-onnx"] = _reference(graph, x, "single")[0] - steps
    buffer = io.BytesIO()
    np.savez(buffer, **kept)
    write_atomic(run.path / "answers.npz", buffer.getvalue())


def _test_features(data: Prepared, deployed: Deployed) -> np.ndarray:
    mel = load_features(data.split.test, data.front_end, cache_folder())
    return np.moveaxis(graph_features(normalize(mel, data.front_end), deployed.scale, deployed.offset), 1, -1)


def _reference(graph: Graph, x: np.ndarray, rounding: str = "tflite") -> tuple[np.ndarray, float, int]:
    """Logits of the numpy reference as integers, their scale and zero point."""
    out = graph.tensors[graph.output]
    assert out.scale is not None and out.zero_point is not None
    batches = [quantize_input(graph, x[i : i + 8]) for i in range(0, len(x), 8)]
    integers = np.concatenate([reference.run(graph, batch, rounding) for batch in batches])
    return integers.astype(int), float(out.scale[0]), int(out.zero_point[0])


def _wheel(graph: Graph, x: np.ndarray) -> np.ndarray:
    """Logits of the written file in TensorFlow Lite Micro's interpreter, as integers."""
    micro = runtime.Interpreter.from_bytes(to_tflite(graph), arena_size=ARENA_BYTES)
    out = []
    for clip in quantize_input(graph, x):
        micro.set_input(clip[None], 0)
        micro.invoke()
        out.append(np.array(micro.get_output(0)[0]))
    return np.stack(out).astype(int)


def _onnx(graph: Graph, x: np.ndarray) -> np.ndarray:
    """Logits of the ONNX file with graph optimisations off."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(to_onnx(graph), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"features": clip[None].transpose(0, 3, 1, 2)})[0] for clip in x])


@main.command()
@seeds_option
@runs_option
def table(seeds: int, runs: Path) -> None:
    """Out-of-fold figures: each seed's over all clips of the five test folds, then mean and deviation over seeds."""
    answers = [_out_of_fold(runs, seed) for seed in range(seeds)]
    clips = len(answers[0]["labels"])
    print(f"{clips} clips out of fold, {seeds} seeds, mean +- standard deviation over seeds")
    float_scores = [metrics.evaluate(softmax(a["float32"]), a["labels"]) for a in answers]
    print("float32", *(_spread([100 * s["accuracy"] for s in float_scores], 2), "%,"), "log loss", end=" ")
    print(_spread([s["log_loss"] for s in float_scores], 4))
    print("| precision | quantised | accuracy, % | log loss | top-1 as float32, % | change of log loss | SQNR, dB |")
    for precision in PRECISIONS:
        for how in ("after", "aware"):
            rows = [_figures(a, f"{precision}-{how}") for a in answers]
            cells = [_spread(list(c), n) for c, n in zip(zip(*rows, strict=True), (2, 4, 2, 4, 1), strict=True)]
            print(f"| {precision} | {how} | {' | '.join(cells)} |")
    for name in answers[0]:
        if name.endswith(("-wheel", "-onnx")):
            steps = np.abs(np.concatenate([a[name] for a in answers]))
            print(f"{name}: largest difference {steps.max()}, within 1 {100 * (steps <= 1).mean():.2f} % of logits")


def _out_of_fold(runs: Path, seed: int) -> dict[str, np.ndarray]:
    folds = [np.load(runs / f"fold{fold}-seed{seed}" / "answers.npz", allow_pickle=False) for fold in FOLDS]
    return {name: np.concatenate([fold[name] for fold in folds]) for name in folds[0].files if name != SETTINGS}


def _figures(answers: dict[str, np.ndarray], name: str) -> tuple[float, ...]:
    exact, rounded, labels = answers["float32"].astype(float), answers[name], answers["labels"]
    scores = metrics.evaluate(softmax(rounded), labels)
    change = scores["log_loss"] - metrics.evaluate(softmax(exact), labels)["log_loss"]
    agree = (exact.argmax(axis=1) == rounded.argmax(axis=1)).mean()
    sqnr = 10 * np.log10((exact**2).sum() / ((rounded - exact) ** 2).sum())
    return 100 * scores["accuracy"], scores["log_loss"], 100 * agree, change, sqnr


def _spread(values: list[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} +- {np.std(values, ddof=1) if len(values) > 1 else 0:.{digits}f}"


if __name__ == "__main__":
    main()
