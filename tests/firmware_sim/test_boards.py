"""The boards that come along, and what a damaged one says."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tinyasc_export.errors import InputError
from tinyasc_firmware_sim import boards
from tinyasc_firmware_sim.boards import Board, load_board, shipped_boards

KB = 1024


@dataclass(frozen=True)
class Fact:
    """What a public document says of a board's chip.

    Args:
        core: of the processor.
        flash: bytes.
        ram: pieces of RAM, each a tuple of the bytes of the memories in it, whose addresses follow each other.
        read_in: where, as "repository: file".
    """

    core: str
    flash: int
    ram: tuple[tuple[int, ...], ...]
    read_in: tuple[str, ...]


DTS = "zephyrproject-rtos/zephyr: dts/arm"
MBED = "ARMmbed/mbed-os: targets/TARGET_STM"
PICO = "raspberrypi/pico-sdk: src"
L4_PIECES = ((96 * KB,), (32 * KB,))  # at 0x20000000 and 0x10000000
# Read in those files and written down here, not taken from configs/boards. Cores are in Zephyr's Kconfig of the
# chip (soc/st/stm32/stm32l4x and its like, soc/raspberrypi) or the `compatible` of its cpu; LX7 in the board's page.
FACTS = {
    "arduino-nano-33-ble-sense": Fact(
        "Cortex-M4F", 0xEFE00, ((256 * KB,),),
        ("arduino/ArduinoCore-mbed: variants/ARDUINO_NANO33BLE/linker_script.ld", f"{DTS}/nordic/nrf52840.dtsi"),
    ),
    "b-l475e-iot01a": Fact(
        "Cortex-M4F", 1024 * KB, L4_PIECES, (f"{DTS}/st/l4/stm32l475Xg.dtsi",)
    ),
    "nucleo-l476rg": Fact("Cortex-M4F", 1024 * KB, L4_PIECES, (f"{DTS}/st/l4/stm32l476Xg.dtsi",)),
    "nucleo-f446re": Fact("Cortex-M4F", 512 * KB, ((128 * KB,),), (f"{DTS}/st/f4/stm32f446Xe.dtsi",)),
    "nucleo-l4r5zi": Fact(
        "Cortex-M4F", 2048 * KB, ((192 * KB, 64 * KB, 384 * KB),),
        (
            f"{DTS}/st/l4/stm32l4r5.dtsi",
            f"{DTS}/st/l4/stm32l4r5Xi.dtsi",
            # 640 KB from 0x20000000 on: the 64 KB have a second address between the others.
            f"{MBED}/TARGET_STM32L4/TARGET_STM32L4R5xI/device/TOOLCHAIN_GCC_ARM/stm32l4r5xx.ld",
        ),
    ),
    "stm32f746g-disco": Fact(
        "Cortex-M7F", 1024 * KB, ((64 * KB, 240 * KB, 16 * KB),),
        (f"{DTS}/st/f7/stm32f746.dtsi", f"{DTS}/st/f7/stm32f746Xg.dtsi"),
    ),
    "nucleo-u575zi-q": Fact(
        "Cortex-M33F", 2048 * KB, ((192 * KB, 64 * KB, 512 * KB),),
        ("STMicroelectronics/cmsis_device_u5: Include/stm32u575xx.h", f"{DTS}/st/u5/stm32u575Xi.dtsi"),
    ),
    "nucleo-h743zi2": Fact(
        "Cortex-M7F", 2048 * KB, ((512 * KB,), (128 * KB, 128 * KB, 32 * KB), (64 * KB,), (128 * KB,)),
        (f"{DTS}/st/h7/stm32h743.dtsi", f"{DTS}/st/h7/stm32h743Xi.dtsi"),
    ),
    "nrf5340-dk": Fact(
        "Cortex-M33F", 1024 * KB, ((512 * KB,),),
        (f"{DTS}/nordic/nrf5340_cpuapp.dtsi", f"{DTS}/nordic/nrf5340_cpuapp_qkaa.dtsi"),
    ),
    "raspberry-pi-pico": Fact(
        "Cortex-M0+", 2048 * KB, ((256 * KB, 4 * KB, 4 * KB),),
        (f"{PICO}/rp2_common/pico_crt0/rp2040/memmap_default.ld", f"{PICO}/boards/include/boards/pico.h"),
    ),
    "raspberry-pi-pico-2": Fact(
        "Cortex-M33F", 4096 * KB, ((512 * KB, 4 * KB, 4 * KB),),
        (f"{PICO}/rp2_common/pico_crt0/rp2350/memmap_default.ld", f"{PICO}/boards/include/boards/pico2.h"),
    ),
    "nucleo-f207zg": Fact("Cortex-M3", 1024 * KB, ((128 * KB,),), (f"{DTS}/st/f2/stm32f207Xg.dtsi",)),
    "mps3-an547": Fact(
        "Cortex-M55", 512 * KB, ((512 * KB,),),
        ("zephyrproject-rtos/zephyr: boards/arm/mps3/mps3_corstone300_an547.dts",),
    ),
    "esp32-c3-devkitm-1": Fact(
        "RV32IMC", 4096 * KB,
        # Below the second-stage bootloader; from it to the end of the 400 KB.
        ((0x3FCD0000 - 0x3FC80000,), (0x3FC7C000 + 400 * KB - 0x3FCD0000,)),
        (
            "espressif/esp-idf: components/esp_system/ld/esp32c3/memory.ld.in",
            "zephyrproject-rtos/zephyr: dts/riscv/espressif/esp32c3/esp32c3_common.dtsi",
        ),
    ),
    "esp32-s3-devkitc-1": Fact(
        "Xtensa LX7", 8192 * KB,
        # Below the second-stage bootloader; from it to the end of D/IRAM; what a data cache of 32 KB leaves of 64 KB.
        ((0x403CB700 - 0x40378000,), (0x403E0000 - 0x403CB700, 32 * KB)),
        (
            "espressif/esp-idf: components/esp_system/ld/esp32s3/memory.ld.in",
            "espressif/esp-idf: components/esp_system/port/soc/esp32s3/Kconfig.cache",
            "zephyrproject-rtos/zephyr: dts/xtensa/espressif/esp32s3/esp32s3_wroom_n8.dtsi",
        ),
    ),
}  # fmt: skip


def test_the_shipped_boards_hold_what_public_files_say():
    found = {b.key: (b.core, b.flash_bytes, b.ram_bytes, b.block_bytes) for b in shipped_boards()}
    pieces = {key: [sum(piece) for piece in fact.ram] for key, fact in FACTS.items()}
    assert found == {key: (f.core, f.flash, sum(pieces[key]), max(pieces[key])) for key, f in FACTS.items()}


# Clock in MHz, unit of floating point, first bytes of flash and of the largest RAM, as read in the files that boards
# name (Zephyr's boards/*/doc/index.rst and devicetrees, vendors' linker scripts).
PROCESSORS = {
    "arduino-nano-33-ble-sense": (64, "fpv4-sp-d16", 0x10200, 0x20000000),
    "b-l475e-iot01a": (80, "fpv4-sp-d16", 0x08000000, 0x20000000),
    "nucleo-l476rg": (80, "fpv4-sp-d16", 0x08000000, 0x20000000),
    "nucleo-f446re": (180, "fpv4-sp-d16", 0x08000000, 0x20000000),
    "nucleo-l4r5zi": (120, "fpv4-sp-d16", 0x08000000, 0x20000000),
    "stm32f746g-disco": (216, "fpv5-sp-d16", 0x08000000, 0x20000000),
    "nucleo-u575zi-q": (160, "fpv5-sp-d16", 0x08000000, 0x20000000),
    "nucleo-h743zi2": (480, "fpv5-d16", 0x08000000, 0x24000000),
    "nrf5340-dk": (128, "fpv5-sp-d16", 0x00000000, 0x20000000),
    "raspberry-pi-pico": (133, "none", 0x10000000, 0x20000000),
    "raspberry-pi-pico-2": (150, "fpv5-sp-d16", 0x10000000, 0x20000000),
    "nucleo-f207zg": (120, "none", 0x08000000, 0x20000000),
    "mps3-an547": (25, "fpv5-sp-d16", 0x00000000, 0x20000000),
    "esp32-c3-devkitm-1": (160, "none", 0x42000000, 0x3FC80000),
    "esp32-s3-devkitc-1": None,
}


def test_the_processors_are_what_public_files_say():
    found = {
        b.key: b.processor
        and (b.processor.clock_hz / 1e6, b.processor.fpu, b.processor.flash_origin, b.processor.ram_origin)
        for b in shipped_boards()
    }
    assert found == PROCESSORS
    for board in shipped_boards():
        # An F in the core's name is a unit of floating point.
        if board.processor is not None and board.core.startswith("Cortex-M") and board.core != "Cortex-M55":
            assert (board.processor.fpu != "none") == board.core.endswith("F")


@pytest.mark.parametrize("chip", ["stm32l4r5", "STM32L4R5ZI", "rp2040", "rp2350", "esp32-c3", "nrf52840", "stm32h743"])
def test_a_board_is_found_by_its_chip(chip):
    board = load_board(chip)
    assert board.processor is not None and board.processor.chip.lower().startswith(chip.lower())


def test_a_chip_of_several_boards_is_refused():
    with pytest.raises(InputError, match="nucleo-l4r5zi"):
        load_board("stm32l4")


@pytest.mark.parametrize("key", FACTS)
def test_the_sources_name_the_files_that_were_read(key):
    source = load_board(key).source
    assert all(Path(place.split(": ")[1]).name in source for place in FACTS[key].read_in)


def test_the_least_ram_comes_first():
    sizes = [b.ram_bytes for b in shipped_boards()]
    assert sizes == sorted(sizes)


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
    monkeypatch.setattr(boards, "boards_folder", lambda: tmp_path / "boards")
    file = tmp_path / "boards/b.yaml"
    file.write_text(GOOD)
    assert load_board("b") == Board(key="b", name="B", core="C", flash_bytes=1, ram_bytes=2, source="S")
    file.write_text(text)
    with pytest.raises(InputError, match=r"b\.yaml: no valid board"):
        load_board("b")
