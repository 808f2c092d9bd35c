"""Runs an .onnx file in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyasc.frontend import FrontEnd
from tinyasc.infer.backends.base import check_features, one_line, read_model, without_card, wrong_input
from tinyasc_export.bundle import METADATA_KEY, Bundle
from tinyasc_export.errors import ModelFileError, TinyascError
from tinyasc_export.onnx_check import check_onnx

SEVERITY_FATAL = 4  # errors come as exceptions, too


class OnnxBackend:
    """An .onnx model of input (1, channels, n_mels, frames) float32 and output (1, K) float32.

    Args:
        path_or_bytes: the file, or its content.
        num_threads: threads of the runtime.
        described: labels, front end and card of a file that has none of its own.

    Raises:
        ModelFileError: not an .onnx file, damaged, without a card, or of another input or output.
        TinyascError: onnxruntime is not installed.
    """

    def __init__(
        self, path_or_bytes: Path | str | bytes, num_threads: int = 1, *, described: Bundle | None = None
    ) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise TinyascError(
                ".onnx files need onnxruntime, which the bare install leaves out; "
                "install it with: pip install 'tinyasc[onnx]', or take the .tflite file"
            ) from None
        content, where = read_model(path_or_bytes)
        check_onnx(content, where)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = num_threads
        options.log_severity_level = SEVERITY_FATAL
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            metadata = session.get_modelmeta().custom_metadata_map
        except Exception as error:  # its exceptions share no base class below Exception
            raise ModelFileError(f"{where}: onnxruntime refuses this model: {one_line(error)}") from None
        bundle = Bundle.from_json(metadata[METADATA_KEY], where) if METADATA_KEY in metadata else described
        if bundle is None:
            raise without_card(where)
        self.bundle = bundle
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelFileError(f"{where}: it has {len(inputs)} inputs and {len(outputs)} outputs, expected one each")
        shape, classes = inputs[0].shape, outputs[0].shape  # a free dimension is a name or None
        if inputs[0].type != "tensor(float)" or outputs[0].type != "tensor(float)":
            raise ModelFileError(
                f"{where}: it takes {inputs[0].type} and gives {outputs[0].type}, expected tensor(float)"
            )
        if len(shape) != 4 or shape[0] != 1 or not all(isinstance(size, int) for size in shape):
            wanted = (1, *FrontEnd.from_dict(bundle.front_end, where).shape)
            raise wrong_input(where, tuple(shape), "(1, channels, n_mels, frames)", wanted)
        if len(classes) != 2 or classes[0] != 1 or not isinstance(classes[1], int):
            raise ModelFileError(f"{where}: its output is {tuple(classes)}, expected (1, classes)")
        self._session, self._input, self._output = session, inputs[0].name, outputs[0].name
        self.input_shape = (int(shape[1]), int(shape[2]), int(shape[3]))
        self.taken = {"dtype": np.float32}
        self.n_classes = classes[1]
        self._where = where

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(channels, n_mels, frames) features to (K,) float32 logits."""
        features = check_features(features, self.input_shape)
        try:
            answer = self._session.run([self._output], {self._input: features[None]})[0]
        except Exception as error:  # as above
            raise ModelFileError(f"{self._where}: onnxruntime cannot run this model: {one_line(error)}") from None
        return np.asarray(answer, np.float32)[0]
