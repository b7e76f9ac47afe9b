"""Defaults are part of every identity: one whose value changes raises its section's version."""

import dataclasses
import json
from pathlib import Path

import pytest

from locbench.plugins.registry import KINDS, RULES
from locbench.recipes.identity import differing, differing_keys
from locbench.recipes.schema import SECTIONS

FORMS = {form.__name__: form for forms in SECTIONS.values() for form in forms}

# Versions and defaults as they were when the committed records were made. A new setting whose
# default changes nothing is added there; a default with another value raises its version as well.
PINS = json.loads((Path(__file__).parent / "defaults.json").read_text())


def section(form):
    values = {field.name: field.default for field in dataclasses.fields(form)}
    return {"version": form.VERSION, "defaults": json.loads(json.dumps(values))}


TODAY = {
    "sections": {name: section(form) for name, form in FORMS.items()},
    "rules": {
        entry.name: {"version": entry.version, "defaults": entry.settings}
        for entry in RULES
        if not entry.source
    },
}


@pytest.mark.parametrize("kind", TODAY)
def test_a_default_that_changes_raises_the_version_of_its_section_or_rule(kind):
    assert TODAY[kind].keys() == PINS[kind].keys()
    for name, today in TODAY[kind].items():
        pin = PINS[kind][name]
        if today["version"] == pin["version"]:
            moved = [k for k, v in pin["defaults"].items() if today["defaults"].get(k) != v]
            assert not moved, f"{name}: the default of {moved[0]} changed: raise its version"
        assert today == pin, f"{name}: write its version and defaults of today to defaults.json"


def test_only_what_differs_is_in_an_identity():
    schedule, sgd = FORMS["Schedule"], FORMS["SGD"]
    assert differing(schedule()) == {} and differing(schedule(epochs=2)) == {"epochs": 2}
    assert differing(sgd()) == {"name": "sgd"}, "another form of the section"
    assert differing(FORMS["Probe"](milestones=(3, 6))) == {"milestones": [3, 6]}


def test_a_raised_version_is_in_an_identity(monkeypatch):
    monkeypatch.setattr(FORMS["Schedule"], "VERSION", 2)
    assert differing(FORMS["Schedule"]()) == {"defaults": 2}
    monkeypatch.setattr(FORMS["Augmentation"], "VERSION", 3)
    for form in ("Augmentation", "Crop"):  # the values of any form are told from the first's
        assert differing_keys(FORMS[form](), ("mean",))["defaults"] == 3


@pytest.mark.parametrize("name", KINDS.names())
def test_a_kind_of_run_says_what_it_is(name):
    kind = KINDS.get(name)
    assert kind.name == name and kind.metrics and kind.__doc__
