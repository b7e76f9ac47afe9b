"""Every form of a rule that a table asks for: its settings, read from the table files."""

from __future__ import annotations

from typing import Any

from locbench.plugins.registry import RULES
from locbench.published.load import load_table, table_names

Form = tuple[str, dict[str, Any]]


def _every() -> list[Form]:
    """Each once, in the order of the tables: what is not the rule's default."""
    forms: list[Form] = []
    for fill in (cell.fill or {} for name in table_names() for cell in load_table(name).cells()):
        if (rule := fill.get("rule")) not in RULES:
            continue
        defaults = RULES.entry(rule).settings.items()
        sets = fill.get("set", {})
        form = {k: v for k, default in defaults if (v := sets.get(f"rule.{k}", default)) != default}
        if form and (rule, form) not in forms:
            forms.append((rule, form))
    return forms


def _few(forms: list[Form]) -> list[Form]:
    """Those, longest first, that have a setting, a word, a switch or a 0, 1 or 2 of their own.

    Of depths and factors, of which the tables have many sizes, one is enough.
    """
    few, seen = [], set()
    for rule, settings in sorted(forms, key=lambda form: -len(form[1])):
        parts = {
            (rule, key, value if isinstance(value, str) or value in range(3) else "any")
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
