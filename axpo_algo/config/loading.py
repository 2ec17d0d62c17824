"""Turns YAML files and command-line overrides into nested frozen dataclasses, and back.

A command line is any mix of `recipe=NAME` (a file of this package), `--config FILE`, `key=value` and
`--key value`, with dotted keys for what is nested. Files are merged first, in the order given, then the
overrides; mappings merge, everything else replaces. Names are checked by `axpo_algo.config.schema`, types by
jsonargparse, ranges by each dataclass itself. What the fields mean stands under them, in the dataclasses.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from axpo_algo.config.schema import (
    ConfigError,
    complete,
    dataclass_in,
    defaults,
    field_lines,
    known_keys,
    merge,
    plain,
)
from axpo_sandbox.names import unknown_name

Config = TypeVar("Config")


def load_config(argv: Sequence[str], cls: type[Config]) -> Config:
    """Builds a `cls` from command-line arguments (without the program's name).

    Raises ConfigError naming what was given, what is known and the nearest match. `--help` prints every key
    and exits.
    """
    if any(argument in ("-h", "--help") for argument in argv):
        print(describe(cls))
        raise SystemExit(0)
    known = known_keys(cls)
    files, overrides = _split_arguments(argv, known)
    values = defaults(cls)
    for path in files:
        values = merge(values, _read_yaml(path))
    for key, text in overrides:
        _set(values, key, text, known.get(key))
    return config_from_mapping(values, cls)


def load_config_or_exit(argv: Sequence[str], cls: type[Config]) -> Config:
    """`load_config` for a command: a ConfigError becomes one line on stderr and exit status 2."""
    try:
        return load_config(argv, cls)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def with_default_recipe(argv: Sequence[str], recipe: str) -> list[str]:
    """The arguments of a command, led by `recipe=RECIPE` where they name neither a recipe nor a file."""
    named = any(argument.startswith(("recipe=", "--recipe", "--config")) for argument in argv)
    return [*argv] if named else [f"recipe={recipe}", *argv]


def config_from_mapping(values: Mapping[str, Any], cls: type[Config]) -> Config:
    """Builds a `cls` from a nested mapping, such as a parsed YAML file; what is left out takes its default.

    Raises ConfigError for an unknown key, a wrong type or a value out of range.
    """
    completed = complete(values, cls)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls)
    try:
        return cls(**vars(parser.instantiate(parser.parse_object(completed))))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


def config_from_file(path: Path | str, cls: type[Config]) -> Config:
    """Builds a `cls` from a YAML file, such as the config.yaml of a run. Raises ConfigError."""
    return config_from_mapping(_read_yaml(Path(path)), cls)


def to_yaml(config: Any) -> str:
    """The YAML text of a configuration, every field written out; loading it gives an equal configuration."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def recipe_names() -> list[str]:
    """Names that `recipe=NAME` accepts, sorted."""
    entries = (resources.files("axpo_algo") / "recipes").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def describe(cls: type) -> str:
    """What `--help` prints: the ways to say something, the recipes, and a line for every key."""
    usage = "arguments: [recipe=NAME] [--config FILE] [KEY=VALUE | --KEY VALUE ...]"
    return "\n".join([usage, f"recipes: {', '.join(recipe_names())}", "", *field_lines(cls)])


def _split_arguments(
    argv: Sequence[str], known: Mapping[str, Any]
) -> tuple[list[Path], list[tuple[str, str]]]:
    """Sorts arguments into files to read and (dotted key, text) overrides, both in order."""
    files: list[Path] = []
    overrides: list[tuple[str, str]] = []
    for key, value in _pairs(argv, known):
        if key == "recipe":
            files.append(_recipe_path(value))
        elif key == "config":
            files.append(Path(value))
        else:
            overrides.append((key, value))
    return files, overrides


def _pairs(argv: Sequence[str], known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, value) of each argument. A switch alone, `--resume`, means true where the field is a bool."""
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if equals:
            yield key, value
        elif not argument.startswith("--"):
            raise ConfigError(f"expected KEY=VALUE or --KEY VALUE, got {argument!r}")
        elif known.get(key) is bool and (not waiting or waiting[0].lower() not in ("true", "false")):
            yield key, "true"
        elif not waiting:
            raise ConfigError(f"{argument} needs a value")
        else:
            yield key, waiting.pop(0)


def _recipe_path(name: str) -> Path:
    names = recipe_names()
    if name not in names:
        raise ConfigError(unknown_name("recipe", name, names))
    return Path(str(resources.files("axpo_algo") / "recipes" / f"{name}.yaml"))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    values = _parse_yaml(text, str(path))
    if values is None:  # an empty file, or comments alone
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not a {type(values).__name__}")
    return values


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def _set(values: dict[str, Any], key: str, text: str, annotation: Any) -> None:
    """Writes one override into nested `values`; a number in the path is an item: `sft.phases.0.num_steps`."""
    *path, last = key.split(".")
    place: Any = values
    for depth, name in enumerate(path):
        if isinstance(place, dict):
            if place.get(name) is None:
                place[name] = {}
            place = place[name]
        else:
            place = place[_index(place, name, ".".join(path[:depth]))]
    # What holds dataclasses is parsed here, so that the keys in it are checked by name. The rest stays text
    # for jsonargparse to type: "7" is a number where a number is wanted and a name where a name is.
    value = text if dataclass_in(annotation) is None else _parse_yaml(text, key)
    if isinstance(place, dict):
        place[last] = value
    else:
        place[_index(place, last, ".".join(path))] = value


def _index(items: Any, name: str, key: str) -> int:
    if not isinstance(items, list):
        raise ConfigError(f"{key!r} is a single value and has no {name!r}")
    if not name.isdecimal() or int(name) >= len(items):
        raise ConfigError(f"{key!r} has {len(items)} items, counted from 0; got {name!r}")
    return int(name)
