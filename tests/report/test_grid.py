"""The one table on a terminal: whatever the width, numbers are whole and names break at seams."""

import io

import pytest
from rich.console import Console

from locbench.report.grid import Column, columns, print_grid, wrap

NAMES = [
    "probe-gim-resnet50-conv1-no_decoder_downsampling-loco-smoke-s1234-9210931a1b",
    "cost-auglocal-resnet110-r0.6-d5-paper-s0-ed0f7bd1f3",
]
ROWS = [
    (NAMES[0], "94.61±0.18", "2026-11-21", "lr=1e-05 is too high: the loss was 1234567.5"),
    (NAMES[1], "1,234,567", "2026-11-21 02:45", ""),
]
HEADS = ("run", "accuracy of the whole", "started (UTC)", "error")


def printed(shown, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_grid(shown, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_numbers_are_whole_and_lines_fit(width):
    text = printed(columns(HEADS, ROWS, words=(0, 3)), width)
    assert max(map(len, text.splitlines())) <= width
    for number in ("94.61", "±0.18", "1,234,567", "2026-11-21", "lr=1e-05", "1234567.5"):
        assert number in text
    assert "9210931a1b" in text and "ed0f7bd1f3" in text and "r0.6" in text
    assert (NAMES[0] in text) is (width == 200)


def test_a_word_breaks_at_its_seams_and_never_in_a_number():
    assert wrap("resnet50-conv1-no_decoder", 12) == ["resnet50-", "conv1-no_", "decoder"]
    assert wrap("lr=0.00001-0.00005 1e-05", 8) == ["lr=0.00001-0.00005", "1e-05"]
    assert wrap("93.73 ± 0.10 (3)", 8) == ["93.73", "± 0.10", "(3)"]
    assert wrap("93.73±0.10", 8) == ["93.73", "±0.10"]
    assert wrap("two words\nbelow", 5) == ["two", "words", "below"]


def test_without_heads_there_is_no_rule_and_styles_are_of_cells():
    assert printed([Column("", ["a"]), Column("", ["1"], True)], 80) == "a  1\n"
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system="standard")
    print_grid([Column("holds", ["yes", "NO"], styles=["", "red"])], console)
    assert "\x1b[31mNO" in console.file.getvalue()
