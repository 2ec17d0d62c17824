"""Sessions in random states, forked: a branch answers as its session does, or a warning says why not."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from axpo_sandbox import Sandbox, make_sandbox


@dataclass(frozen=True)
class Thing:
    """Something a cell makes, a probe that uses it, and the word by which a warning tells that it is lost."""

    make: str
    probe: str
    lost: str = ""
    always: bool = True
    """whether a branch cannot do it in any case, where it is lost"""


# ruff: noqa: E501 - one thing a line reads as a table
THINGS = {
    "variables": Thing("v = {'a': [N, {N}]}; w = v['a']", "w.append(1); v"),
    "array": Thing("import numpy\na = numpy.arange(N + 9.0); view = a[::2]", "view += 1; a.sum()"),
    "numpy global": Thing("import numpy\nnumpy.random.seed(N); numpy.random.rand()", "numpy.random.rand()"),
    "numpy generator": Thing("import numpy\nrng = numpy.random.default_rng(N); rng.random()", "rng.random()"),
    "random": Thing("import random\nrandom.seed(N); random.random()", "random.random(), random.gauss()"),
    "own random": Thing("import random\nown = random.Random(N); own.random()", "own.random()"),
    "generator": Thing("def f():\n    for i in range(N, N + 50):\n        yield i\ng = f(); next(g)", "next(g)"),
    "closure": Thing("def c():\n    n = N\n    def step():\n        nonlocal n\n        n += 1\n        return n\n    return step\ns = c()", "s()"),
    "cache": Thing("import functools\n@functools.lru_cache\ndef sq(x): return x * x\nsq(N)", "sq(N), sq.cache_info().hits"),
    "context": Thing("import contextvars\ncv = contextvars.ContextVar('cv'); cv.set(N) and None", "cv.get()"),
    "thread local": Thing("import threading\ntl = threading.local(); tl.x = N", "tl.x"),
    "lock": Thing("import threading\nlk = threading.Lock(); lk.acquire() and None", "lk.locked(), lk.release(), lk.acquire()"),
    "reading": Thing("open('r', 'w').write('abc' * 99)\nr = open('r'); r.seek(N % 50)", "r.read(7)"),
    "lines": Thing("open('l', 'w').write('x\\n' * 99)\nl = open('l'); next(l)", "next(l), len(l.readlines())"),
    "appending": Thing("ap = open('/box/ap', 'a'); ap.write('x' * N)", "ap.write('y'); ap.flush(); len(open('/box/ap').read())"),
    "read and write": Thing("rw = open('rw', 'w+b', 0); rw.write(b'q' * (N + 3))", "rw.seek(1); rw.write(b'z'), rw.seek(0), rw.read()"),
    "deleted": Thing("import os\nde = open('de', 'w+'); de.write('k' * N); de.flush(); os.unlink('de')", "de.write('m'); de.seek(0); de.read()"),
    "unnamed": Thing("import tempfile\nun = tempfile.TemporaryFile(); un.write(b'u' * N)", "un.write(b'v'); un.seek(0); un.read()"),
    "unnamed text": Thing("import tempfile\nut = tempfile.TemporaryFile('w+'); ut.write('u' * N)", "ut.write('v'); ut.seek(0); ut.read()"),
    "spooled": Thing("import tempfile\nsp = tempfile.SpooledTemporaryFile(8); sp.write(b's' * (N + 20))", "sp.write(b't'); sp.seek(0); sp.read()"),
    "named": Thing("import tempfile\nna = tempfile.NamedTemporaryFile(); na.write(b'n' * N); na.flush()", "na.write(b'o'); na.flush(); len(open(na.name, 'rb').read())"),
    "folder": Thing("import os\nos.makedirs(f'/box/d{N}'); fd = os.open(f'/box/d{N}', 0)", "os.open('n', os.O_CREAT, dir_fd=fd) > 0, os.listdir(f'/box/d{N}')"),
    "working folder": Thing("import os\nos.makedirs(f'/box/w{N}/in'); os.chdir(f'/box/w{N}')", "os.getcwd(), os.listdir('.')"),
    "zip": Thing("import zipfile\nz = zipfile.ZipFile('z.zip', 'w'); z.writestr('a', 'b' * N)", "z.writestr('c', 'd'); z.namelist()"),
    "gzip": Thing("import gzip\ngz = gzip.open('/box/g.gz', 'wt'); gz.write('h' * N) and None", "gz.write('i'); gz.close(); len(gzip.open('/box/g.gz', 'rt').read())"),
    "csv": Thing("import csv\ncf = open('/box/c.csv', 'w'); cw = csv.writer(cf); cw.writerow([N]) and None", "cw.writerow([1]); cf.flush(); open('/box/c.csv').read()"),
    "memory map": Thing("import mmap\nmm = mmap.mmap(-1, 4096); mm[:2] = b'%02d' % (N % 100)", "mm[3:4] = b'x'; mm[:4]"),
    "mapped file": Thing("import mmap\nopen('/box/mf', 'wb').write(bytes(4096)); fm = open('/box/mf', 'r+b'); mp = mmap.mmap(fm.fileno(), 0); mp[0] = N % 256", "mp[1] = 5; mp.flush(); open('/box/mf', 'rb').read(2)"),
    "figure": Thing("import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(1, 1)); ax.plot([0, N]); plt.close(fig)", "len(ax.lines), ax.get_ylim()"),
    "environment": Thing("import os\nos.environ['AXPO_N'] = str(N)", "os.environ['AXPO_N'], os.popen('echo $AXPO_N').read()"),
    "sqlite in memory": Thing("import sqlite3\ndm = sqlite3.connect(':memory:'); dm.execute('create table t (x)'); dm.execute('insert into t values (7)') and None", "dm.execute('insert into t values (1)'); dm.execute('select sum(x) from t').fetchall()"),
    "sqlite": Thing("import sqlite3\ndb = sqlite3.connect('db'); db.execute('create table t (x)'); db.execute('insert into t values (7)'); db.commit()", "db.execute('insert into t values (1)'); db.commit(); db.execute('select sum(x) from t').fetchall()", "SQLite"),
    "new sqlite": Thing("import sqlite3\nnd = sqlite3.connect('nd')", "nd.execute('create table t (x)'); nd.commit(); nd.execute('select * from t').fetchall()", "SQLite", False),
    "sqlite transaction": Thing("import sqlite3\ndt = sqlite3.connect('dt'); dt.execute('create table t (x)'); dt.commit(); dt.execute('insert into t values (7)') and None", "dt.commit(); dt.execute('select sum(x) from t').fetchall()", "SQLite", False),
    "thread": Thing("import threading\nstop = threading.Event(); th = threading.Thread(target=stop.wait, daemon=True); th.start()", "th.is_alive()", "threads"),
    "pool": Thing("import concurrent.futures\nex = concurrent.futures.ThreadPoolExecutor(1); ex.submit(abs, N).result() and None", "ex.submit(abs, -1).result(timeout=0.3)", "threads"),
    "child": Thing("import subprocess\nch = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)", "ch.communicate(b'x')", "child processes"),
    "pipe": Thing("import os\nre, wr = os.pipe()", "os.write(wr, b'x'), os.read(re, 1)", "pipes or sockets"),
    "sockets": Thing("import socket\nso, si = socket.socketpair()", "so.send(b'x'), si.recv(1)", "pipes or sockets"),
    "event loop": Thing("import asyncio\nlo = asyncio.new_event_loop(); lo.run_until_complete(asyncio.sleep(0))", "lo.run_until_complete(asyncio.sleep(0.01, N))", "pipes or sockets"),
    "timer": Thing("import signal\nsignal.signal(signal.SIGALRM, lambda *_: None) and None; signal.alarm(1000) and None", "signal.getitimer(signal.ITIMER_REAL)[0] > 0", "timers"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with make_sandbox("local", preload=("numpy", "matplotlib"), quiet=True) as made:
        if made.isolation.tier != "namespaces":
            pytest.skip(f"the strongest tier here is {made.isolation.tier}: {made.isolation.open}")
        yield made


def differing(sandbox: Sandbox, names: list[str], number: int) -> tuple[set[str], tuple[str, ...]]:
    """Which of the things a branch answers otherwise on, and the snapshot's warnings."""
    with sandbox.session(seed=number) as session:
        for name in names:
            made = session.run(f"N = {number % 1000}\n{THINGS[name].make}\nNone", timeout_s=60)
            assert made.error is None, (name, made.error)
        with session.snapshot() as snapshot, snapshot.fork(1)[0] as branch:
            other = set()
            for name in names:
                answers = []
                for where in (branch, session):
                    # As `print` and not as the last value, so that several statements can be one line.
                    answer = where.run(THINGS[name].probe, timeout_s=60)
                    answers.append((answer.text, None if answer.error is None else answer.error.name))
                assert answers[1][1] is None, (name, answers)  # it works in the session
                if answers[0] != answers[1]:
                    other.add(name)
            return other, snapshot.warnings


@pytest.mark.parametrize("name", [name for name, thing in THINGS.items() if thing.lost or "unnamed" in name])
def test_what_a_branch_lacks_is_in_the_warnings_and_nothing_else_is(sandbox: Sandbox, name: str) -> None:
    other, warnings = differing(sandbox, [name], 7)
    lost = THINGS[name].lost
    assert other == ({name} if lost else set()) or (not THINGS[name].always and not other)
    assert any(lost in warning for warning in warnings) == bool(lost) == bool(warnings)


def check_states(sandbox: Sandbox, num_states: int, seed: int) -> None:
    chance = random.Random(seed)
    num_same = num_told = 0
    for _ in range(num_states):
        names = chance.sample(sorted(THINGS), chance.randint(1, 5))
        other, warnings = differing(sandbox, names, chance.randrange(1 << 30))
        for name in other:
            lost = THINGS[name].lost
            assert lost and any(lost in warning for warning in warnings), (names, name, warnings)
        assert bool(warnings) == any(THINGS[name].lost for name in names), (names, warnings)
        num_same += not other
        num_told += bool(other)
    assert num_same and num_told


def test_random_states_fork_into_equals_or_warn(sandbox: Sandbox) -> None:
    check_states(sandbox, 12, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_random_states_fork_into_equals_or_warn(sandbox: Sandbox) -> None:
    check_states(sandbox, 200, seed=2)
