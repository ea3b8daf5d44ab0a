"Searches with several processes: killed, stopped and taken over, and nothing is lost or done twice."
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from mlops_workbench.core.errors import JobError, ParameterError
from mlops_workbench.tune.leases import read_leases
from mlops_workbench.tune.objective import search
from mlops_workbench.tune.results import read_result
from mlops_workbench.tune.space import Space, floats, ints
from mlops_workbench.tune.studies import Study

pytestmark = pytest.mark.long

SPACE = Space(x=floats(-1, 1), n=ints(1, 9))
MINE = '''
import os, time
from pathlib import Path

def loss(trial):
    "Forty steps, a checkpoint after each; notes where it begins."
    state = trial.load()
    with open(Path(__file__).with_name("begun.txt"), "a") as f: f.write(f"{trial.number} {state.get('step', 0)}\\n")
    total = state.get("total", 0.0)
    for step in range(state.get("step", 0), 40):
        time.sleep(0.015)
        total += trial.params.x ** 2 / 40
        trial.save(step=step + 1, total=total)
    return total

def hangs(trial): time.sleep(600)

def dies(trial):
    if trial.number == 2: os._exit(9)
    return trial.params.x ** 2
'''
CALL = '''
import sys
from mlops_workbench.tune.objective import search
from mlops_workbench.tune.space import Space, floats, ints

if __name__ == "__main__":
    file, folder, trials, workers = sys.argv[1:5]
    search(file, Space(x=floats(-1, 1), n=ints(1, 9)), trials=int(trials), folder=folder, workers=int(workers), device="cpu", halving=0, store=sys.argv[5] if len(sys.argv) > 5 else None)
'''


@pytest.fixture
def place(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "call.py").write_text(CALL)
    return tmp_path


def called(place, *, function="loss", folder="study", trials=12, workers=2, store=None):
    "The runner, as a process of its own."
    return subprocess.Popen([sys.executable, str(place / "call.py"), f"{place / 'mine.py'}:{function}", str(place / folder), str(trials), str(workers), *([str(store)] if store else [])])


def until(condition, process=None):
    "Waits until it holds; what is waited for is what another process is at, so there is no limit."
    while not (found := condition()):
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        time.sleep(0.02)
    return found


def holders(place, folder="study"):
    "The processes of the workers that hold a trial."
    return [lease["pid"] for lease in read_leases(place / folder / "leases") if lease["trials"]]


def moved(place, since):
    "The processes of the workers whose trial has saved something since then."
    saved = lambda n: (place / "study" / "checkpoints" / f"{n}.safetensors")
    return [lease["pid"] for lease in read_leases(place / "study" / "leases") if any(saved(n).exists() and saved(n).stat().st_mtime > since for n in lease["trials"])]


def states(folder):
    return [t.state.name for t in Study.open(folder, leader=False).trials()]


def told(folder):
    "How often the journal ends each trial, and is believed."
    return [t.number for t in Study.open(folder, leader=False).trials() if t.state.is_finished()]


def test_ten_kills_lose_nothing_and_repeat_nothing(place):
    rng, runner, since = random.Random(0), called(place), 0.0
    for kill in range(10):
        until(lambda since=since: moved(place, since), runner)   # a trial that dies four times at one place is given up
        time.sleep(rng.uniform(0, 0.3))
        if kill in (3, 7):
            runner.kill()
            runner.wait()
            until(lambda: not holders(place))   # its workers see that it is gone, and leave
            runner = called(place)
        else:
            for pid in rng.sample(held := moved(place, since), min(len(held), 1)): os.kill(pid, signal.SIGKILL)
        since = time.time()
    assert runner.wait() == 0
    assert states(place / "study") == ["COMPLETE"] * 12 and told(place / "study") == list(range(12))
    table = read_result(place / "study").table()
    assert all(abs(v - x**2) < 1e-9 for v, x in table.select("value", "x").iter_rows())   # every step counted once
    begun = [tuple(map(int, line.split())) for line in (place / "begun.txt").read_text().splitlines()]
    assert {n for n, step in begun if step == 0} == set(range(12))
    assert sum(step > 0 for _, step in begun) >= 3 and table["deaths"].sum() >= 6   # killed trials went on where they were
    assert not list((place / "study" / "leases").glob("*"))


def test_the_time_of_a_process_that_was_killed_counts(place):
    begun = time.monotonic()
    runner = called(place, function="hangs", workers=1)
    until(lambda: holders(place), runner)
    time.sleep(7)
    runner.kill()
    runner.wait()
    spent, most = read_result(place / "study").seconds, time.monotonic() - begun
    assert 3 < spent < most
    with Study.open(place / "study", leader=False) as study:
        assert study.sweep() == [0] and study.seconds() == spent and not list((place / "study" / "leases").iterdir())
    result = search(f"{place / 'mine.py'}:hangs", SPACE, minutes=spent / 90, halving=0, folder=place / "study", device="cpu")
    assert result.counts() == {"waiting": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_leaves_trials_that_wait(place, number, workers):
    runner = called(place, workers=workers)
    until(lambda: holders(place), runner)
    time.sleep(0.3)
    workers_then = holders(place)
    runner.send_signal(number)
    assert runner.wait() == {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}[number]
    found = states(place / "study")
    assert "RUNNING" not in found and "WAITING" in found and not holders(place)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers_then)
    assert all(not t.user_attrs.get("deaths") for t in Study.open(place / "study", leader=False).trials())
    runner = called(place, trials=len(found), workers=1)
    assert runner.wait() == 0 and states(place / "study") == ["COMPLETE"] * len(found)
    assert sum(int(line.split()[1]) > 0 for line in (place / "begun.txt").read_text().splitlines()) >= 1


def test_a_trial_that_kills_its_process_fails_and_the_rest_is_done(place):
    result = search(f"{place / 'mine.py'}:dies", SPACE, trials=6, folder=place / "study", workers=2, device="cpu")
    assert result.counts() == {"completed": 5, "failed": 1}
    assert result.table()["reason"].to_list()[2] == "its process died 4 times at the same place"


def test_workers_that_cannot_begin_say_what_they_printed(place, monkeypatch):
    (place / "sitecustomize.py").write_text("import sys\nif any('worker_main' in a for a in sys.orig_argv): sys.exit('no such library')\n")
    monkeypatch.syspath_prepend(str(place))
    with pytest.raises(JobError, match="no such library"): search(f"{place / 'mine.py'}:loss", SPACE, trials=6, workers=2, device="cpu")


def test_two_searches_share_a_study_and_never_exceed_its_budget(place):
    first, second = called(place, trials=9), called(place, trials=9)
    assert first.wait() == 0 and second.wait() == 0
    assert states(place / "study") == ["COMPLETE"] * 9
    begun = [line for line in (place / "begun.txt").read_text().splitlines() if line.endswith(" 0")]
    assert len(begun) == 9


def test_another_machine_takes_over_from_the_store(place):
    store = place / "store"
    runner = called(place, workers=1, store=store)
    until(lambda: (store / "journal.log").exists() and (store / "journal.log").read_text().count('"state":1') >= 2 and list((store / "checkpoints").glob("*")), runner)
    runner.kill()
    runner.wait()
    runner = called(place, folder="elsewhere", workers=1, store=store)
    assert runner.wait() == 0
    assert states(place / "elsewhere") == ["COMPLETE"] * 12
    assert not (store / "lease.json").exists()
    assert (store / "journal.log").read_bytes() == (place / "elsewhere" / "journal.log").read_bytes()
    assert sorted(p.name for p in (store / "checkpoints").glob("*")) == sorted(p.name for p in (place / "elsewhere" / "checkpoints").glob("*"))


def test_a_refused_search_leaves_the_copy_to_others(place):
    store, given = place / "store", {"trials": 2, "device": "cpu", "halving": 0, "folder": place / "study", "store": place / "store"}
    search(f"{place / 'mine.py'}:loss", SPACE, **given)
    with pytest.raises(ParameterError, match="another space"): search(f"{place / 'mine.py'}:loss", Space(x=floats(0, 1), n=ints(1, 9)), **given)
    with pytest.raises(ParameterError, match="another sampler"): search(f"{place / 'mine.py'}:loss", SPACE, sampler="random", **given)
    assert not (store / "lease.json").exists()
    assert called(place, trials=3, workers=1, store=store).wait() == 0 and states(place / "study") == ["COMPLETE"] * 3


def stopped_without_the_lock(pid, lock):
    "Stops the process, unless it holds the study's lock just now: then everybody would wait for it."
    os.kill(pid, signal.SIGSTOP)
    with open(lock, "a") as file:
        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.kill(pid, signal.SIGCONT)
            return False
    return True


def test_the_lease_of_a_stopped_process_is_dead_after_half_a_minute(place, monkeypatch):
    from mlops_workbench.tune import leases
    runner = called(place, workers=2)
    pid = until(lambda: holders(place), runner)[0]
    until(lambda: stopped_without_the_lock(pid, place / "study" / "study.lock"), runner)
    held = until(lambda: [x["trials"] for x in read_leases(place / "study" / "leases") if x["pid"] == pid])[0]
    monkeypatch.setattr(leases, "STALE", 1.0)
    until(lambda: pid not in [x["pid"] for x in read_leases(place / "study" / "leases")])
    with Study.open(place / "study", leader=False) as study:
        assert set(held) <= set(study.sweep())
        os.kill(pid, signal.SIGCONT)   # what it still finds out is not told
        assert runner.wait() == 0
    assert states(place / "study") == ["COMPLETE"] * 12


def test_a_search_in_an_unguarded_script_is_refused(place):
    (place / "bare.py").write_text("from mlops_workbench.tune.objective import search\nfrom mlops_workbench.tune.space import Space, floats\n\ndef loss(trial): return trial.params.x\n\nsearch(loss, Space(x=floats(0, 1)), trials=3, workers=2, device='cpu')\n")
    done = subprocess.run([sys.executable, str(place / "bare.py")], capture_output=True, text=True)
    assert done.returncode == 1 and "while a worker loads the objective" in done.stderr


def test_workers_need_an_objective_with_a_name():
    def local(trial): return 1.0
    with pytest.raises(ParameterError, match="put the function into a file"): search(local, SPACE, trials=3, workers=2, device="cpu")
    with pytest.raises(ParameterError, match="0 workers"): search(f"{__file__}:nothing", SPACE, trials=3, workers=0, device="cpu")


def test_a_workers_spec_is_plain_json(place):
    search(f"{place / 'mine.py'}:loss", SPACE, trials=1, folder=place / "study", workers=2, device="cpu")
    spec = next(p for p in (place / "study" / "workers").glob("*.json"))
    assert set(json.loads(spec.read_text())) == {"objective", "budget", "since", "deadline", "store", "plan"}
    assert {t.state for t in Study.open(place / "study", leader=False).trials()} == {TrialState.COMPLETE}


def test_minutes_end_workers_that_never_report_and_workers_that_gain_nothing(place):
    (place / "mine.py").write_text("import time\n\ndef loss(trial):\n    time.sleep(0.05)\n    return 1.0\n")
    timed = search(f"{place / 'mine.py'}:loss", SPACE, minutes=0.1, least_gain=0, workers=2, device="cpu")
    assert timed.ended.endswith("minutes") and 6 <= timed.seconds < 30 and set(timed.counts()) == {"completed"}
    settled = search(f"{place / 'mine.py'}:loss", SPACE, minutes=30, workers=2, device="cpu")
    assert settled.ended.startswith("the rest of the budget can be expected to gain at most 0") and settled.seconds < 300


@pytest.mark.parametrize("crowded", [False, True])
def test_as_many_processes_as_pay(place, monkeypatch, crowded):
    "Trials that only wait end twice as fast with two processes; where two are in each other's way, the second goes."
    monkeypatch.setattr("mlops_workbench.tune.objective.threads", lambda: 2)
    (place / "waits.py").write_text(f'''
import os, time
from pathlib import Path

def loss(trial):
    by = Path(__file__).with_name("by.txt")
    others = set(by.read_text().split()[-4:]) - {{str(os.getpid())}} if by.exists() else set()
    time.sleep(0.5 if {crowded} and others else 0.1)
    with open(by, "a") as f: f.write(f"{{os.getpid()}}\\n")
    return trial.params.x ** 2
''')
    result = search(f"{place / 'waits.py'}:loss", SPACE, trials=200, folder=place / "study", workers="auto", device="cpu")
    assert result.counts() == {"completed": 200} and f"; {1 if crowded else 2} process" in result.ended, result.ended
    by = (place / "by.txt").read_text().splitlines()
    assert len(set(by)) == 2 and len(set(by[-30:])) == (1 if crowded else 2)
