"""A data set of tones in ESC-50's layout, easy enough for a tiny model and two epochs."""

import numpy as np
import soundfile

from tinyasc.data.esc import CATEGORIES, ESC10


def write_esc(root, *, folds=5, takes=2):
    """Tones in ESC-50's layout: five folds of its ten classes, each class with a pitch of its own."""
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    rng = np.random.default_rng(0)
    t = np.arange(8000) / 16000
    for fold in range(1, folds + 1):
        for place, category in enumerate(ESC10):
            target = CATEGORIES.index(category)
            for take in range(takes):
                source = 1000 * fold + 10 * target + take
                name = f"{fold}-{source}-A-{target}.wav"
                sound = 0.1 * np.sin(2 * np.pi * 300 * 1.35**place * t) + 0.05 * rng.standard_normal(8000)
                soundfile.write(root / "audio" / name, sound, 16000)
                rows.append(f"{name},{fold},{target},{category},True,{source},A")
    (root / "meta/esc50.csv").write_text("\n".join(rows) + "\n")
    return root
