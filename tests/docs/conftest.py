"""The runtimes of the export tests and the tiny models of the runner's, here too."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("export", "infer")]
