import sys
from pathlib import Path

# The benches read TensorFlow Lite Micro's arena; appended, since their modules share names with helpers of the tests.
sys.path.append(str(Path(__file__).parents[1] / "bench"))
