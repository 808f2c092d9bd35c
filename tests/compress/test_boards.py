"""The boards that come along, and what a damaged one says."""

import pytest

from tinyasc.compress import boards
from tinyasc.compress.boards import Board, load_board, shipped_boards
from tinyasc.errors import InputError

KB = 1024
# Flash, RAM and its largest piece, copied by hand from the documents that the files name.
FACTS = {
    "arduino-nano-33-ble-sense": (1024, 256, 256),
    "b-l475e-iot01a": (1024, 128, 96),
    "nucleo-l476rg": (1024, 128, 96),
    "nucleo-f446re": (512, 128, 128),
    "nucleo-l4r5zi": (2048, 640, 640),
    "stm32f746g-disco": (1024, 320, 320),
    "nucleo-u575zi-q": (2048, 768, 768),
    "nucleo-h743zi2": (2048, 128 + 512 + 288 + 64, 512),
    "nrf5340-dk": (1024, 512, 512),
    "raspberry-pi-pico": (2048, 264, 264),
    "raspberry-pi-pico-2": (4096, 520, 520),
    "esp32-s3-devkitc-1": (8192, 480, 416),
}


def test_the_shipped_boards_hold_their_documents_figures():
    found = {b.key: (b.flash_bytes, b.ram_bytes, b.block_bytes) for b in shipped_boards()}
    assert found == {key: tuple(KB * n for n in sizes) for key, sizes in FACTS.items()}


def test_the_least_ram_comes_first():
    sizes = [b.ram_bytes for b in shipped_boards()]
    assert sizes == sorted(sizes)


def test_every_board_names_its_source_and_core():
    for board in shipped_boards():
        assert len(board.source) > 20 and board.name and (board.core.startswith("Cortex-M") or "LX7" in board.core)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("arduino-nano-33-ble", "did you mean 'arduino-nano-33-ble-sense'"),
        ("zx81", "choose one of: arduino-nano-33-ble-sense, "),
        ("../budgets/dcase2022-t1", "choose one of"),
        ("", "choose one of"),
    ],
)
def test_unknown_boards(name, words):
    with pytest.raises(InputError) as caught:
        load_board(name)
    assert words in str(caught.value)


GOOD = "name: B\ncore: C\nflash_bytes: 1\nram_bytes: 2\nsource: S\n"


@pytest.mark.parametrize(
    "text", ["", "[]", "name: [", GOOD + "more: 1", GOOD + "largest_block_bytes: 3", GOOD.replace("2", "0")]
)
def test_damaged_boards(tmp_path, monkeypatch, text):
    (tmp_path / "boards").mkdir()
    monkeypatch.setattr(boards, "configs_folder", lambda: tmp_path)
    file = tmp_path / "boards/b.yaml"
    file.write_text(GOOD)
    assert load_board("b") == Board(key="b", name="B", core="C", flash_bytes=1, ram_bytes=2, source="S")
    file.write_text(text)
    with pytest.raises(InputError, match=r"b\.yaml: no valid board"):
        load_board("b")
