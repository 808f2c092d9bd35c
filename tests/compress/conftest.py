import sys
from pathlib import Path

# The tiny trainings serve the tests of what follows them too.
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
