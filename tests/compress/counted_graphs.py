"""Solver tests count the same untrained students again and again: each is captured once for all of them."""

import json

import pytest

from tinyasc.compress import solver

_GRAPHS = {}
_capture = solver.float_graph


def _cached(recipe, width, n_classes):
    key = json.dumps([recipe.model, recipe.front_end.model_dump(), width, n_classes], sort_keys=True)
    if key not in _GRAPHS:
        _GRAPHS[key] = _capture(recipe, width, n_classes)
    return _GRAPHS[key]


@pytest.fixture
def cached_graphs(monkeypatch):
    monkeypatch.setattr(solver, "float_graph", _cached)
