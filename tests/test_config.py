"""Config loading: what wins over what, what is refused and how, and that YAML text comes back equal."""

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from axpo_algo.config import (
    ConfigError,
    TrainConfig,
    config_from_file,
    config_from_mapping,
    load_config,
    load_config_or_exit,
    recipe_names,
    to_yaml,
)
from axpo_algo.config.loading import describe, given_keys
from axpo_algo.config.schema import annotation_of


@dataclass(frozen=True, kw_only=True)
class Bolt:
    grade: int = 5
    """how hard"""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    size: float = 0.5
    """metres"""
    holes: tuple[int, ...] = (1, 2)
    """per side"""
    bolts: tuple[Bolt, ...] = ()
    """clockwise"""

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"Wheel.size must be positive, got {self.size:g}")


@dataclass(frozen=True, kw_only=True)
class Engine:
    power: int = 90
    """kW"""
    fuel: Literal["petrol", "none"] = "none"
    """what it burns"""


@dataclass(frozen=True, kw_only=True)
class Motor:
    engine: Engine = field(default_factory=Engine)
    """out of the car"""


@dataclass(frozen=True, kw_only=True)
class Car:
    name: str
    """on the lid"""
    fast: bool = False
    """or not"""
    owner: str | None = None
    """null while it is for sale"""
    extras: Mapping[str, Any] = field(default_factory=lambda: {"radio": True})
    """whatever else"""
    engine: Engine = field(default_factory=Engine)
    """in front"""
    wheels: tuple[Wheel, ...] = (Wheel(),)
    """front to back"""


def refusal(*argv: str, cls: type = Car) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(["name=x", *argv] if cls is Car else argv, cls)
    return str(caught.value)


def test_no_arguments_give_the_defaults() -> None:
    assert load_config([], TrainConfig) == TrainConfig()


def test_overrides_with_and_without_dashes_are_typed_by_their_field() -> None:
    argv = ["name=7", "engine.power=120", "--engine.fuel", "petrol", "--owner=null", "wheels.0.size=1e-1"]
    assert load_config(argv, Car) == Car(
        name="7", engine=Engine(power=120, fuel="petrol"), owner=None, wheels=(Wheel(size=0.1),)
    )


def test_a_free_mapping_takes_any_key_and_keeps_its_defaults() -> None:
    car = load_config(["name=x", "extras.max_px=5000", "extras.tools=[zoom, python]"], Car)
    assert car.extras == {"radio": True, "max_px": 5000, "tools": ["zoom", "python"]}


def test_a_sandbox_and_its_options_come_from_a_file_or_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "docker.yaml"
    file.write_text(
        "env:\n  kwargs:\n    sandbox: {backend: docker, image: 'a/b:1', limits: {memory_bytes: 1000}}\n"
    )
    given = load_config(["--config", str(file), "env.kwargs.sandbox.total_processes=99"], TrainConfig)
    wanted = {"backend": "docker", "image": "a/b:1", "limits": {"memory_bytes": 1000}, "total_processes": 99}
    assert given.env.kwargs["sandbox"] == wanted
    line = "env.kwargs.sandbox={backend: docker, image: 'a/b:1', limits: {memory_bytes: 1000}, total_processes: 99}"
    assert load_config([line], TrainConfig).env.kwargs["sandbox"] == wanted
    assert load_config(["--config", str(file), "env.kwargs.sandbox=local"], TrainConfig).env.kwargs == {
        "sandbox": "local"
    }


@pytest.mark.parametrize(
    ("argv", "fast"),
    [
        (["--fast"], True),
        (["--fast", "owner=me"], True),
        (["--fast", "false"], False),
        (["fast=true"], True),
        ([], False),
    ],
)
def test_a_switch_alone_means_true(argv: list[str], fast: bool) -> None:
    assert load_config(["name=x", *argv], Car).fast is fast


def test_files_merge_in_order_and_overrides_win_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nengine: {power: 1, fuel: petrol}\nwheels: [{size: 2}, {}]\n")
    (tmp_path / "b.yaml").write_text("name: b\nengine: {power: 2}\n")
    argv = ["wheels.1.size=3", "--config", str(tmp_path / "a.yaml"), f"--config={tmp_path / 'b.yaml'}"]
    assert load_config(argv, Car) == Car(
        name="b", engine=Engine(power=2, fuel="petrol"), wheels=(Wheel(size=2.0), Wheel(size=3.0))
    )


def test_a_list_of_dataclasses_is_read_from_text() -> None:
    argv = ["name=x", "wheels=[{size: 1e-2, bolts: [{grade: 8}, {}]}, {}]", "wheels.0.bolts.1.grade=9"]
    assert load_config(argv, Car).wheels == (Wheel(size=0.01, bolts=(Bolt(grade=8), Bolt(grade=9))), Wheel())


@pytest.mark.parametrize("text", ["#x", "a #b", "x # y", "~/cars", "1: 2", "[a", "- b", "yes", "1e3"])
def test_a_text_is_taken_as_it_stands(text: str) -> None:
    car = load_config([f"name={text}", f"owner={text}"], Car)
    assert (car.name, car.owner) == (text, text)


def test_no_owner_is_said_in_two_ways() -> None:
    assert load_config(["name=x", "owner=null"], Car).owner is None
    assert load_config(["name=x", "owner="], Car).owner is None


def test_nothing_of_an_override_is_a_comment() -> None:
    car = load_config(["name=x", "extras.radio=#1", "extras.colour=red #2", "extras.quoted='#3'"], Car)
    assert car.extras == {"radio": "#1", "colour": "red #2", "quoted": "#3"}


def test_a_text_in_a_file_is_not_parsed_again(tmp_path: Path) -> None:
    path = tmp_path / "car.yaml"
    path.write_text("name: '#x'\nowner: '#y'\nextras: {radio: '#z'}\n")
    car = load_config(["--config", str(path)], Car)
    assert (car.name, car.owner, car.extras) == ("#x", "#y", {"radio": "#z"})


def test_lists_behind_an_index_are_read_from_text() -> None:
    argv = ["name=x", "wheels=[{}, {}]", "wheels.1.bolts=[{grade: 7}, {}]", "wheels.0.holes=[3, 4]"]
    assert load_config(argv, Car).wheels == (
        Wheel(holes=(3, 4)),
        Wheel(bolts=(Bolt(grade=7), Bolt())),
    )
    argv = ["recipe=nano", "sft.phases.2.sources=[{tool_fraction: 0.3, aim_noise: [0.2, 0.8]}]"]
    (source,) = load_config(argv, TrainConfig).sft.phases[2].sources
    assert (source.tool_fraction, source.aim_noise) == (0.3, (0.2, 0.8))


@pytest.mark.parametrize(
    ("key", "annotation"),
    [
        ("engine.power", int),
        ("wheels.7.bolts.0.grade", int),
        ("wheels.0.holes", tuple[int, ...]),
        ("extras.a.b", Any),
        ("owner", str | None),
        ("engine.pwer", None),
        ("wheels.first", None),
        ("fast.er", None),
    ],
)
def test_the_annotation_of_a_key(key: str, annotation: Any) -> None:
    assert annotation_of(Car, key) == annotation


def test_wider_settings_are_left_out_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "car.yaml"
    path.write_text("name: x\nengine: {power: 3}\nwheels: [{size: 2}]\n")
    argv = ["--config", str(path), "wheels.0.size=3", "engine.power=4"]
    assert load_config(argv, Motor, wider=Car) == Motor(engine=Engine(power=4))
    base = {"engine": {"power": 1, "fuel": "petrol"}}
    assert load_config(argv[:2], Motor, base=base, wider=Car) == Motor(engine=Engine(power=3, fuel="petrol"))
    with pytest.raises(ConfigError, match=r"unknown key 'wheels\.0\.sise'; known under 'wheels\.0'"):
        load_config([*argv, "wheels.0.sise=3"], Motor, wider=Car)
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        load_config([*argv, "colour=red"], Motor, wider=Car)


def test_the_keys_that_arguments_set() -> None:
    argv = ["recipe=nano", "--fast", "--owner", "me", "name=x", "--config=file"]
    assert given_keys(argv, Car) == ["recipe", "fast", "owner", "name", "config"]


def test_an_unknown_key_is_refused_with_the_known_and_the_nearest() -> None:
    assert refusal("engine.pwer=1") == (
        "unknown key 'engine.pwer'; known under 'engine': fuel, power; nearest: engine.power"
    )


def test_a_key_without_its_group_is_told_where_it_lives() -> None:
    assert refusal("power=1").endswith("nearest: engine.power")
    assert refusal("group_size=4", cls=TrainConfig).endswith("nearest: rollout.group_size")


def test_an_unknown_key_inside_a_list_item_names_the_item() -> None:
    assert refusal("wheels=[{}, {sise: 1}]") == (
        "unknown key 'wheels.1.sise'; known under 'wheels.1': bolts, holes, size; nearest: wheels.1.size"
    )


def test_an_unknown_key_in_a_file_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "car.yaml"
    path.write_text("name: x\nengine:\n  powr: 3\n")
    assert "unknown key 'engine.powr'" in refusal("--config", str(path))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("engine.power=many", "Parser key \"engine.power\": Expected a <class 'int'>. Got value: many"),
        ("engine.power=1.5", "Parser key \"engine.power\": Expected a <class 'int'>. Got value: 1.5"),
        ("engine=4", "'engine' must be a mapping of keys, got 4"),
        ("engine=null", "'engine' must be a mapping of keys, got None"),
        ("wheels=3", "'wheels' must be a list of mappings, got 3"),
        ("wheels.4.size=3", "'wheels' has 1 items, counted from 0; got '4'"),
        ("wheels=[{bolts: [{}, 3]}]", "'wheels.0.bolts.1' must be a mapping of keys, got 3"),
        ("fast.er=3", "'fast' is a single value and has no 'er'"),
        ("wheels.0.size=-1", "Wheel.size must be positive, got -1"),
        ("loose", "expected KEY=VALUE or --KEY VALUE, got 'loose'"),
        ("--owner", "--owner needs a value"),
        ("--config=missing.yaml", "cannot read missing.yaml: No such file or directory"),
    ],
)
def test_what_is_refused_is_named(argument: str, message: str) -> None:
    assert refusal(argument) == message


def test_a_choice_lists_what_is_allowed() -> None:
    message = refusal("engine.fuel=coal")
    assert "engine.fuel" in message and "'petrol', 'none'" in message and "coal" in message


def test_a_field_without_default_is_required() -> None:
    with pytest.raises(ConfigError, match="name"):
        load_config([], Car)


def test_a_file_that_is_not_a_mapping_or_not_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    assert refusal("--config", str(path)) == f"{path} must hold a mapping of keys, not a list"
    path.write_text("a: [1\n")
    assert refusal("--config", str(path)).startswith(f"{path} is not YAML: ")
    path.write_bytes("name: x\n".encode("utf-16"))
    assert refusal("--config", str(path)) == f"{path} is not UTF-8 text (byte 0): save it as UTF-8"
    path.write_text("1: 2\n")
    assert refusal("--config", str(path)) == f"{path} must hold keys that are texts, not 1"


def test_every_recipe_loads_and_an_unknown_one_lists_them() -> None:
    names = recipe_names()
    assert "nano" in names
    for name in names:
        load_config([f"recipe={name}"], TrainConfig)
    assert refusal("recipe=nanno") == f"unknown recipe 'nanno'; known: {', '.join(names)}; nearest: nano"


def test_the_8b_recipe_holds_the_constants_of_the_paper() -> None:
    config = load_config(["recipe=qwen3-vl-8b"], TrainConfig)
    assert (config.rollout.group_size, config.rollout.max_turns, config.rollout.temperature) == (8, 3, 1.0)
    assert (config.axpo.extra_budget, config.axpo.continuations) == (0.25, 4)
    assert (config.loss.clip_low, config.loss.clip_high, config.loss.kl_coefficient) == (0.2, 0.4, 1e-3)
    measured = config.evaluation
    assert (measured.temperature, measured.top_p, measured.top_k, measured.presence_penalty) == (
        0.7,
        0.8,
        20,
        1.5,
    )
    assert (measured.rollouts_per_question, measured.max_turns) == (4, 5)


def test_yaml_round_trips_every_field(tmp_path: Path) -> None:
    argv = [
        "recipe=qwen3-vl-8b",
        "run_dir=5",
        "env.kwargs.tools=[python]",
        "sft.phases=[{learning_rate: 1e-5}]",
        "optimizer.betas=[0.8, 0.95]",
    ]
    config = load_config(argv, TrainConfig)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert config_from_file(path, TrainConfig) == config
    assert (config.run_dir, config.optimizer.betas, config.sft.phases[0].learning_rate) == (
        "5",
        (0.8, 0.95),
        1e-5,
    )


def test_a_mapping_is_enough_without_a_command_line() -> None:
    assert config_from_mapping({"name": "x", "engine": {"power": 3}}, Car).engine == Engine(power=3)


def test_configs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainConfig().seed = 3  # type: ignore[misc]


def test_help_lists_every_key_with_type_default_and_unit(capsys: pytest.CaptureFixture[str]) -> None:
    assert describe(Car).splitlines()[-11:] == [
        "name: str = (required)  # on the lid",
        "fast: bool = False  # or not",
        "owner: str | None = None  # null while it is for sale",
        "extras: Mapping[str, Any] = {'radio': True}  # whatever else",
        "engine.power: int = 90  # kW",
        "engine.fuel: Literal['petrol', 'none'] = 'none'  # what it burns",
        "wheels: tuple[Wheel, ...] = [{'size': 0.5, 'holes': [1, 2], 'bolts': []}]  # front to back",
        "wheels.N.size: float = 0.5  # metres",
        "wheels.N.holes: tuple[int, ...] = [1, 2]  # per side",
        "wheels.N.bolts: tuple[Bolt, ...] = []  # clockwise",
        "wheels.N.bolts.N.grade: int = 5  # how hard",
    ]
    with pytest.raises(SystemExit) as caught:
        load_config(["seed=1", "--help"], TrainConfig)
    assert caught.value.code == 0
    assert "rollout.group_size: int = 8  # trajectories per question (N)" in capsys.readouterr().out


def test_every_field_of_the_training_config_says_what_it_is() -> None:
    lines = describe(TrainConfig).splitlines()[3:]
    assert [line for line in lines if "  # " not in line] == []


def test_a_command_gets_one_line_on_stderr_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config_or_exit(["sed=1"], TrainConfig)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: unknown key 'sed'; known at the top: algorithm, ")
    assert printed.err.endswith("nearest: seed\n")
