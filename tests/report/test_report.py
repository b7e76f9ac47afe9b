"""Reports: what a person sees fits and is whole, what a program reads is exact."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from locbench.cli import actions as commands
from locbench.errors import UserError
from locbench.published.load import load_table
from locbench.report.check import reference_store
from locbench.report.formats import FORMATS, render
from locbench.report.layout import NOTHING, JudgedClaim, Report, as_printed, shown_columns
from locbench.report.terminal import WIDTH
from locbench.runs.plan import Options, make_plan


def line(labels, published, measured=None, n=0, spread=None, **more):
    difference = None if published is None or measured is None else measured - published
    return {
        **labels,
        "column": "top-1",
        "column_key": "top1",
        "published": published,
        "published_std": None,
        "measured": measured,
        "n": n,
        "asked": max(n, 1),
        "spread": spread,
        "difference": difference,
        "verdict": "not run",
        "detail": "",
        "decoder": None,
        "scale": "paper",
        "unit": "%",
        "decimals": 1,
        "cited": False,
        "baseline": False,
        **more,
    }


def table1(scale="paper"):
    def row(method, *args, network="ResNet-50", **more):
        return line({"network": network, "method": method}, *args, scale=scale, **more)

    block = "1 conv block + 2-layer MLP"
    lines = [
        row("SimCLR*", 69.3, cited=True, verdict="cited"),
        row("SimCLR", 69.8, 69.62349, 3, 0.123, decoder="2-layer MLP", verdict="reproduced"),
        row("LoCo", 69.5, 68.0, 1, decoder=block, verdict="worse"),
        row("GIM", 63.5, network="ShuffleNet v2-50"),
        row("untrained", None, 5.04, 1, decoder="none", verdict="", baseline=True),
    ]
    return Report(
        name="loco/table1",
        title="ImageNet, linear probe",
        caption="Top-1 on frozen features.",
        frame=pd.DataFrame(lines),
        labels=("network", "method"),
        claims=(
            JudgedClaim("LoCo is within 1.0 of SimCLR", False, "68.0 against 69.6"),
            JudgedClaim("GIM is below LoCo by at least 3", None, "GIM is not run"),
            JudgedClaim("SimCLR is above 69", True, "69.6"),
        ),
        footnotes=("* from SimCLR's own paper",),
    )


def coco():
    labels = {"network": "ResNet-110", "method": "AugLocal d=6", "epochs": 800}
    more = {"published_std": 0.15, "verdict": "reproduced", "decoder": "1-layer MLP"}
    return Report(
        "auglocal/table1",
        "Test accuracy",
        pd.DataFrame(
            [
                line(labels, 93.96, 93.9, 3, 0.1, column="CIFAR-10", decimals=2, **more),
                line(labels, 96.96, 96.9, 3, 0.01, column="SVHN", decimals=2, **more),
                line(labels, 80.4, column="STL-10", decimals=2, published_std=0.17),
                line({**labels, "epochs": 100}, 9.27, column="memory", unit="GB", decimals=2),
            ]
        ),
        ("network", "method", "epochs"),
    )


# --- golden text -----------------------------------------------------------------------------

MARKDOWN = r"""### ImageNet, linear probe (`loco/table1`)

Top-1 on frozen features.

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
\caption{ImageNet, linear probe. Top-1 on frozen features.}
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


def test_markdown_to_the_letter():
    assert render(table1(), "md") == MARKDOWN


def test_latex_to_the_letter():
    assert render(table1(), "latex") == LATEX


NASTY = r"a_b & 100% #1 {x} $y$ C:\d ~ ^ |p| *s* `c` <b>"


def test_latex_escapes_what_tex_reads():
    text = render(replace(table1(), title=NASTY, footnotes=(NASTY,)), "latex")
    wanted = (
        r"a\_b \& 100\% \#1 \{x\} \$y\$ C:\textbackslash{}d \textasciitilde{} "
        r"\textasciicircum{} |p| *s* `c` \textless{}b\textgreater{}"
    )
    assert text.count(wanted) == 2


def test_markdown_escapes_what_would_break_the_table():
    report = table1()
    report.frame.loc[0, "method"] = NASTY + "\nnext"
    rows = [x for x in render(report, "md").splitlines() if x.startswith("| ResNet-50 |")]
    assert r"\|p\| \*s\* \`c\` \<b> next" in rows[0]
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == len(re.findall(r"\|", rows[1]))


# --- terminal --------------------------------------------------------------------------------


def cells_of(text):
    """The table's own lines, from the rule under the head to the first empty line."""
    lines = text.splitlines()
    start = next(k for k, x in enumerate(lines) if x.startswith("────")) + 1
    return lines[start : [*lines, ""].index("", start)]


def test_a_terminal_of_100_columns_holds_the_table():
    for report in (table1(), table1("smoke"), coco()):
        text = render(report)
        assert max(map(len, text.splitlines())) <= WIDTH == 100


def test_no_number_or_word_is_cut_at_any_width():
    report = table1()
    frame = report.frame.assign(
        verdict="not comparable", detail="scale smoke, probe moco, width 0.25"
    )
    report = replace(report, frame=frame)
    for width in (40, 60, 80, 100, 300):
        text = render(report, console=Console(width=width, file=io.StringIO()))
        body = "\n".join(cells_of(text))
        for column in shown_columns(report):
            for cell in column.cells:
                pieces = [cell] if column.numeric else cell.split()
                assert all(piece in body for piece in pieces), (width, cell)


def test_rows_keep_the_papers_order_and_labels_come_first():
    body = cells_of(render(table1()))
    methods = ["SimCLR*", "SimCLR", "LoCo", "GIM", "untrained"]
    firsts = [x for x in body if x.startswith(("ResNet-50", "ShuffleNet"))]
    assert len(firsts) == len(methods)
    assert all(method in text for method, text in zip(methods, firsts, strict=True))
    head = render(table1()).split("────")[0]
    places = [
        head.index(word)
        for word in (
            "network",
            "method",
            "± sd (n)",
            "paper",
            "diff.",
            "decoder",
            "verdict",
        )
    ]
    assert places == sorted(places)


def test_cells_of_one_row_show_its_labels_once():
    text = render(coco())
    assert text.count("ResNet-110") == 2 and text.count("800") == 1
    names = next(c.cells for c in shown_columns(coco()) if c.head == "column")
    assert names == ["CIFAR-10 [%]", "SVHN [%]", "STL-10 [%]", "memory [GB]"]
    assert "93.90 ± 0.10 (3)" in text and "93.96 ± 0.15" in text and "96.90 ± 0.01 (3)" in text


def printed(**changes):
    """A table of three columns of one unit: two rows, the second not run."""

    def row(method, column, published, measured=None, n=0, **more):
        more = {"decimals": 2, "published_std": 0.1, **more}
        return line({"method": method}, published, measured, n, column=column, **more)

    good = {"verdict": "reproduced", "decoder": "1 block"}
    lines = [
        row("BP", "CIFAR-10", 93.73, 93.7, 3, spread=0.04, **good),
        row("BP", "SVHN", 97.01, 95.0, 3, spread=0.02, verdict="worse", decoder="1 block"),
        row("BP", "STL-10", 80.8),
        *(row("DGL", column, 86.3) for column in ("CIFAR-10", "SVHN", "STL-10")),
    ]
    frame = pd.DataFrame(lines).assign(**changes)
    return Report("auglocal/table1", "Accuracy", frame, ("method",), auxiliary="auxiliary network")


def test_several_columns_are_laid_out_as_the_paper_does():
    text = render(printed())
    head, *body = text.splitlines()[1], *cells_of(text)
    assert re.split(r"  +", head) == [
        "method", "CIFAR-10 [%]", "SVHN [%]", "STL-10 [%]", "auxiliary network", "verdict"
    ]  # fmt: skip
    measured, paper, *rest = (re.split(r"  +", x.strip()) for x in body)
    assert measured[:5] == ["BP", "93.70 ± 0.04 (3)", "95.00 ± 0.02 (3)", NOTHING, "1 block"]
    assert paper[:3] == ["93.73 ± 0.10", "97.01 ± 0.10", "80.80 ± 0.10"]
    said = " ".join(" ".join(x[5:] if k == 0 else x[3:]) for k, x in enumerate((measured, paper)))
    words = said + " " + " ".join(" ".join(x) for x in rest if "DGL" not in x and "86.30" not in x)
    assert "CIFAR-10: reproduced; SVHN: worse" in " ".join(words.split())
    assert any(x[0] == "DGL" and x[-1] == "not run" for x in rest)
    assert "In each cell: measured ± sd (n), and under it the published number." in text
    assert as_printed(printed(verdict="not run"))[1][0]["said"] == "not run"


def test_what_has_not_one_unit_scale_or_line_a_column_is_a_line_a_cell():
    assert as_printed(coco()) is None and as_printed(table1()) is None
    assert as_printed(printed(published=None)) is None
    assert as_printed(printed(scale=["small", *["smoke"] * 5])) is None
    report = printed()
    twice = pd.concat([report.frame, report.frame.iloc[:1]])
    assert as_printed(replace(report, frame=twice)) is None


def test_claims_follow_with_a_mark_and_what_decided_them():
    lines = render(table1()).splitlines()
    assert "✗ LoCo is within 1.0 of SimCLR (68.0 against 69.6)" in lines
    assert "? GIM is below LoCo by at least 3 (GIM is not run)" in lines
    assert "✓ SimCLR is above 69 (69.6)" in lines
    assert lines[-1] == "* from SimCLR's own paper"


def test_cited_rows_are_dim_and_verdicts_coloured():
    console = Console(width=100, force_terminal=True, color_system="standard", file=io.StringIO())
    text = render(table1(), console=console)
    assert console.file.getvalue() == "", "rendering prints nothing"
    cited = next(x for x in text.splitlines() if "SimCLR*" in x)
    assert "\x1b[2m" in cited and "cited" in cited
    assert "\x1b[32mreproduced" in text and "\x1b[31mworse" in text


def test_marks_of_rich_in_a_label_are_shown_and_not_obeyed():
    report = table1()
    report.frame.loc[1, "method"] = "[bold]x[/bold] [3]"
    assert "[bold]x[/bold]" in render(report) and "[3]" in render(report)


# --- what a cell says ------------------------------------------------------------------------


def test_a_reduced_scale_is_labelled_in_every_format_for_people():
    for format in ("rich", "md", "latex"):
        assert "say nothing about the paper" in " ".join(render(table1("smoke"), format).split())
        assert "not judged" in " ".join(render(table1("small"), format).split())
        assert "Scale" not in render(table1(), format)


def test_what_is_not_comparable_says_why():
    report = table1("smoke")
    frame = report.frame.assign(verdict="not comparable", detail="scale smoke")
    text = render(replace(report, frame=frame), "md")
    assert text.count("| not comparable (scale smoke) |") == 4 and text.count("| cited |") == 1


def test_numbers_are_rounded_to_the_digits_of_print():
    more = {"decimals": 2, "verdict": "reproduced"}
    labels = {"method": "m"}
    values = [(0.63, 0.6290), (0.6, -0.6), (1.0, 0.9999999), (2.0, 2.004), (3.0, 2.9951)]
    lines = [line(labels, published, value, 1, **more) for published, value in values]
    report = Report("t", "t", pd.DataFrame(lines), ("method",))
    columns = {column.head: column.cells for column in shown_columns(report)}
    assert columns["difference"] == ["+0.00", "-1.20", "+0.00", "+0.00", "+0.00"]
    assert columns["measured [%] ± sd (n)"][:3] == ["0.63 (1)", "-0.60 (1)", "1.00 (1)"]


def test_texts_and_missing_labels_are_shown_as_they_are():
    lines = [
        line({"method": "a", "epochs": 800}, "64R-AP-10FC", decimals=None, unit=""),
        line({"method": "b"}, 3.25, 3.5, 1, asked=0, decimals=None, unit=""),
    ]
    columns = shown_columns(Report("t", "t", pd.DataFrame(lines), ("method", "epochs")))
    shown = {column.head: column.cells for column in columns}
    assert shown["epochs"] == ["800", ""] and shown["published"] == ["64R-AP-10FC", "3.25"]
    assert shown["measured ± sd (n)"][1] == "3.5" and "decoder" not in shown


def of_seeds():
    """Cells of three seeds: all done, one lost, none done, and a cost, which has no seed."""
    more = {"scale": "smoke", "verdict": "not comparable", "detail": "scale smoke", "asked": 3}
    two = {**more, "unfinished": "1 failed"}
    none = {**more, "verdict": "diverged", "unfinished": "1 diverged, 2 not run"}
    cost = {**more, "verdict": "reproduced", "asked": 0, "decimals": 2}
    lines = [
        line({"method": "all"}, 69.5, 40.75, 3, 0.25, **more),
        line({"method": "two"}, 69.5, 40.5, 2, 0.125, **two),
        line({"method": "one"}, 69.5, 40.5, 1, **{**two, "unfinished": "2 not run"}),
        line({"method": "none"}, 69.5, **none),
        line({"method": "cost"}, 0.25, 0.25, 1, **cost),
        line({"method": "own"}, None, 40.5, 2, 0.1, **{**two, "verdict": "", "baseline": True}),
    ]
    return Report("t", "t", pd.DataFrame(lines), ("method",))


SEEDS = {
    "all": ("40.8 ± 0.25 (3)", "not comparable (scale smoke)"),
    "two": ("40.5 ± 0.12 (2 of 3)", "not comparable (scale smoke); 1 failed"),
    "one": ("40.5 (1 of 3)", "not comparable (scale smoke); 2 not run"),
    "none": (NOTHING, "diverged; 1 diverged, 2 not run"),
    "cost": ("0.25", "reproduced"),
    "own": ("40.5 ± 0.10 (2 of 3)", "baseline; 1 failed"),
}


@pytest.mark.parametrize("format", ["rich", "md", "latex"])
def test_seeds_are_told_in_every_format_for_people(format):
    lines = render(of_seeds(), format).splitlines()
    rows = {name: next(x for x in lines if re.match(rf"\W*{name} ", x)) for name in SEEDS}
    for name, (cell, verdict) in SEEDS.items():
        cell = cell.replace("±", r"$\pm$").replace(NOTHING, "--") if format == "latex" else cell
        cells = re.split(r" *[|&] *| {2,}", rows[name].strip("| \\"))
        assert cell in cells and rows[name].rstrip("| \\").endswith(verdict), rows[name]
    unit = r"[\%]" if format == "latex" else "[%]"
    assert f"measured {unit}" in "".join(lines)


def test_what_has_no_seed_has_no_column_of_seeds():
    lines = [line({"method": "a"}, 0.25, 0.25, 1, asked=0)]
    heads = [c.head for c in shown_columns(Report("t", "t", pd.DataFrame(lines), ("method",)))]
    assert "measured [%]" in heads


def test_seeds_are_exact_for_programs():
    rows = list(csv.DictReader(io.StringIO(render(of_seeds(), "csv"))))
    cells = json.loads(render(of_seeds(), "json"))["cells"]
    for row, cell in zip(rows, cells, strict=True):
        for key in ("n", "asked", "spread", "measured"):
            assert (float(row[key]) if row[key] else None) == cell[key]
        assert row["unfinished"] == (cell["unfinished"] or "")
    assert [cell["spread"] for cell in cells] == [0.25, 0.125, None, None, None, 0.1]
    assert [cell["n"] for cell in cells] == [3, 2, 1, 0, 1, 2]


def test_seeds_are_told_in_the_papers_own_layout():
    more = {"scale": "smoke", "verdict": "not comparable", "detail": "scale smoke", "asked": 3}
    names = ("CIFAR-10", "SVHN", "STL-10")
    told = ((3, 0.125, ""), (2, 0.25, "1 failed"), (1, None, "2 not run"))
    lines = [
        line({"method": "BP"}, 93.73, 40.5, n, spread, column=column, decimals=2,
             published_std=0.04, unfinished=rest, **more)
        for column, (n, spread, rest) in zip(names, told, strict=True)
    ]  # fmt: skip
    report = Report("t", "t", pd.DataFrame(lines), ("method",))
    columns, _ = as_printed(report)
    cells = {c.head: c.cells[0] for c in columns}
    assert cells["CIFAR-10 [%]"] == "40.50 ± 0.12 (3)\n93.73 ± 0.04"
    assert cells["SVHN [%]"] == "40.50 ± 0.25 (2 of 3)\n93.73 ± 0.04"
    assert cells["STL-10 [%]"] == "40.50 (1 of 3)\n93.73 ± 0.04"
    assert cells["verdict"] == (
        "CIFAR-10: not comparable (scale smoke); SVHN: not comparable (scale smoke); 1 failed; "
        "STL-10: not comparable (scale smoke); 2 not run"
    )
    shown = render(report)
    assert max(map(len, shown.splitlines())) <= WIDTH and "(2 of 3)" in shown


def test_long_texts_of_a_table_are_wrapped_between_words():
    text = "[1x1 conv 256 g2, 3x3 conv 256 g2, 1x1 conv 1024] x1 + [1x1 conv 256 g2] x2"
    lines = [line({"stage": f"res{k}"}, text, decimals=None, unit="") for k in (4, 5)]
    report = Report("t", "t", pd.DataFrame(lines), ("stage",), footnotes=("note",))
    shown = render(report, console=Console(width=70, file=io.StringIO()))
    assert max(map(len, shown.splitlines())) <= 70
    body = cells_of(shown)
    assert all(word in " ".join(body).split() for word in text.split())


def test_scales_are_a_column_where_they_differ():
    report = table1()
    report.frame.loc[1, "scale"] = "small"
    assert "scale" in [column.head for column in shown_columns(report)]
    assert "scale" not in [column.head for column in shown_columns(table1())]


def test_without_published_numbers_there_are_no_columns_for_them():
    lines = [line({"method": m}, None, 5.0, 1, verdict="", baseline=True) for m in ("a", "b")]
    report = Report("t", "t", pd.DataFrame(lines), ("method",))
    heads = [column.head for column in shown_columns(report)]
    assert heads == ["method", "measured [%] ± sd (n)"]
    assert shown_columns(report)[1].cells == ["5.0 (1)", "5.0 (1)"]


def test_a_unit_that_all_cells_share_stands_in_the_head():
    lines = [line({"method": "a"}, 1.0, column=column) for column in ("CIFAR-10", "SVHN")]
    shown = shown_columns(Report("t", "t", pd.DataFrame(lines), ("method",)))
    assert shown[1].cells == ["CIFAR-10", "SVHN"] and shown[2].head == "measured [%] ± sd (n)"
    shown = shown_columns(coco())
    assert shown[3].cells[-1] == "memory [GB]" and shown[4].head == "measured ± sd (n)"


def test_heads_are_short_only_where_a_terminal_is_narrow():
    wide = render(table1(), console=Console(width=160, file=io.StringIO()))
    assert "published" in wide and "difference" in wide and "diff." not in wide
    narrow = render(table1(), console=Console(width=80, file=io.StringIO()))
    assert "published" not in narrow and "paper" in narrow and "diff." in narrow


def test_room_is_taken_where_it_costs_the_fewest_lines():
    """One long text gives way before a column of long texts does."""
    texts = ["one two three four five", *["ten letters"] * 4]
    lines = [line({"a": text, "b": "x" * 8 + " " + "y" * 8}, 1.0) for text in texts]
    report = Report("t", "t", pd.DataFrame(lines), ("a", "b"))
    body = cells_of(render(report, console=Console(width=62, file=io.StringIO())))
    assert len(body) == len(texts) + 2, "only the first text takes three lines"


def test_a_quiet_report_does_not_repeat_what_the_scale_means():
    for format in ("rich", "md", "latex"):
        text = render(replace(table1("smoke"), quiet=True), format)
        assert "Scale smoke" not in text and "SimCLR's own paper" in text


# --- for programs ----------------------------------------------------------------------------


@pytest.mark.parametrize("report", [table1(), table1("smoke"), coco()], ids=lambda r: r.name)
def test_csv_and_json_hold_every_field_at_machine_precision(report):
    rows = list(csv.DictReader(io.StringIO(render(report, "csv"))))
    parsed = json.loads(render(report, "json"))
    lines = report.frame.to_dict("records")
    assert len(rows) == len(parsed["cells"]) == len(lines)
    for row, cell, original in zip(rows, parsed["cells"], lines, strict=True):
        assert list(row) == list(cell) == list(original)
        for key, value in original.items():
            if value is None or value != value:
                assert row[key] == "" and cell[key] is None
            elif isinstance(value, float):
                assert float(row[key]) == value == cell[key]
            else:
                assert row[key] == str(value) and cell[key] == value


def test_json_holds_table_cells_and_claims():
    parsed = json.loads(render(table1(), "json"))
    assert parsed["table"] == "loco/table1" and parsed["labels"] == ["network", "method"]
    assert [claim["holds"] for claim in parsed["claims"]] == [False, None, True]
    assert parsed["claims"][0]["detail"] == "68.0 against 69.6"
    strange = table1()
    strange.frame.loc[1, "measured"] = float("inf")
    assert json.loads(render(strange, "json"))["cells"][1]["measured"] is None


def test_an_unknown_format_is_suggested():
    with pytest.raises(UserError, match="did you mean 'json'"):
        render(table1(), "jsn")
    for format in FORMATS:
        assert render(table1(), format).endswith("\n")


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


def test_a_table_of_long_heads_fits_a_terminal_of_100_columns():
    plan = make_plan(load_table("loco/table2"), Options())
    shown = commands.render(plan, reference_store(), "rich").splitlines()
    assert max(map(len, shown)) <= 100
    assert any("LoCo" in line and "(1)" in line for line in shown)
    assert any("box [%]" in line and "COCO AP box" not in line for line in shown)
