import numpy as np
import torch

from tinyasc import augment
from tinyasc.augment.a_weighting import loudest_level

RATE = 16000


def clips(n=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    level = 10 ** (-2 * torch.rand(n, 1, generator=generator, dtype=torch.float64))
    return level * torch.randn(n, 8000, generator=generator, dtype=torch.float64)


def test_partners_are_of_another_class_and_all_of_them_are_drawn(seeded):
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    generator, seen = seeded(), [set() for _ in labels]
    for _ in range(100):
        _, mix = augment.between_class(torch.randn(6, 64), labels, generator, sample_rate=RATE)
        for i, j in enumerate(mix.partner.tolist()):
            assert labels[i] != labels[j]
            seen[i].add(j)
    assert seen == [{3, 4, 5}] * 3 + [{0, 1, 2, 5}] * 2 + [{0, 1, 2, 3, 4}]


def test_the_mixture_is_its_formula(seeded):
    x, labels = clips(), torch.arange(24) % 4
    mixed, (partner, ratio) = augment.between_class(x, labels, seeded(), sample_rate=RATE)
    level = loudest_level(x, RATE).numpy()
    for i, (j, r) in enumerate(zip(partner.tolist(), ratio.double().tolist(), strict=True)):
        p = 1 / (1 + 10 ** ((level[i] - level[j]) / 20) * (1 - r) / r)
        wanted = (p * x[i] + (1 - p) * x[j]) / np.sqrt(p**2 + (1 - p) ** 2)
        assert torch.allclose(mixed[i], wanted, rtol=1e-4, atol=1e-5)
    assert float(ratio.min()) < 0.15 and float(ratio.max()) > 0.85


def test_what_is_heard_stands_in_the_ratio_of_the_labels(seeded):
    # Tones apart in frequency and 30 dB apart in level: their amplitudes in the mixture are as r to 1 - r.
    t = torch.arange(RATE, dtype=torch.float64) / RATE
    x = torch.stack([torch.sin(2 * torch.pi * 1000 * t), 0.03 * torch.sin(2 * torch.pi * 4000 * t)])
    mixed, (_, ratio) = augment.between_class(x, torch.tensor([0, 1]), seeded(), sample_rate=RATE)
    spectrum = torch.fft.rfft(mixed).abs()
    heard = torch.stack([spectrum[:, 1000], spectrum[:, 4000] * 10 ** (0.96 / 20)])  # A-weighting: 0 and +0.96 dB
    assert torch.allclose(heard[0, 0] / heard[:, 0].sum(), ratio[0].double(), atol=0.01)
    assert torch.allclose(heard[1, 1] / heard[:, 1].sum(), ratio[1].double(), atol=0.01)


def test_targets_are_mixed_by_the_ratio(seeded):
    labels = torch.arange(24) % 4
    _, mix = augment.between_class(clips(), labels, seeded(), sample_rate=RATE)
    target = mix(torch.nn.functional.one_hot(labels, 4).float())
    assert torch.allclose(target[torch.arange(24), labels], mix.weight)
    assert torch.allclose(target[torch.arange(24), labels[mix.partner]], 1 - mix.weight)


def test_a_batch_of_one_class_stays(seeded):
    x = clips(5)
    mixed, (partner, ratio) = augment.between_class(x, torch.zeros(5, dtype=torch.long), seeded(), sample_rate=RATE)
    assert torch.equal(mixed, x) and partner.tolist() == [0, 1, 2, 3, 4] and (ratio == 1).all()
