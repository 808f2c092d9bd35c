import sys
from pathlib import Path

# The tiny models of the runner's tests serve the command's tests too.
sys.path.insert(0, str(Path(__file__).parents[1] / "infer"))
