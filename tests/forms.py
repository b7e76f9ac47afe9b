"""Every form of a rule that a table asks for: its settings, read from the table files."""

from __future__ import annotations

from typing import Any

from locbench.published.load import load_table, table_names

Form = tuple[str, dict[str, Any]]


def _every() -> list[Form]:
    """Each once, in the order of the tables."""
    forms: list[Form] = []
    for name in table_names():
        for fill in (cell.fill or {} for cell in load_table(name).cells()):
            sets = fill.get("set", {}).items()
            settings = {k.removeprefix("rule."): v for k, v in sets if k.startswith("rule.")}
            if "rule" in fill and settings and (fill["rule"], settings) not in forms:
                forms.append((fill["rule"], settings))
    return forms


def _few(forms: list[Form]) -> list[Form]:
    """Those, longest first, that have a setting, a word, a switch or a 0, 1 or 2 of their own.

    Of depths and factors, of which the tables have many sizes, one is enough.
    """
    few, seen = [], set()
    for rule, settings in sorted(forms, key=lambda form: -len(form[1])):
        parts = {
            (rule, key, value if isinstance(value, str) or value in (0, 1, 2) else "any")
            for key, value in settings.items()
        }
        if not parts <= seen:
            few.append((rule, settings))
        seen |= parts
    return few


FORMS = _few(_every())


def form_name(value: Any) -> str | None:
    """A form as the name of a test."""
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None
