import sys
from pathlib import Path

# The tiny trainings and the export's runtimes serve the tests of what stands on them too.
sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("training", "export")]
