import numpy as np
import pytest
from graphs import Net, quantize_by_hand, small_student
from students import mel_like, s4

from tinyasc_export.drift import drift
from tinyasc_export.errors import GraphError


def test_the_ratio_of_uniform_rounding():
    """One rounding step is noise of a twelfth of its square."""
    net = Net((1, 40, 40, 2))
    net.op("max_pool", ["x"], kernel=(1, 1), stride=(1, 1), padding=(0, 0, 0, 0))
    x = net.features(batch=4)
    graph = quantize_by_hand(net.graph, x)
    step = float(graph.tensors["x"].scale[0])
    expected = 10 * np.log10((x.astype(np.float64) ** 2).mean() / (step**2 / 12))
    rows = drift(net.graph, graph, x, batch_size=3)
    assert {r.tensor for r in rows} == {"x", net.graph.output}
    assert all(abs(r.sqnr_db - expected) < 0.3 and r.cosine > 0.999 for r in rows)


def test_a_damaged_channel_comes_first():
    net = small_student()
    graph = quantize_by_hand(net.graph, net.features())
    rows = drift(net.graph, graph, net.features(batch=2))
    assert [r.sqnr_db for r in rows] == sorted(r.sqnr_db for r in rows)
    assert len(rows) == len(graph.ops) + 1
    last = graph.tensors[graph.ops[-1].inputs[1]]
    last.data = -last.data
    worst = drift(net.graph, graph, net.features(batch=2))[0]
    assert worst.tensor == graph.output and worst.cosine < 0 and worst.kind == "fully_connected"


def test_s4_keeps_its_signal():
    float_graph, graph, _ = s4()
    rows = {r.tensor: r for r in drift(float_graph, graph, mel_like(4, 64, 44, 9))}
    assert rows[graph.input].sqnr_db > 20 and rows[graph.ops[0].output].cosine > 0.99


def test_graphs_of_two_students_are_refused():
    net = small_student()
    graph = quantize_by_hand(net.graph, net.features())
    other = Net((1, 32, 20, 1))
    other.conv("x", 2, (1, 1))
    with pytest.raises(GraphError, match="same student"):
        drift(other.graph, graph, net.features())
    with pytest.raises(GraphError, match="at least one clip"):
        drift(net.graph, graph, net.features()[:0])
