"""The deployed graph of tinyasc, what travels with it, and its writers.

`graph`, `reference`, `limits`, `count`, `bundle`, `lower`, `quantize`, `c99`, `onnx` and `tflite` need numpy alone (and
the writers their file format); torch is imported in `capture` and `qat` only. `api` gathers what a script needs.
"""

__version__ = "0.1.0"
