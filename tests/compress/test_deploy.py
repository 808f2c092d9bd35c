"""What one compression leaves of an earlier one in the same folder."""

from __future__ import annotations

from dataclasses import replace

from tiny_training import DATA, recipe

from tinyasc.compress.deploy import OVER_BUDGET, deploy, publish, write_files, write_graphs
from tinyasc.compress.limits import parse_limits
from tinyasc.training.fit import fit, logits
from tinyasc.training.run import Run
from tinyasc_export.quantize import quantize_int16x8

ALWAYS = {"model-fp32.tflite", "model-fp32.onnx"}


def test_files_of_other_settings_go(tmp_path):
    trained = fit(recipe(model={"attention_activation": "relu"}, training={"epochs": 1}), Run(tmp_path / "run"), DATA)
    deployed = deploy(trained, DATA.train.features)
    wide = replace(deployed, int16x8_graph=quantize_int16x8(deployed.float_graph, deployed.ranges))
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "model-int8.onnx").write_text("of an export")

    def left(deployed, budget="1MB", main="int8", float16=False):
        write_graphs(deployed, trained, {}, folder)
        new, expected, limits = tmp_path / "new", logits(trained, DATA.validation.features), parse_limits(budget=budget)
        files = write_files(
            deployed, trained, DATA.validation, {}, new, limits, main, expected=expected, float16=float16
        )
        publish(files, folder)
        assert not new.exists()
        assert (folder / "graph-int16x8.npz").is_file() is (deployed.int16x8_graph is not None)
        return {p.name for p in folder.glob("model-*")} - {"model-int8.onnx"}

    assert left(wide) == ALWAYS | {"model-int8.tflite", "model-int16x8.tflite"}
    assert left(deployed, float16=True) == ALWAYS | {"model-int8.tflite", "model-fp16.tflite"}
    assert left(deployed) == ALWAYS | {"model-int8.tflite"}
    assert left(deployed, "1") == ALWAYS | {OVER_BUDGET.format("int8")}
    assert left(wide, "1", "int16x8") == ALWAYS | {OVER_BUDGET.format("int16x8")}
    assert left(wide, "1MB", "int16x8") == ALWAYS | {"model-int16x8.tflite"}
    assert left(wide) == ALWAYS | {"model-int8.tflite", "model-int16x8.tflite"}
    assert (folder / "model-int8.onnx").is_file()
