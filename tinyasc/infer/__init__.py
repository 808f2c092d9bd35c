"""Running a model file on sound: numpy, soundfile and one runtime, nothing heavier."""
