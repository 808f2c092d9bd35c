import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc import augment
from tinyasc.augment import draws

BOTH = [(augment.mask_time, 3), (augment.mask_frequency, 2)]


@pytest.mark.parametrize(("transform", "axis"), BOTH)
@pytest.mark.parametrize("width", [0, 1, 5, 1000])
def test_masks_zero_one_stripe_and_nothing_else(maps, seeded, transform, axis, width):
    y = transform(maps, seeded(), width=width)
    size = maps.shape[axis]
    widths, starts = [], []
    for before, after in zip(maps, y, strict=True):
        zero = after == 0
        assert torch.equal(after[~zero], before[~zero])
        along = zero.any(dim=0).any(dim=1 if axis == 2 else 0)
        everywhere = zero.all(dim=0).all(dim=1 if axis == 2 else 0)
        assert torch.equal(along, everywhere), "the stripe spans the other axis and the channels"
        where = along.nonzero().flatten()
        widths.append(len(where))
        if len(where):
            starts.append(int(where[0]))
            assert int(where[-1]) - int(where[0]) + 1 == len(where), "one stripe"
    assert max(widths) == min(width, size) if width < 10 else max(widths) <= size
    if width:
        assert min(widths) == 0 or width > size  # U{0..width}
        assert len(set(starts)) > 3


def test_masks_reach_both_edges(seeded):
    y = augment.mask_time(torch.ones(500, 1, 4, 8), seeded(), width=2)
    masked = (y[:, 0, 0] == 0).float().mean(dim=0)
    assert (masked > 0).all()


def test_more_stripes_mask_more(maps, seeded):
    gaps = []
    for stripes in (1, 3):
        zero = (augment.mask_time(maps, seeded(), width=3, stripes=stripes) == 0)[:, 0, 0].int()
        begins = (zero.diff(dim=1, prepend=torch.zeros(64, 1, dtype=torch.int32)) == 1).sum(dim=1)
        gaps.append(int(begins.max()))
        assert int(zero.sum(dim=1).max()) <= 3 * stripes
    assert gaps == [1, 3]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 6), stripes=st.integers(1, 3), axis=st.sampled_from([2, 3]))
@pytest.mark.parametrize("mode", ["cut", "mixture"])
def test_a_stripe_becomes_another_clips_or_the_mean_with_it_and_nothing_else_changes(mode, seed, n, stripes, axis):
    transform = augment.mask_time if axis == 3 else augment.mask_frequency
    x = torch.randn(n, 2, 7, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def run(mode):
        generator = torch.Generator().manual_seed(seed)
        return transform(x, generator, width=5, stripes=stripes, mode=mode)

    # The same generator draws the same stripes in every mode; zeros show where.
    inside = run("zero") == 0
    y = run(mode)
    assert torch.equal(y[~inside], x[~inside])
    for i in range(n):
        if not inside[i].any():
            continue
        others = [j for j in range(n) if j != i]
        wanted = [x[j] if mode == "cut" else (x[i] + x[j]) / 2 for j in others]
        fits = [torch.allclose(y[i][inside[i]], w[inside[i]], rtol=0, atol=1e-15) for w in wanted]
        assert sum(fits) == 1, "exactly one other clip of the batch"


def test_a_batch_of_one_is_its_own_other_clip(maps, seeded):
    assert torch.equal(augment.mask_time(maps[:1], seeded(), width=9, mode="mixture"), maps[:1])
    assert draws.others(1, seeded()).tolist() == [0]
