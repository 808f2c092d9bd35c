"""tinyasc: acoustic scene classifiers that fit a microcontroller.

    from tinyasc import load

    model = load("model-int8.tflite")
    prediction = model(samples, rate)

What runs a model is imported when it is first asked for, so that `import tinyasc` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyasc.infer.runner import Model, Prediction, load

__all__ = ["Model", "Prediction", "__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in ("Model", "Prediction", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tinyasc.infer import runner

    return getattr(runner, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
