"""Which precision of a run is meant where none is named."""

import json

import pytest

from tinyasc.infer.run_folder import main_precision


@pytest.mark.parametrize("precision", ["int8", "int16x8", "fp32"])
def test_what_the_report_says(tmp_path, precision):
    (tmp_path / "report.json").write_text(json.dumps({"precision": precision}), encoding="utf-8")
    assert main_precision(tmp_path) == precision


@pytest.mark.parametrize(
    "report", [None, "", "[]", "{}", '{"precision": []}', '{"precision": {}}', '{"precision": "x"}']
)
def test_int8_where_it_says_none(tmp_path, report):
    if report is not None:
        (tmp_path / "report.json").write_text(report, encoding="utf-8")
    assert main_precision(tmp_path) == "int8"
