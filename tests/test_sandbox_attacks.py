"""The corpus of attacks: it must hold on the strongest tier, and its judges must be able to say that it did not."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from axpo_sandbox import SandboxError, SandboxUnavailable
from benchmarks.attacks.arena import Arena, open_arena
from benchmarks.attacks.corpus import FAMILIES, HELD, SKIPPED, SUCCEEDED, Attack, Outcome, held, load
from benchmarks.attacks.run import MAX_DESCRIPTORS, Result, make, result_of, run_guarded
from benchmarks.sandbox_isolation import BEGIN, END, in_words, standing, surprises, table, with_block

ATTACKS = load()

# A few of each family, none of which takes a second.
FAST = """
    tcp_loopback udp_loopback_v6 unix_pair_abstract inherited_connection
    read_by_open read_by_callers_root read_by_hard_link write_over input_files_through_link removal_through_link
    own_environment callers_memory_file inherited_descriptor
    kill_process signal_everybody limit_process kill_session
    read_memory_of_caller take_descriptor_of_caller
    fork_bomb fork_bomb_with_raised_limit
    memory_by_bytes memory_by_memfd
    fill_all_folders many_open_files machine_wide_aio
    stdout_flood error_name_flood surrogate_error
    large_picture picture_that_lies picture_too_wide
    daemon_outlives_session twin_outlives_branch
    user_namespace mount_tmpfs remove_filter calls_of_32_bits io_uring
    read_own_branch write_own_branch enter_own_branch slow_scheduler_group hold_by_stops_and_exit hold_by_roles
    kill_own_snapshot stop_own_branch_by_child kill_own_branch_by_pidfd hold_by_signals
    make_dumpable make_timer listen_by_filter watch_by_dnotify lease_on_file
    kill_sibling starve_sibling branch_shared_memory branch_pipe shared_segment
    patch_builtins write_site_packages
    deep_frame many_empty_lists wrong_id send_descriptors
    reduced_value planted_pickles journal_pickle journal_deep journal_path_up
""".split()  # noqa: SIM905 - one name a line would hide what the list is

# Harmless where nothing isolates: they read what is planted, reach listeners and victims made for them, or make a call
# that changes nothing.
CONTROLS = """
    tcp_loopback unix_dgram_abstract inherited_connection read_by_open read_by_symlink read_own_source write_over
    own_environment callers_environment inherited_descriptor callers_command_line kill_process limit_process
    slow_process fork_bomb many_open_files machine_wide_aio child_outlives_session shared_folder traced_by_parent
""".split()  # noqa: SIM905 - one name a line would hide what the list is


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    try:
        with open_arena("local", "namespaces") as made:
            yield made
    except SandboxUnavailable as error:
        pytest.skip(f"no namespaces here: {error}")


@pytest.fixture(scope="module")
def open_ground() -> Iterator[Arena]:
    with open_arena("plain") as made:
        yield made


def test_there_are_many_attacks_of_every_family() -> None:
    assert len(ATTACKS) >= 120
    assert all(name == attack.name for name, attack in ATTACKS.items())
    counts = Counter(attack.family for attack in ATTACKS.values())
    assert set(counts) == set(FAMILIES)
    assert min(counts.values()) >= 5
    goals = Counter((attack.family, attack.goal) for attack in ATTACKS.values())
    assert [goal for goal, number in goals.items() if number > 1] == []


@pytest.mark.parametrize("name", FAST)
def test_it_holds_on_the_strongest_tier(arena: Arena, name: str) -> None:
    outcome = make(arena, ATTACKS[name])
    assert outcome.verdict in (HELD, SKIPPED), outcome


@pytest.mark.parametrize("name", CONTROLS)
def test_without_isolation_it_succeeds(open_ground: Arena, name: str) -> None:
    outcome = make(open_ground, ATTACKS[name])
    assert outcome.verdict == SUCCEEDED, outcome


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_all_of_them_hold_on_the_strongest_tier(arena: Arena) -> None:
    results = list(run_guarded("local", "namespaces", list(ATTACKS), {}))
    assert len(results) == len(ATTACKS)
    assert [(item.name, item.why) for item in surprises(results)] == []


def attack_that(run: object) -> Attack:
    return Attack(name="made", family="files", goal="nothing", run=run, layer="files")  # type: ignore[arg-type]


def test_what_an_attack_does_to_the_trusted_side_is_judged(open_ground: Arena) -> None:
    kept = []

    def raises(arena: Arena) -> Outcome:
        raise RecursionError("too deep")

    def opens(arena: Arena) -> Outcome:
        kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(MAX_DESCRIPTORS + 1))
        return held("so it seems")

    def grows(arena: Arena) -> Outcome:
        bytearray(b"x") * (800 << 20)
        return held("so it seems")

    def breaks(arena: Arena) -> Outcome:
        raise SandboxError("an outage")

    def cannot(arena: Arena) -> Outcome:
        raise NotImplementedError("no snapshots")

    try:
        verdicts = [make(open_ground, attack_that(run)) for run in (raises, opens, grows, breaks, cannot)]
    finally:
        for fd in kept:
            os.close(fd)
    assert [outcome.verdict for outcome in verdicts] == [SUCCEEDED, SUCCEEDED, SUCCEEDED, HELD, SKIPPED]
    assert "RecursionError" in verdicts[0].why
    assert verdicts[1].why == f"{MAX_DESCRIPTORS + 1} descriptors stay open on the trusted side"
    assert "the trusted side grew by" in verdicts[2].why


def test_a_sandbox_that_no_longer_works_is_a_success_of_the_attack_and_is_replaced(
    open_ground: Arena,
) -> None:
    class Broken:
        def session(self, **_: object) -> object:
            raise SandboxUnavailable("it is gone")

        def close(self) -> None:
            pass

    whole = open_ground.sandbox
    open_ground.sandbox = Broken()  # type: ignore[assignment]
    outcome = make(open_ground, attack_that(lambda arena: held("so it seems")))
    assert (outcome.verdict, "no new session works" in outcome.why) == (SUCCEEDED, True)
    assert type(open_ground.sandbox) is type(whole)


def result(name: str, verdict: str, accepted: str = "", family: str = "files") -> Result:
    return Result(name=name, family=family, verdict=verdict, why="", seconds=0.0, accepted=accepted)


ROWS = [result("read_by_open", SUCCEEDED), result("write_over", HELD), result("open_fuse_device", SKIPPED)]


def test_a_family_stands_as_many_open_of_those_that_could_be_made() -> None:
    assert standing(ROWS) == "1 of 2 open"
    assert standing(ROWS[1:]) == "held (1)"
    assert standing(ROWS[2:]) == "-"


def test_the_table_has_families_down_and_tiers_across() -> None:
    columns = {"namespaces": ROWS[1:], "none": ROWS}
    assert table(columns).splitlines() == [
        "| code tries to | `namespaces` | `none` |",
        "|---|---|---|",
        f"| {FAMILIES['files']} | held (1) | 1 of 2 open |",
        "| all | held (1) | 1 of 2 open |",
    ]
    assert in_words(columns).splitlines() == [
        "- `namespaces`: nothing of this is open.",
        "- `none` lets code (1): files: read a file by its path.",
    ]


def test_what_is_open_on_purpose_and_what_holds_anyway_have_a_line_each() -> None:
    columns = {
        "none": [result("lock_on_system_file", SUCCEEDED), result("deep_frame", HELD, family="protocol")]
    }
    words = in_words(columns).splitlines()
    assert [line.split(":")[0] for line in words] == [
        "- `none` lets code (1)",
        "- Known, and open on purpose or for want of a way",
        "- Held without isolation, too",
    ]
    assert "advisory locks" in words[1]
    assert words[2].endswith("protocol by frames that are capped and checked outside.")
    many = [result(name, SUCCEEDED) for name in ATTACKS if ATTACKS[name].family == "files"]
    assert f"{len(many) - 5} more" in in_words({"none": many})


def test_what_is_known_to_be_open_is_no_surprise() -> None:
    known = result("lock_on_system_file", SUCCEEDED, accepted="locks are seen")
    assert surprises([*ROWS, known]) == ROWS[:1]
    covered = attack_that(None)
    broken = Outcome(verdict=SUCCEEDED, why="")
    assert result_of(covered, broken, 0.0, {"files": True}).accepted == ""
    assert "its layer files is open" in result_of(covered, broken, 0.0, {"files": False}).accepted


def test_the_block_is_put_at_the_end_of_its_section_and_replaced_there() -> None:
    text = "# A\n\n## Isolation\n\nWords.\n\n## Next\n\nMore.\n"
    once = with_block(text, f"{BEGIN}\nold\n{END}")
    assert once == f"# A\n\n## Isolation\n\nWords.\n\n{BEGIN}\nold\n{END}\n\n## Next\n\nMore.\n"
    assert with_block(once, f"{BEGIN}\nnew\n{END}") == once.replace("old", "new")
    with pytest.raises(ValueError, match="no section Isolation"):
        with_block("# A\n", "")


def test_an_attack_that_ends_its_process_counts_as_one_that_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its child is told to make an attack it does not know, and ends at that one.
    names = ["own_environment", "no_such_attack"]
    monkeypatch.setitem(ATTACKS, "no_such_attack", attack_that(None))
    monkeypatch.setattr("benchmarks.attacks.run.load", lambda: ATTACKS)
    results = list(run_guarded("plain", "", names, {}))
    assert [(item.name, item.verdict) for item in results] == [
        ("own_environment", SUCCEEDED),
        ("made", SUCCEEDED),
    ]
    assert results[1].why == "it ended the trusted side"
