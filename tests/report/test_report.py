"""Reports: what a person sees fits and is whole, what a program reads is exact."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from fabricate import fill, top1
from rich.console import Console

from locbench.errors import UserError
from locbench.paths import runs_dir
from locbench.published.load import load_table
from locbench.published.table import Cell, Column, Published, Row
from locbench.report.claims import JudgedClaim
from locbench.report.filled import FilledCell, fill_table
from locbench.report.formats import FORMATS, latex, markdown, render, write
from locbench.report.frame import frame
from locbench.report.layout import (
    NOTHING,
    Section,
    columns,
    columns_as_printed,
    scale_notes,
    sections,
)
from locbench.report.terminal import on_screen
from locbench.report.verdict import Verdict
from locbench.runs.plan import Options, PlannedCell, make_plan
from locbench.runs.record import Record
from locbench.runs.store import Store


def cell(
    labels, published=None, mean=None, n=0, *, std=None, column="top-1", unit="%", decimals=1,
    verdict="not run", detail="", decoder="", cited=False, baseline=False, scale="paper", **more
):  # fmt: skip
    printed = None if published is None else Published(published, std)
    row = Row(labels, cited, "", (), {}, {})
    inside = Cell(
        "t", row, Column(column, column, "top1", unit, decimals), printed, None, ours=True
    )
    planned = PlannedCell(inside, (), baseline)
    record = Record("r", "probe", "done", scale, 0, tags={"decoder": decoder})
    values = {"records": (record,), "mean": mean, "n": n, "seeds": max(n, 1), **more}
    return FilledCell(planned, scale, Verdict(verdict, detail), **values)


def section(cells, **more):
    return Section("t", "t", list(cells[0].cell.row.labels), cells, **more)


def texts(cells, **more):
    return {" ".join(c.head.split()): c.cells for c in columns(section(cells, **more))}


def screen(section, width=100):
    return on_screen(section, Console(width=width, file=io.StringIO(), color_system=None))


def table1(scale="paper", notes=("* from SimCLR's own paper",)):
    def row(method, *args, network="ResNet-50", **more):
        return cell({"network": network, "method": method}, *args, scale=scale, **more)

    block = "1 conv block + 2-layer MLP"
    cells = [
        row("SimCLR*", 69.3, cited=True, verdict="cited"),
        row("SimCLR", 69.8, 69.62349, 3, spread=0.123, decoder="2-layer MLP", verdict="reproduced"),
        row("LoCo", 69.5, 68.0, 1, decoder=block, verdict="worse"),
        row("GIM", 63.5, network="ShuffleNet v2-50"),
        row("untrained", None, 5.04, 1, decoder="none", verdict="", baseline=True),
    ]
    claims = (
        JudgedClaim("LoCo is within 1.0 of SimCLR", False, "68.0 against 69.6"),
        JudgedClaim("GIM is below LoCo by at least 3", None, "GIM is not run"),
        JudgedClaim("SimCLR is above 69", True, "69.6"),
    )
    labels = ("network", "method")
    return Section("loco/table1", "ImageNet, linear probe", labels, cells, notes, claims)


def several_units():
    labels = {"network": "ResNet-110", "method": "AugLocal d=6", "epochs": 800}
    more = {"verdict": "reproduced", "decoder": "1-layer MLP", "decimals": 2, "std": 0.15}
    cells = [
        cell(labels, 93.96, 93.9, 3, spread=0.1, column="CIFAR-10", **more),
        cell(labels, 96.96, 96.9, 3, spread=0.01, column="SVHN", **more),
        cell(labels, 80.4, column="STL-10", decimals=2, std=0.17),
        cell({**labels, "epochs": 100}, 9.27, column="memory", unit="GB", decimals=2),
    ]
    return section(cells)


def as_printed(**more):
    """Three columns of one unit: a row that is measured in part, and one that is not run."""

    def row(method, column, published, mean=None, n=0, **changes):
        changes = {"decimals": 2, "std": 0.1, **changes, **more}
        return cell({"method": method}, published, mean, n, column=column, **changes)

    names = ("CIFAR-10", "SVHN", "STL-10")
    cells = [
        row("BP", names[0], 93.73, 93.7, 3, spread=0.04, verdict="reproduced", decoder="1 block"),
        row("BP", names[1], 97.01, 95.0, 2, seeds=3, verdict="worse", unfinished="1 failed"),
        row("BP", names[2], 80.8),
        *(row("DGL", column, 86.3) for column in names),
    ]
    return section(cells, auxiliary="auxiliary network")


# --- to the letter ---------------------------------------------------------------------------

MARKDOWN = r"""### ImageNet, linear probe (`loco/table1`)

| network | method | measured [%] ± sd (n) | published | difference | decoder | verdict |
| --- | --- | ---: | ---: | ---: | --- | --- |
| ResNet-50 | SimCLR\* | – | 69.3 | – |  | cited |
| ResNet-50 | SimCLR | 69.6 ± 0.12 (3) | 69.8 | -0.2 | 2-layer MLP | reproduced |
| ResNet-50 | LoCo | 68.0 (1) | 69.5 | -1.5 | 1 conv block + 2-layer MLP | worse |
| ShuffleNet v2-50 | GIM | – | 63.5 | – |  | not run |
| ResNet-50 | untrained | 5.0 (1) | – | – | none | baseline |

- ✗ LoCo is within 1.0 of SimCLR (68.0 against 69.6)
- ? GIM is below LoCo by at least 3 (GIM is not run)
- ✓ SimCLR is above 69 (69.6)

\* from SimCLR's own paper
"""  # noqa: RUF001

LATEX = r"""% \usepackage{booktabs}
\begin{table}
\centering
\caption{ImageNet, linear probe}
\label{tab:loco-table1}
\begin{tabular}{llrrrll}
\toprule
network & method & measured [\%] $\pm$ sd (n) & published & difference & decoder & verdict \\
\midrule
ResNet-50 & SimCLR* & -- & 69.3 & -- &  & cited \\
ResNet-50 & SimCLR & 69.6 $\pm$ 0.12 (3) & 69.8 & $-0.2$ & 2-layer MLP & reproduced \\
ResNet-50 & LoCo & 68.0 (1) & 69.5 & $-1.5$ & 1 conv block + 2-layer MLP & worse \\
ShuffleNet v2-50 & GIM & -- & 63.5 & -- &  & not run \\
ResNet-50 & untrained & 5.0 (1) & -- & -- & none & baseline \\
\bottomrule
\end{tabular}
\par\smallskip{\footnotesize * from SimCLR's own paper}
\par\smallskip{\footnotesize \emph{fails}: LoCo is within 1.0 of SimCLR (68.0 against 69.6)}
\par\smallskip{\footnotesize \emph{open}: GIM is below LoCo by at least 3 (GIM is not run)}
\par\smallskip{\footnotesize \emph{holds}: SimCLR is above 69 (69.6)}
\end{table}
"""

SCREEN = """\
loco/table1  ImageNet, linear probe
                                measured [%]
network           method            ± sd (n)  paper  diff.  decoder                     verdict
──────────────────────────────────────────────────────────────────────────────────────────────────
ResNet-50         SimCLR*                  –   69.3      –                              cited
ResNet-50         SimCLR     69.6 ± 0.12 (3)   69.8   -0.2  2-layer MLP                 reproduced
ResNet-50         LoCo              68.0 (1)   69.5   -1.5  1 conv block + 2-layer MLP  worse
ShuffleNet v2-50  GIM                      –   63.5      –                              not run
ResNet-50         untrained          5.0 (1)      –      –  none                        baseline

✗ LoCo is within 1.0 of SimCLR
  68.0 against 69.6
? GIM is below LoCo by at least 3
  GIM is not run
✓ SimCLR is above 69
  69.6

* from SimCLR's own paper
"""  # noqa: RUF001


def test_a_section_in_every_format_for_people_to_the_letter():
    assert markdown(table1()) == MARKDOWN
    assert latex(table1()) == LATEX
    assert screen(table1()) == SCREEN


NASTY = r"a_b & 100% #1 {x} $y$ C:\d ~ ^ |p| *s* `c` <b> [bold]x[/bold]"


def test_what_a_format_reads_as_marks_is_escaped():
    nasty = section([cell({"method": NASTY + "\nnext"}, 1.0), cell({"method": "a"}, 1.0)])
    assert (
        r"a\_b \& 100\% \#1 \{x\} \$y\$ C:\textbackslash{}d \textasciitilde{} "
        r"\textasciicircum{} |p| *s* `c` \textless{}b\textgreater{}"
    ) in latex(nasty)
    rows = [line for line in markdown(nasty).splitlines() if line.startswith("| a")]
    assert r"\|p\| \*s\* \`c\` \<b> [bold]x[/bold] next" in rows[0]
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == len(re.findall(r"\|", rows[1]))
    assert "[bold]x[/bold]" in screen(nasty)


# --- on a terminal ---------------------------------------------------------------------------


def test_cells_of_one_row_show_its_labels_once():
    text = screen(several_units())
    assert text.count("ResNet-110") == 2 and text.count("800") == 1
    names = texts(several_units().cells)["column"]
    assert names == ["CIFAR-10 [%]", "SVHN [%]", "STL-10 [%]", "memory [GB]"]


def test_columns_of_one_unit_are_laid_out_as_the_paper_does():
    shown = {c.head: c.cells for c in columns_as_printed(as_printed())}
    assert list(shown) == [
        "method", "CIFAR-10 [%]", "SVHN [%]", "STL-10 [%]", "auxiliary network", "verdict"
    ]  # fmt: skip
    assert shown["CIFAR-10 [%]"] == ["93.70 ± 0.04 (3)\n93.73 ± 0.10", f"{NOTHING}\n86.30 ± 0.10"]
    assert shown["SVHN [%]"][0] == "95.00 (2 of 3)\n97.01 ± 0.10"
    assert shown["verdict"] == ["CIFAR-10: reproduced; SVHN: worse; 1 failed", "not run"]
    alike = columns_as_printed(as_printed(verdict="worse", unfinished=""))
    assert alike[-1].cells == ["worse", "worse"]
    text = screen(as_printed())
    assert "In each cell: measured ± sd (n), and under it the published number." in text


def test_what_has_not_one_unit_scale_or_cell_a_column_is_a_row_a_cell():
    assert columns_as_printed(several_units()) is None and columns_as_printed(table1()) is None
    cells = as_printed().cells
    assert columns_as_printed(section([replace(cells[0], scale="small"), *cells[1:]])) is None
    assert columns_as_printed(section([*cells, cells[0]])) is None
    ours = [replace(c, planned=replace(c.planned, cell=replace(c.cell, published=None)))
            for c in cells]  # fmt: skip
    assert columns_as_printed(section(ours)) is None


def test_cited_rows_are_dim_and_verdicts_coloured():
    console = Console(width=100, force_terminal=True, color_system="standard", file=io.StringIO())
    text = on_screen(table1(), console)
    assert console.file.getvalue() == "", "rendering prints nothing"
    cited = next(line for line in text.splitlines() if "SimCLR*" in line)
    assert "\x1b[2m" in cited and "cited" in cited
    assert "\x1b[32mreproduced" in text and "\x1b[31mworse" in text


def test_heads_are_short_only_where_a_terminal_is_narrow():
    assert "published" in screen(table1(), 160) and "diff." not in screen(table1(), 160)
    assert "paper" in screen(table1(), 80) and "published" not in screen(table1(), 80)


# --- what a cell says ------------------------------------------------------------------------


def test_a_reduced_scale_is_labelled():
    assert "say nothing about the paper" in scale_notes(table1("smoke").cells)[0]
    assert "claims are judged on it" in scale_notes(table1("small").cells)[0]
    assert scale_notes(table1().cells) == []
    two = [*table1("small").cells, *table1("smoke").cells]
    assert len(scale_notes(two)) == 2 and "small" in texts(two)["scale"]


def test_numbers_are_rounded_to_the_digits_of_print():
    values = [(0.63, 0.6290), (0.6, -0.6), (1.0, 0.9999999), (2.0, 2.004), (3.0, 2.9951)]
    shown = texts([cell({"m": "m"}, old, new, 1, decimals=2) for old, new in values])
    assert shown["difference"] == ["+0.00", "-1.20", "+0.00", "+0.00", "+0.00"]
    assert shown["measured [%] ± sd (n)"][:3] == ["0.63 (1)", "-0.60 (1)", "1.00 (1)"]


def test_texts_and_missing_labels_are_shown_as_they_are():
    cells = [
        cell({"method": "a", "epochs": 800}, "64R-AP-10FC", unit="", seeds=0),
        cell({"method": "b"}, 3.25, 3.5, 1, unit="", decimals=2, seeds=0),
    ]
    shown = texts(cells)
    assert shown["epochs"] == ["800", ""] and shown["published"] == ["64R-AP-10FC", "3.25"]
    assert shown["measured"] == [NOTHING, "3.50"] and "decoder" not in shown
    ours = [cell({"method": m}, None, 5.0, 1, verdict="") for m in ("a", "b")]
    assert list(texts(ours)) == ["method", "measured [%] ± sd (n)"]


SMOKE = {"scale": "smoke", "verdict": "not comparable", "detail": "scale smoke", "seeds": 3}
SEEDS = [
    (cell({"m": "all"}, 69.5, 40.75, 3, spread=0.25, **SMOKE),
     "40.8 ± 0.25 (3)", "not comparable (scale smoke)"),
    (cell({"m": "two"}, 69.5, 40.5, 2, spread=0.125, unfinished="1 failed", **SMOKE),
     "40.5 ± 0.12 (2 of 3)", "not comparable (scale smoke); 1 failed"),
    (cell({"m": "none"}, 69.5, verdict="diverged", unfinished="1 diverged, 2 not run", seeds=3),
     NOTHING, "diverged; 1 diverged, 2 not run"),
    (cell({"m": "cost"}, 0.25, 0.25, 1, decimals=2, verdict="reproduced", seeds=0),
     "0.25", "reproduced"),
    (cell({"m": "own"}, None, 40.5, 2, spread=0.1, seeds=3, verdict="", unfinished="1 failed",
          baseline=True), "40.5 ± 0.10 (2 of 3)", "baseline; 1 failed")
]  # fmt: skip


def test_how_many_seeds_are_done_is_told():
    shown = texts([c for c, _, _ in SEEDS])
    assert shown["measured [%] ± sd (n)"] == [measured for _, measured, _ in SEEDS]
    assert shown["verdict"] == [verdict for _, _, verdict in SEEDS]


# --- from a plan and its records -------------------------------------------------------------


@pytest.fixture
def filled():
    """LoCo's Table 1 from three seeds a cell, one of them lost."""
    plan, store = make_plan(load_table("loco/table1"), Options(seeds=3)), Store(runs_dir())
    fill(plan.runs(), store, lambda spec: top1(spec) + 1e-7 * spec.seed)
    store.discard(plan.cells[5].specs[1].id)
    return fill_table(plan, store)


def test_csv_json_and_the_frame_hold_every_field_at_machine_precision(filled):
    rows = list(csv.DictReader(io.StringIO(write(filled, "csv"))))
    whole = json.loads(write(filled, "json"))
    lines = frame(filled).to_dict("records")
    assert len(rows) == len(whole["cells"]) == len(lines) == len(filled.cells)
    for c, row, cell, line in zip(filled.cells, rows, whole["cells"], lines, strict=True):
        assert (cell["measured"], cell["spread"], cell["n"]) == (c.mean, c.spread, c.n)
        assert list(row) == list(cell) == list(line)
        for key, value in cell.items():
            if value is None:
                assert row[key] == "" and (line[key] is None or line[key] != line[key])
            else:
                assert type(value)(row[key] if type(value) is not bool else value) == value
                assert line[key] == value
    assert whole["table"] == "loco/table1" and whole["labels"][0] == "method"
    assert whole["claims"] == [] and {m["baseline"] for m in whole["margins"]} == {
        "untrained",
        "pixels",
    }
    counts = {(cell["n"], cell["asked"], cell["unfinished"]) for cell in whole["cells"]}
    assert (2, 3, "1 not run") in counts and (3, 3, "") in counts


def test_baselines_and_our_columns_stand_beside_the_table_and_say_the_scale_once(filled):
    table, beside = sections(filled)
    assert (table.name, beside.name) == ("loco/table1", "loco/table1/beside")
    assert [c.cell.row.index for c in table.cells] == list(range(11))
    assert "Scale smoke" in table.notes[0] and beside.notes[0].startswith("Trained above untrained")
    assert {c.label("method") for c in beside.cells} >= {"untrained", "SimCLR"}
    assert beside.labels == ["method", "network"], "which tell its rows apart"


def test_every_format_ends_with_a_line_and_an_unknown_one_is_suggested(filled):
    assert all(write(filled, format).endswith("\n") for format in FORMATS)
    with pytest.raises(UserError, match="did you mean 'json'"):
        write(filled, "jsn")


def test_a_table_of_long_heads_fits_a_terminal_of_80_columns():
    console = Console(width=80, file=io.StringIO(), color_system=None)
    plan = make_plan(load_table("loco/table2"), Options())
    shown = render(plan, Store(runs_dir()), "rich", console=console).splitlines()
    assert max(map(len, shown)) <= 80
    assert any("box [%]" in line and "COCO AP box" not in line for line in shown)


def test_nothing_heavy_is_imported_with_these_modules():
    code = (
        "import sys, locbench.recipes.load, locbench.runs.store;"
        "import locbench.report.verdict, locbench.report.formats;"
        "locbench.recipes.load.load_recipe('loco/imagenet', 'smoke');"
        "print([m for m in ('torch', 'pandas', 'scipy', 'numpy', 'rich') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_what_is_chosen_of_the_recipes_is_said_at_the_scale_of_the_paper(tmp_path):
    """Of the rules, networks and evaluations of the table alone."""

    def notes(name: str, scale: str) -> str:
        plan = make_plan(load_table(name), Options(scale=scale, assume_data=True))
        whole = sections(fill_table(plan, Store(tmp_path)))[0]
        return " ".join(whole.notes)

    probes, classifiers = notes("loco/table1", "paper"), notes("auglocal/table1", "paper")
    assert "optimizer.trust" in probes and "probe.weight_decay" in probes
    assert "rules.infopro" in classifiers and "vgg19" not in classifiers
    assert "probe" not in classifiers
    assert "Chosen by us" not in notes("loco/table1", "smoke")
