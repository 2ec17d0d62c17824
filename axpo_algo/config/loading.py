"""Turns YAML files and command-line overrides into nested frozen dataclasses, and back.

A command line is any mix of `recipe=NAME` (a file of this package), `--config FILE`, `key=value` and
`--key value`, with dotted keys for what is nested. Files are merged first, in the order given, then the
overrides; mappings merge, everything else replaces. An override is YAML where its field is not a text. Names are
checked by `axpo_algo.config.schema`, types by jsonargparse, ranges by each dataclass itself. What the fields mean
stands under them, in the dataclasses.
"""

import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, get_loader, set_loader

from axpo_algo.config.schema import (
    ConfigError,
    annotation_of,
    complete,
    defaults,
    field_lines,
    merge,
    plain,
    split_keys,
)
from axpo_sandbox.names import nearest_name, shorten, unknown_name

Config = TypeVar("Config")

_MODE = "values"
set_loader(_MODE, lambda value: value)  # texts are parsed here, once; jsonargparse would parse them again
_yaml_load = get_loader("yaml")  # as PyYAML's safe_load, but 1e-5 is a number


def load_config(
    argv: Sequence[str],
    cls: type[Config],
    *,
    base: Mapping[str, Any] | None = None,
    wider: type | None = None,
) -> Config:
    """Builds a `cls` from command-line arguments (without the program's name).

    base: laid over the defaults before everything that the arguments name. wider: a class whose further keys may
    be given too, and are left out. Raises ConfigError naming what was given, what is known and the nearest match.
    `--help` prints every key and exits.
    """
    print_help(argv, cls)
    files, overrides = _split_arguments(argv, cls)
    values = defaults(wider or cls)
    for layer in (base or {}, *map(read_yaml, files)):
        values = merge(values, layer)
    for key, text in overrides:
        annotation = annotation_of(cls, key)
        if annotation is None and wider is not None:
            annotation = annotation_of(wider, key)
        _set(values, key, text, annotation)
    if wider is not None:
        values = merge(defaults(cls), split_keys(values, cls, wider))
    return config_from_mapping(values, cls)


def print_help(argv: Sequence[str], cls: type) -> None:
    """Prints every key and exits where the arguments ask for it."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(describe(cls))
        raise SystemExit(0)


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


def given_keys(argv: Sequence[str], cls: type) -> list[str]:
    """The keys that the arguments set, in order, `recipe` and `config` among them."""
    return [key for key, _ in _pairs(argv, cls)]


def given_values(argv: Sequence[str], cls: type) -> dict[str, str]:
    """Key -> the text that the arguments give it; the last one counts."""
    return dict(_pairs(argv, cls))


def config_from_mapping(values: Mapping[str, Any], cls: type[Config]) -> Config:
    """Builds a `cls` from a nested mapping, such as a parsed YAML file; what is left out takes its default.

    Raises ConfigError for an unknown key, a wrong type or a value out of range.
    """
    completed = complete(values, cls)
    parser = ArgumentParser(exit_on_error=False, parser_mode=_MODE)
    parser.add_class_arguments(cls)
    try:
        return cls(**vars(parser.instantiate(parser.parse_object(completed))))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


def config_from_file(path: Path | str, cls: type[Config]) -> Config:
    """Builds a `cls` from a YAML file, such as the config.yaml of a run. Raises ConfigError."""
    return config_from_mapping(read_yaml(Path(path)), cls)


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


def _split_arguments(argv: Sequence[str], cls: type) -> tuple[list[Path], list[tuple[str, str]]]:
    """Sorts arguments into files to read and (dotted key, text) overrides, both in order."""
    files: list[Path] = []
    overrides: list[tuple[str, str]] = []
    for key, value in _pairs(argv, cls):
        if key == "recipe":
            files.append(_recipe_path(value))
        elif key == "config":
            files.append(Path(value))
        else:
            overrides.append((key, value))
    return files, overrides


def _pairs(argv: Sequence[str], cls: type) -> Iterator[tuple[str, str]]:
    """(key, value) of each argument. A switch alone, `--resume`, means true where the field is a bool."""
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if equals:
            yield key, value
        elif not argument.startswith("--"):
            raise ConfigError(f"expected KEY=VALUE or --KEY VALUE, got {argument!r}")
        elif annotation_of(cls, key) is bool and (not waiting or waiting[0].lower() not in ("true", "false")):
            yield key, "true"
        elif not waiting:
            raise ConfigError(f"{argument} needs a value")
        else:
            yield key, waiting.pop(0)


def _recipe_path(name: str) -> Path:
    names = recipe_names()
    if name not in names:
        file = f"; a file is given as --config {name}" if Path(name).is_file() else ""
        raise ConfigError(unknown_name("recipe", name, names) + file)
    return Path(str(resources.files("axpo_algo") / "recipes" / f"{name}.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys that a YAML file holds. Raises ConfigError for one that cannot be read, or holds something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}{_nearest_file(path)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    values = _parse_yaml(text, str(path))
    if values is None:  # an empty file, or comments alone
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not a {type(values).__name__}")
    odd = [key for key in values if not isinstance(key, str)]
    if odd:
        raise ConfigError(f"{path} must hold keys that are texts, not {shorten(odd[0])}")
    return values


def _nearest_file(path: Path) -> str:
    """What a misspelt file may have been meant to be, as the end of a message."""
    if path.exists() or not path.parent.is_dir():
        return ""
    nearest = nearest_name(path.name, [entry.name for entry in path.parent.iterdir()], cutoff=0.6)
    return f"; nearest: {path.parent / nearest}" if nearest else ""


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return _yaml_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that there cannot be
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def _parse_override(text: str, key: str, annotation: Any) -> Any:
    """The value that `text` stands for in a field of type `annotation`."""
    is_union = typing.get_origin(annotation) in (typing.Union, UnionType)
    kinds = typing.get_args(annotation) if is_union else (annotation,)
    if text == "" and type(None) in kinds:
        return None
    if str in kinds or typing.get_origin(annotation) is Literal:
        return text
    # YAML would drop what follows a #, and the whole of "#x": nothing of an override is a comment.
    return text if _has_comment(text) else _parse_yaml(text, key)


def _has_comment(text: str) -> bool:
    """Whether YAML would take part of `text` for a comment: a # between two tokens."""
    if "#" not in text:
        return False
    end = 0
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if "#" in text[end : token.start_mark.index]:
                return True
            end = max(end, token.end_mark.index)
    except yaml.YAMLError:
        return False  # said where it is parsed
    return "#" in text[end:]


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
    # What has no annotation is no key: it stays text, and is refused by name.
    value = text if annotation is None else _parse_override(text, key, annotation)
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
