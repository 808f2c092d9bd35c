"""How far an int8 .tflite file's logits lie apart in LiteRT's kernels and in TensorFlow Lite Micro, on real clips.

    python tests/bench/runtimes.py MODEL CLIP...

Prints, for each set of LiteRT kernels: the largest difference from the tflite-micro wheel in units of the output's last
place, the share of logits that differ, and milliseconds per clip.
"""

import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_micro import runtime

from tinyasc.audio import read_audio
from tinyasc.frontend import features, fit_length
from tinyasc.infer.backends.litert_backend import quantize
from tinyasc.infer.runner import load

KERNELS = {"default (XNNPACK)": OpResolverType.AUTO, "reference (--exact)": OpResolverType.BUILTIN_REF}
ARENA_BYTES = 1 << 24


def main(path: str, clips: list[str]) -> None:
    front_end, content = load(path).front_end, Path(path).read_bytes()
    micro = runtime.Interpreter.from_bytes(content, arena_size=ARENA_BYTES)
    for name, kernels in KERNELS.items():
        interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
        (given,), (got,) = interpreter.get_input_details(), interpreter.get_output_details()
        differences, seconds = [], []
        for clip in clips:
            samples = fit_length(
                read_audio(clip, front_end.sample_rate, stereo=front_end.stereo), front_end.clip_samples
            )
            x = np.ascontiguousarray(quantize(features(samples, front_end), given).transpose(1, 2, 0))[None]
            start = time.perf_counter()
            interpreter.set_tensor(given["index"], x)
            interpreter.invoke()
            answer = interpreter.get_tensor(got["index"]).astype(int)
            seconds.append(time.perf_counter() - start)
            micro.set_input(x, 0)
            micro.invoke()
            differences.append(np.abs(answer - micro.get_output(0).astype(int)))
        apart = np.concatenate(differences)
        print(
            f"{name}: {len(clips)} clips, largest difference {apart.max()}, {100 * (apart > 0).mean():.2f} % of logits "
            f"differ, {1000 * np.median(seconds):.1f} ms per clip (median)"
        )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
