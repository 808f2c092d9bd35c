import sys
from pathlib import Path

# The tiny models of the runner's tests and the runtimes of the writers' tests serve the commands' tests too.
sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("infer", "export")]
