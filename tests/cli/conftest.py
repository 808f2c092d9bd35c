import sys
from pathlib import Path

# Tiny models of the runner's tests, runtimes of the writers' and tones of training's serve the commands' tests too.
sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("infer", "export", "training")]
