"""One clip's answer as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyasc.infer.runner import Prediction


def as_record(path: Path, prediction: Prediction, model_path: str | Path) -> dict[str, Any]:
    """One clip's answer as JSON values, as `tinyasc infer --json` and its .jsonl files say it."""
    return {
        "path": str(path),
        "model": str(model_path),
        "label": prediction.top(1)[0][0],
        "probabilities": dict(zip(prediction.labels, prediction.probabilities.tolist(), strict=True)),
        "tta": prediction.copies,
        "windows": prediction.windows,
    }
