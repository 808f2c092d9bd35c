"""The table of refused families in `your-own-network.md` says what capture says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tinyasc.errors import CaptureError
from tinyasc.models import FAMILIES, build
from tinyasc_export.capture import capture

PAGE = (Path(__file__).parents[2] / "docs/how-to/your-own-network.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)`[^|]*\| (`[\w.]+`|\(top level\)) \| (.+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("family", "module", "refused"), ROWS)
def test_the_first_thing_refused_is_the_one_in_the_table(family, module, refused):
    width = FAMILIES[family].width
    facts = {"n_classes": 6, "n_mels": 32, "n_frames": 32, "parents": (0, 0, 1, 1, 2, 2), "n_devices": 3}
    model = build(family, **facts, **{width.option: width.step})
    with pytest.raises(CaptureError) as caught:
        capture(model, (1, 1, 32, 32))
    assert str(caught.value).startswith(f"module {module.strip('`')}: {refused}")


def test_families_are_on_the_side_that_they_declare():
    students = re.findall(r"`(\w+)`", PAGE[PAGE.index("### tinyasc's own families") : PAGE.index("are students")])
    assert [family for family, *_ in ROWS] == sorted(family for family in FAMILIES if not FAMILIES[family].capturable)
    assert students == sorted(family for family in FAMILIES if FAMILIES[family].capturable)
