"""Reads a rule's settings, summary and kind of data from its source code, without importing it."""

from __future__ import annotations

import ast
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from locbench.errors import UserError

FIRST = "network"  # what a rule's first parameter is called
LEARNS = ("views", "label")  # what a rule may learn from; the first where it does not say
SETTINGS = (bool, int, float, str)  # types that a setting may have


def one_line(error: BaseException) -> str:
    """An error's class and text in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def parsed(text: bytes, where: str) -> ast.Module:
    """The syntax tree of a file; UserError with the line for what is not Python."""
    try:
        return ast.parse(text)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{where}{line}: not Python: {error.msg}") from error
    except ValueError as error:  # a null byte
        raise UserError(f"{where}: not Python: {error}") from error


def functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """The functions at the top level, by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def expected(name: str) -> str:
    """The end of an error line: what a rule looks like."""
    return f"expected a function {name}({FIRST}, *, setting=default) that returns a list of Units"


def is_rule(function: ast.FunctionDef) -> bool:
    """Whether its first parameter is the network."""
    positional = [*function.args.posonlyargs, *function.args.args]
    return bool(positional) and positional[0].arg == FIRST


def settings(function: ast.FunctionDef, where: str) -> dict[str, Any]:
    """A rule's keyword-only arguments and their defaults.

    UserError for one without a default that can be read, and for other arguments after the network.
    """
    arguments, where = function.args, f"{where}, line {function.lineno}: {function.name}"
    others = [*arguments.posonlyargs, *arguments.args][1:]
    others += [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    if others:
        raise UserError(
            f"{where}: '{others[0].arg}' is no setting: a rule takes {FIRST}, then keyword-only "
            f"settings with defaults, as in def {function.name}({FIRST}, *, weight=0.5)"
        )
    defaults = {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        try:
            value = None if default is None else ast.literal_eval(default)
        except ValueError:
            value = None
        if type(value) not in SETTINGS:
            raise UserError(
                f"{where}: setting '{argument.arg}' needs a number, a text, True or False, written "
                "out, as its default"
            )
        defaults[argument.arg] = value
    return defaults


def learns(tree: ast.Module, where: str) -> str:
    """What LEARNS, a constant of the module, says; UserError for what no rule learns from."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not any(isinstance(target, ast.Name) and target.id == "LEARNS" for target in targets):
            continue
        value = getattr(getattr(node, "value", None), "value", None)
        if value not in LEARNS:
            raise UserError(f'{where}, line {node.lineno}: LEARNS must be "views" or "label"')
        return value
    return LEARNS[0]


def summary(function: ast.FunctionDef) -> str:
    """The first line of its docstring."""
    return (ast.get_docstring(function) or "").partition("\n")[0]


def module_file(module: str) -> Path:
    """Where the source of a module lies, though no package of it is imported.

    Raises ImportError where there is no such module, or it has no source.
    """
    package, *rest = module.split(".")
    name, spec = package, find_spec(package)
    for part in rest:
        name, folders = f"{name}.{part}", spec and spec.submodule_search_locations
        spec = PathFinder.find_spec(name, folders) if folders is not None else None
    if spec is None or not spec.has_location or spec.origin is None:
        raise ImportError(f"no module {module}")
    return Path(spec.origin)
