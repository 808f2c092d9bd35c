import torch

from tinyasc import augment

SCALE = torch.linspace(0.1, 0.5, 12)


def test_gain_adds_one_gain_in_db_per_clip(maps, seeded):
    x = maps.double()
    db = (augment.gain(x, seeded(), max_db=6.0, band_scale=SCALE.double()) - x) / SCALE[:, None]
    per_clip = db.flatten(1)
    assert torch.allclose(per_clip, per_clip[:, :1].expand_as(per_clip), atol=1e-6)
    assert_uniform(per_clip[:, 0])


def test_gain_samples_multiplies_by_one_gain_in_db_per_clip(seeded):
    x = 1 + torch.rand(64, 50, generator=seeded(5), dtype=torch.float64)
    db = 20 * (augment.gain_samples(x, seeded(), max_db=6.0) / x).log10()
    assert torch.allclose(db, db[:, :1].expand_as(db), atol=1e-9)
    assert_uniform(db[:, 0])


def assert_uniform(gains):
    assert gains.abs().max() <= 6.0 and gains.min() < -4 and gains.max() > 4
    assert abs(float(gains.mean())) < 3 * 6 / 3**0.5 / 64**0.5
