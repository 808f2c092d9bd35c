"""What tests on emulated cores look at."""

import pytest


@pytest.fixture
def runs(monkeypatch):
    """Every run that a simulation from samples on makes."""
    from tinyasc_firmware_sim import stream

    seen, original = [], stream.run
    monkeypatch.setattr(stream, "run", lambda image, **o: seen.append(original(image, **o)) or seen[-1])
    return seen
