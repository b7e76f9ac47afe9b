"""A training protocol: TOML read into frozen dataclasses, with scales, profiles and overrides.

What decides a value, the later over the earlier: the defaults below; the file that `extends`
names; the file itself; their [probe.profiles.NAME] of the chosen probe profile; what a table's cell
sets; the [scales.SCALE] of both files; the [scales.SCALE.probe.profiles.NAME] of both; the
overrides of the command line. Every value is checked where it is written, also in scales and
profiles that are not asked for, so that an error names the file and the key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from locbench.errors import UserError
from locbench.paths import recipes_dir
from locbench.plugins.entry import suggest
from locbench.recipes.constraints import check_together, check_units
from locbench.recipes.reading import errors_at, merge, read_toml, typed
from locbench.recipes.recipe import SCALES, Recipe
from locbench.recipes.schema import OPTIONAL, SECTIONS, Probe
from locbench.recipes.validation import FREE, build_form, check_dotted, check_section, overlay


def recipe_names() -> list[str]:
    """Names of the recipes that come with locbench, such as 'loco/imagenet', sorted."""
    root = recipes_dir()
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.toml"))


def load_recipe(
    name: str,
    scale: str = "paper",
    overrides: Mapping[str, Any] | None = None,
    cell: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe `name` ('loco/imagenet', or the path of a .toml file) at a scale.

    `overrides` are values by dotted key, {"optimizer.lr": 0.4}, over everything; `cell` are those
    that a table's cell sets, under the scale's: a row of 100 epochs keeps the epochs of `smoke`.
    Text given for a key that is not text is read as TOML. Raises UserError with the file (or the
    override), the key and the nearest known one for anything unknown, ill-typed or out of range.
    """
    if scale not in SCALES:
        raise UserError(f"unknown scale '{scale}'{suggest(scale, SCALES)}")
    files = _files(name)
    paper, *scaled = _layers(files, name, scale)
    groups = [
        paper,
        [_Layer(check_dotted(cell or {}, where="the cell's set"), {})],
        *scaled,
        [_Layer(check_dotted(overrides or {}, where="override"), {})],
    ]
    profile = _choose_profile(groups, files[-1].path)
    values = _merge(groups, profile)
    values["probe"]["profile"] = profile
    title = next((f.title for f in reversed(files) if f.title), "")
    note = next((f.notes[scale] for f in reversed(files) if f.notes.get(scale)), "")
    where = f"{files[-1].path} at scale {scale}" + (" with overrides" if overrides or cell else "")
    heads = {"name": name.removesuffix(".toml"), "scale": scale, "title": title, "note": note}
    return _build(values, heads, where)


def load_joint(
    name: str,
    downstream: str | None,
    scale: str = "paper",
    overrides: Mapping[str, Any] | None = None,
    cell: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe `name` with the [detection] of the recipe `downstream`, if one is given.

    Overrides, and what a cell sets, go to the one of the two whose section they name.
    """
    if downstream is None:
        return load_recipe(name, scale, overrides, cell)

    def part(values: Mapping[str, Any] | None, detection: bool) -> dict[str, Any]:
        given = (values or {}).items()
        return {key: v for key, v in given if key.startswith("detection.") is detection}

    recipe = load_recipe(name, scale, part(overrides, False), part(cell, False))
    changes = part(overrides, True)
    detection = load_recipe(downstream, scale, changes, part(cell, True)).detection
    if detection is None:
        raise UserError(f"recipe '{downstream}' has no section [detection]")
    if changes:
        check_units(changes, load_recipe(downstream, scale).detection, detection)
    leaf = downstream.removesuffix(".toml").split("/")[-1]
    return dataclasses.replace(recipe, detection=detection, downstream=leaf)


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with other values by dotted key, under the checks of `load_recipe`.

    A probe profile is looked up in the file the recipe was read from, at its scale.
    """
    values = recipe.as_dict()
    if "probe.profile" in overrides:
        chosen = {"probe.profile": overrides["probe.profile"]}
        values["probe"] = load_recipe(recipe.name, recipe.scale, chosen).as_dict()["probe"]
    for section, entries in check_dotted(overrides, where="override").items():
        values[section] = overlay(section, values[section], entries)
    return recipe_from_dict(values, f"{recipe.name} with overrides")


def recipe_from_dict(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that `as_dict()` wrote, under the same checks; `where` begins an error's line."""
    for key in ("name", "scale"):
        if not isinstance(values.get(key), str):
            raise UserError(f"{where}: the recipe has no '{key}'; run it again")
    if values["scale"] not in SCALES:
        raise UserError(f"{where}: unknown scale '{values['scale']}'; run it again")
    names = ("name", "scale", "title", "note", "downstream")
    heads = {key: values[key] for key in names if key in values}
    sections = {k: v for k, v in values.items() if k not in names}
    checked = {s: check_section(s, entries, where=where) for s, entries in sections.items()}
    return _build(checked, heads, where)


# --- files -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """Checked values by section, and those of the probe by profile."""

    sections: dict[str, dict[str, Any]]  # shared by all recipes of the file: they copy
    profiles: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _File:
    path: Path
    title: str
    extends: str | None
    notes: dict[str, str]
    paper: _Layer
    scales: dict[str, _Layer]


def _files(name: str) -> list[_File]:
    """The file, after the one it extends if it does."""
    file = _read(recipe_path(name))
    if file.extends is None:
        return [file]
    with errors_at(f"{file.path}: extends '{file.extends}'"):
        base = _read(recipe_path(file.extends))
    if base.extends is not None:
        raise UserError(
            f"{file.path}: extends '{file.extends}', which itself extends '{base.extends}'; "
            "one level is allowed, so extend that one"
        )
    return [base, file]


def recipe_path(name: str) -> Path:
    """The file of a recipe; a file's own name may lack its .toml, as in `Recipe.name`.

    UserError, with the nearest name, where there is none.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such recipe file")
        return path
    for path in (recipes_dir() / f"{name}.toml", Path(f"{name}.toml")):
        if path.is_file():
            return path
    raise UserError(f"unknown recipe '{name}'{suggest(name, recipe_names())}")


def _read(path: Path) -> _File:
    """The file, which is read and checked once as long as it stays as it is."""
    status = path.stat()
    return _read_anew(path, status.st_ino, status.st_mtime_ns, status.st_size)


@cache
def _read_anew(path: Path, *version: int) -> _File:
    table = read_toml(path)
    title = typed(table.pop("title", ""), str, where=f"{path}: title")
    extends = typed(table.pop("extends", None), str | None, where=f"{path}: extends")
    scales = typed(table.pop("scales", {}), dict, where=f"{path}: scales")
    for scale in scales:
        if scale not in SCALES[1:]:
            raise UserError(f"{path}: unknown scale '{scale}'{suggest(scale, SCALES[1:])}")
    notes = {
        scale: typed(entries.pop("note", ""), str, where=f"{path}: scales.{scale}: note")
        for scale, entries in scales.items()
        if isinstance(entries, dict)
    }
    return _File(
        path=path,
        title=title,
        extends=extends,
        notes=notes,
        paper=_layer(table, str(path), ("title", "extends", "scales")),
        scales={scale: _layer(t, f"{path}: scales.{scale}") for scale, t in scales.items()},
    )


def _layer(table: Any, where: str, heads: tuple[str, ...] = ()) -> _Layer:
    """The sections of a file or of one of its scales; `heads` are what else may stand there."""
    sections: dict[str, dict[str, Any]] = {}
    profiles: dict[str, dict[str, Any]] = {}
    for section, entries in typed(table, dict, where=where).items():
        if section not in SECTIONS and section not in FREE:
            near = suggest(section, (*SECTIONS, *FREE, *heads))
            raise UserError(f"{where}: unknown section or key '{section}'{near}")
        if section == "probe" and isinstance(entries, dict):
            entries = dict(entries)
            profiles = _profiles(entries.pop("profiles", {}), where)
        sections[section] = check_section(section, entries, where=where)
    return _Layer(sections, profiles)


def _profiles(table: Any, where: str) -> dict[str, dict[str, Any]]:
    for name, entries in typed(table, dict, where=f"{where}: probe.profiles").items():
        if isinstance(entries, dict) and "profile" in entries:
            raise UserError(f"{where}: [probe.profiles.{name}] cannot choose a profile itself")
    return {
        name: check_section("probe", entries, where=f"{where}: probe.profiles.{name}")
        for name, entries in table.items()
    }


def _layers(files: list[_File], name: str, scale: str) -> list[list[_Layer]]:
    """What applies at a scale: the paper's layers of all files, then the scale's of all files."""
    paper = [file.paper for file in files]
    if scale == "paper":
        return [paper]
    scaled = [file.scales[scale] for file in files if scale in file.scales]
    if not scaled:
        # Going on would run the paper's budget under another scale's name.
        raise UserError(
            f"recipe '{name}' has no scale '{scale}'; "
            f"add a [scales.{scale}] section to {files[-1].path}"
        )
    return [paper, scaled]


def _merge(groups: list[list[_Layer]], profile: str) -> dict[str, dict[str, Any]]:
    """Values by section; in each group the probe's profile is over what its files say of probes."""
    values: dict[str, dict[str, Any]] = {"probe": {}}
    for group in groups:
        for layer in group:
            for section, entries in layer.sections.items():
                if section == "rules":
                    entries = merge(values.get(section, {}), entries)
                values[section] = overlay(section, values.get(section, {}), entries)
        for layer in group:
            values["probe"].update(layer.profiles.get(profile, {}))
    return values


def _choose_profile(groups: list[list[_Layer]], path: Path) -> str:
    """The probe profile asked for; the one that [probe] itself describes needs no section."""

    def names(layers: Iterable[_Layer]) -> list[str]:
        chosen = (layer.sections.get("probe", {}).get("profile") for layer in layers)
        return [name for name in chosen if name]

    layers = [layer for group in groups for layer in group]
    first = [*names(groups[0]), Probe().profile][0]
    profile = [first, *names(layers)][-1]
    profiles = {first, *(name for layer in layers for name in layer.profiles)}
    if profile not in profiles:
        near = suggest(profile, sorted(profiles))
        raise UserError(f"{path}: unknown value '{profile}' for probe.profile{near}")
    return profile


# --- the whole -------------------------------------------------------------------------------


def _build(values: Mapping[str, dict[str, Any]], heads: Mapping[str, str], where: str) -> Recipe:
    sections = {}
    for section in SECTIONS:
        entries = values.get(section, {})
        if section in OPTIONAL and not entries:
            continue
        sections[section] = build_form(section, entries, where=where)
    free = {section: dict(values.get(section, {})) for section in FREE}
    recipe = Recipe(**heads, **free, **sections)
    check_together(recipe, where)
    return recipe
