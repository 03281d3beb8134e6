import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import count

import optuna
import pytest
import sqlalchemy
from optuna.storages._rdb.models import TrialHeartbeatModel
from samples import record

from thalweg.lab.running import absence, connecting
from thalweg.lab.running import store as store_
from thalweg.lab.running.connecting import IN_MEMORY, address, hidden
from thalweg.lab.running.store import Store
from thalweg.lab.study.record import Failure, Trial, failed
from thalweg.lab.workload.errors import StoreError


def trials(number: int = 4) -> list[Trial]:
    return [
        Trial("tune", "sgd", "thalweg.SGD", {"lr": i / 10}, {"lr": i / 10}, 3) for i in range(1, number + 1)
    ]


@pytest.fixture
def machine(storage):
    """Opens the same study from one machine more."""
    opened = []

    def open_(name: str = "study", **more) -> Store:
        opened.append(Store(storage, name, higher_is_better=False, **more))
        opened[-1].records()
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


def number(store: Store) -> int:
    """How many entries the storage has, dead ones too."""
    return len(store._trials())


# Records


def test_records_come_back_to_all_who_look(machine):
    here, there = machine(), machine()
    first, second, third, _ = trials()
    for trial, result in ((first, 0.1 + 0.2), (second, None)):
        assert here.take([trial]) == trial
        here.finish(record(trial, result))
    assert here.take([third]) == third
    here.finish(failed(third, Failure("time limit", "stopped after its limit of 3 s")))
    found = there.records()
    assert found == here.records() == machine().records()
    assert set(found) == {first.key, second.key, third.key}
    assert found[first.key].validation.metric == 0.1 + 0.2
    assert found[first.key].timing == record(first, 0.1 + 0.2).timing
    assert found[third.key].failure.kind == "time limit"


def test_what_accidents_took_is_offered_again_to_whoever_opens_the_study(machine):
    here = machine()
    first, second, _, _ = trials()
    killed = failed(first, Failure("killed", "killed by signal 9"))
    for ended in (killed, failed(second, Failure("out of memory", "no more"))):
        assert here.take([ended.trial])
        here.finish(ended)
    assert set(here.records()) == {first.key, second.key}, "for this command they have ended"
    assert here.take([first]) is None
    later = machine()
    assert later.records() == {}
    assert later.take([first, second]) == first
    later.finish(record(first, 0.5))
    assert here.records()[first.key].failure is None, "what has come to its end counts before an accident"
    assert set(machine().records()) == {first.key}


def test_a_server_that_goes_away_for_a_moment_is_waited_for(postgresql, monkeypatch):
    import psycopg

    monkeypatch.setattr(absence, "AWAY_SECONDS", (0.0,) * 3)
    here = Store(postgresql, "study", higher_is_better=False)
    first, second, *_ = trials()
    assert here.take([first])

    def away():
        with psycopg.connect(postgresql, autocommit=True) as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            connection.execute(others)

    away()
    here.finish(record(first, 0.5))
    away()
    assert set(here.records()) == {first.key}
    get, times = here._storage.get_all_trials, iter(range(2))

    def refused(*arguments, **more):
        if next(times, None) is not None:
            raise sqlalchemy.exc.OperationalError("SELECT", {}, psycopg.OperationalError("refused"))
        return get(*arguments, **more)

    monkeypatch.setattr(here._storage, "get_all_trials", refused)
    assert here.take([second]) == second
    here.close()


@pytest.fixture
def restarted(postgresql_server):
    """Ends the server, and begins it again after half a second, while others go on."""
    threads = []

    def restart():
        postgresql_server.stop()
        threads.append(threading.Timer(0.5, postgresql_server.start))
        threads[-1].start()

    yield restart
    for thread in threads:
        thread.join()


def test_a_server_that_restarts_is_waited_for_and_nothing_is_lost(postgresql, restarted):
    here = Store(postgresql, "study", higher_is_better=False)
    here.say = (lines := []).append
    first, second, third, _ = trials()
    assert here.take([first])
    restarted()
    here.finish(record(first, 0.5))
    away, back = lines
    assert away.startswith("storage 'postgresql://tester:***@/")
    assert "runs go on, and what they give is kept until the server is back" in away
    assert "is back after" in back
    for trial in (second, third):
        restarted()  # a claim may be waited for inside of Optuna
        assert here.take([trial]) == trial
        here.beat()
        here.finish(record(trial, 1.0))
    restarted()
    assert len(here.records()) == 3
    here.close()
    again = Store(postgresql, "study", higher_is_better=False)
    assert again.records().keys() == {first.key, second.key, third.key}
    assert number(again) == 3, "an entry each"
    told = Counter("is back after" in line for line in lines)
    assert told[True] == told[False] in (2, 3, 4), "each time once"
    again.close()


def test_an_entry_that_was_made_unheard_is_found_again(postgresql, monkeypatch):
    import psycopg

    monkeypatch.setattr(absence, "AWAY_SECONDS", (0.0,) * 3)
    here = Store(postgresql, "study", higher_is_better=False)
    (trial,) = trials(1)
    create = here._storage.create_new_trial

    def unheard(*arguments, **more):
        monkeypatch.setattr(here._storage, "create_new_trial", create)
        create(*arguments, **more)
        raise sqlalchemy.exc.OperationalError("INSERT", {}, psycopg.OperationalError("closed"))

    monkeypatch.setattr(here._storage, "create_new_trial", unheard)
    assert here.take([trial]) == trial
    assert number(here) == 1, "else nobody would ever give the other one up"
    here.finish(record(trial, 1.0))
    assert set(here.records()) == {trial.key}
    here.close()


def test_who_leaves_does_not_wait_for_a_server_that_is_away(postgresql, postgresql_server):
    here = Store(postgresql, "study", higher_is_better=False)
    first, second, *_ = trials()
    assert here.take([first])
    here.finish(record(first, 0.5))
    here.records()
    assert here.take([second])
    postgresql_server.stop()
    try:
        here.release()
        assert set(here.records()) == {first.key}, "what was known"
        here.close()
    finally:
        postgresql_server.start()


def test_when_a_server_is_back_all_have_time_to_be_heard_of(machine, monkeypatch):
    here, there = machine(), machine()
    (trial,) = trials(1)
    assert here.take([trial])
    pass_silently(here, connecting.GRACE_SECONDS + 1)
    there._back_at = time.monotonic()
    there.release_dead()
    there.records()
    assert there.take([trial]) is None, "it may be on its way back"
    there._back_at -= connecting.GRACE_SECONDS + 1
    there.release_dead()
    there.records()
    assert there.take([trial]) == trial


def test_a_trial_that_was_taken_can_be_offered_again(machine):
    here = machine()
    first, *_ = trials()
    assert here.take([first])
    here.offer_again(first)
    assert here.records() == {}
    assert here.take([first]) == first


def test_a_study_goes_on_under_its_former_name(storage):
    old = Store(storage, "line-old", higher_is_better=False)
    first, *_ = trials()
    old.take([first])
    old.finish(record(first, 0.5))
    again = Store(storage, "line-new", higher_is_better=False, former="line-old")
    assert (again.name, set(again.records())) == ("line-old", {first.key})
    anew = Store(storage, "line-new", higher_is_better=False, former="line-old", fresh=True)
    assert (anew.name, anew.records()) == ("line-new", {})
    for store in (old, again, anew):
        store.close()


def test_studies_of_a_storage_know_of_each_other_by_their_notes(storage):
    one = Store(storage, "one", higher_is_better=False)
    one.note({"depends": {"a": "1"}})
    two = Store(storage, "two", higher_is_better=False)
    assert (one.noted(), two.noted()) == ({"depends": {"a": "1"}}, {})
    assert two.others() == [{"depends": {"a": "1"}}]
    assert one.others() == []
    for store in (one, two):
        store.close()


def test_optunas_own_tools_can_read_the_study(storage, machine):
    here = machine()
    good, bad = trials(2)
    for trial, result in ((good, 2.0), (bad, None)):
        here.take([trial])
        here.finish(record(trial, result))
    study = optuna.load_study(study_name="study", storage=address(storage))
    assert study.best_value == 2.0
    assert study.best_params == good.point
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL"]


def test_studies_of_other_names_share_a_storage(machine):
    one, other = machine("one"), machine("other")
    (trial,) = trials(1)
    assert one.take([trial]) == other.take([trial]) == trial
    one.finish(record(trial, 1.0))
    assert other.records() == {}


def test_a_fresh_study_forgets(machine):
    here = machine()
    here.agree({"seeds": 1})
    here.take(trials(1))
    here.finish(record(trials(1)[0], 1.0))
    machine("other").agree({"seeds": 2})
    fresh = machine(fresh=True)
    assert (fresh.records(), fresh.agreed()) == ({}, None)
    assert fresh.take(trials(1)) == trials(1)[0]
    assert machine("other").agreed() == {"seeds": 2}


# The queue


def test_nobody_takes_what_another_has(machine):
    here, there = machine(), machine()
    first, second, third, fourth = trials()
    assert here.take(trials()) == first
    assert there.take(trials()) == second, "asked without a fresh look"
    there.records()
    assert there.take(trials()) == third
    here.finish(record(first, 1.0))
    assert here.take(trials()) == fourth
    there.records()
    assert there.take(trials()) is None
    assert here.take(trials()) is None


def test_of_two_who_claim_at_once_one_gets_it(machine, monkeypatch):
    here, there = machine(), machine()
    (trial,) = trials(1)
    created = connecting.RDBStorage._create_new_trial
    second = []

    def both(self, *arguments, **more):
        # The other enters the same trial between our entry and our look at who was first.
        place = created(self, *arguments, **more)
        if not second:
            second.append(None)
            second[0] = there.take([trial])
        return place

    monkeypatch.setattr(connecting.RDBStorage, "_create_new_trial", both)
    assert here.take([trial]) == trial
    assert second == [None]
    here.finish(record(trial, 1.0))
    assert there.records()[trial.key] == record(trial, 1.0)
    assert there.take([trial]) is None


def test_many_who_take_at_once_share_the_trials(machine):
    due = trials(12)
    stores = [machine() for _ in range(4)]
    barrier = threading.Barrier(4)

    def work(store: Store) -> list[Trial]:
        barrier.wait()
        taken = []
        while (trial := store.take(due)) is not None:
            taken.append(trial)
            store.finish(record(trial, 1.0))
            store.records()
        return taken

    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(work, stores))
    everything = [trial.key for part in taken for trial in part]
    assert sorted(everything) == sorted(trial.key for trial in due), "each by exactly one"
    assert set(stores[0].records()) == {trial.key for trial in due}


def test_many_may_begin_a_study_at_once(storage):
    barrier = threading.Barrier(4)

    def begin(_):
        barrier.wait()
        store = Store(storage, "study", higher_is_better=False)
        store.close()
        return store._id

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(begin, range(4)))) == 1


def test_what_was_taken_is_offered_again_when_it_is_released(machine):
    here, there = machine(), machine()
    first, second = trials(2)
    assert (here.take(trials(2)), here.take(trials(2))) == (first, second)
    here.finish(record(first, 1.0))
    here.release()
    there.records()
    assert there.take(trials(2)) == second
    here.records()
    assert here.take(trials(2)) is None


# Who is cut short, and who waits


def reading(store: Store, then) -> None:
    """Calls `then` while a store reads, with rows that nobody has fetched yet."""
    engine = store._connection.engine

    def once(connection, cursor, statement, *_):
        if statement.startswith("SELECT"):
            sqlalchemy.event.remove(engine, "after_cursor_execute", once)
            then()

    sqlalchemy.event.listen(engine, "after_cursor_execute", once)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_it_reads_leaves_the_storage_to_those_who_write(machine, monkeypatch):
    monkeypatch.setattr(connecting, "TURN_SECONDS", 0.1)
    monkeypatch.setattr("optuna.storages._rdb.storage.time.sleep", lambda _: None)
    here, there = machine(), machine()
    first, second = trials(2)
    reading(here, lambda: signal.raise_signal(signal.SIGINT))
    try:
        here.take([first])
    except KeyboardInterrupt:
        # As long as the exception is under way, so is all that it has cut short.
        here.release()
        assert there.take([first]) == first
        assert here.take([second]) == second
    else:
        pytest.fail("Ctrl-C was lost")


def test_who_reads_first_and_then_writes_waits_for_another_who_writes(machine):
    here, there = machine(), machine()
    ours, theirs = (store._connection.engine for store in (here, there))
    write = sqlalchemy.text("UPDATE studies SET study_name = study_name")
    with ours.connect() as reader, theirs.connect() as writer:
        reader.execute(sqlalchemy.text("SELECT * FROM studies")).all()
        writer.execute(write)
        done = threading.Timer(0.3, writer.commit)
        done.start()
        reader.execute(write)
        reader.commit()
        done.join()


# Who falls silent


TAKE_AND_HANG = """
import json, sys, time
from thalweg.lab.running.store import Store
from thalweg.lab.study.record import trial_from_json
storage, document = sys.argv[1:]
store = Store(storage, "study", higher_is_better=False)
trial = trial_from_json(json.loads(document))
assert store.take([trial]) == trial
print("taken", flush=True)
time.sleep(600)
"""


def hang(storage: str, trial: Trial) -> subprocess.Popen[str]:
    """Another process that takes a trial and never finishes it."""
    document = json.dumps(store_.records.to_json(record(trial, 1.0)))
    child = subprocess.Popen(
        [sys.executable, "-c", TAKE_AND_HANG, storage, document], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "taken\n"
    return child


def test_what_a_killed_process_held_is_offered_again(storage, machine):
    (trial,) = trials(1)
    here = machine()
    child = hang(storage, trial)
    try:
        here.release_dead()
        here.records()
        assert here.take([trial]) is None, "it is still at it"
    finally:
        child.kill()
        child.communicate()
    here.release_dead()
    here.records()
    assert here.take([trial]) == trial


def pass_silently(store: Store, seconds: float) -> None:
    """Lets time pass in which nobody says anything, by making older what was said."""
    with sqlalchemy.create_engine(store._connection.url).begin() as connection:
        table = TrialHeartbeatModel.__table__
        for number, heard in connection.execute(
            sqlalchemy.select(table.c.trial_heartbeat_id, table.c.heartbeat)
        ).all():
            older = sqlalchemy.update(table).where(table.c.trial_heartbeat_id == number)
            connection.execute(older.values(heartbeat=heard - timedelta(seconds=seconds)))


def test_what_a_silent_machine_held_is_offered_again(machine, monkeypatch):
    monkeypatch.setattr(connecting, "GRACE_SECONDS", 3600)
    here, there = machine(), machine()
    (trial,) = trials(1)
    assert here.take([trial]) == trial
    there.release_dead()
    there.records()
    assert there.take([trial]) is None, "it was heard of just now"
    pass_silently(here, 3601)
    here.beat()
    there.release_dead()
    there.records()
    assert there.take([trial]) is None, "it has said that it is there"
    pass_silently(here, 3601)
    there.release_dead()
    there.records()
    assert there.take([trial]) == trial


@pytest.fixture
def given_up(machine, monkeypatch):
    """A machine that took a trial, and another that has given it up as dead meanwhile."""
    here, there = machine(), machine()
    (trial,) = trials(1)
    assert here.take([trial]) == trial
    # What a laptop goes through that was asleep.
    monkeypatch.setattr(store_, "_is_dead", lambda _: True)
    there.release_dead()
    monkeypatch.undo()
    there.records()
    return here, there, trial


def test_a_record_that_comes_late_is_kept(given_up):
    here, there, trial = given_up
    here.beat()
    here.finish(record(trial, 1.0))
    assert there.records() == here.records() == {trial.key: record(trial, 1.0)}
    assert there.take([trial]) is None


def test_a_record_that_comes_late_to_one_that_is_there_changes_nothing(given_up):
    here, there, trial = given_up
    assert there.take([trial]) == trial
    there.finish(record(trial, 1.0))
    here.finish(replace(record(trial, 1.0), state_bytes=99))
    assert [r.state_bytes for r in here.records().values()] == [8]
    assert [r.state_bytes for r in there.records().values()] == [8]


def test_a_record_that_comes_late_while_another_is_at_it_is_kept(given_up):
    here, there, trial = given_up
    assert there.take([trial]) == trial
    here.finish(record(trial, 1.0))
    there.finish(record(trial, 1.0))
    assert there.records() == here.records() == {trial.key: record(trial, 1.0)}


def test_what_was_given_up_can_be_released(given_up):
    here, there, trial = given_up
    here.release()
    assert there.take([trial]) == trial


# Agreement


def test_the_first_word_counts(machine):
    here, there = machine(), machine()
    assert here.agreed() is None
    assert here.agree({"seeds": 7, "bought": "much"}) == {"seeds": 7, "bought": "much"}
    assert there.agree({"seeds": 8}) == {"seeds": 7, "bought": "much"}
    assert machine().agreed() == {"seeds": 7, "bought": "much"}


def test_the_first_word_counts_whatever_the_clocks_say(machine, monkeypatch):
    here, there = machine(), machine()
    clock = count(2 * 10**18, -(10**17))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    assert here.agree({"seeds": 7}) == {"seeds": 7}
    assert there.agree({"seeds": 8}) == {"seeds": 7}, "though its clock is behind"
    assert here.agreed() == there.agreed() == {"seeds": 7}


def test_of_many_who_begin_at_once_all_take_the_same_word(machine):
    stores = [machine() for _ in range(4)]
    barrier = threading.Barrier(4)

    def agree(place: int) -> int:
        barrier.wait()
        return stores[place].agree({"seeds": place})["seeds"]

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(agree, range(4)))) == 1


def test_what_was_agreed_is_no_trial(machine):
    here = machine()
    here.agree({"seeds": 7})
    assert here.records() == {}
    assert here.take(trials(1)) == trials(1)[0]
    here.release_dead()
    here.release()
    assert here.agreed() == {"seeds": 7}


# Errors


def refused(storage: str) -> str:
    with pytest.raises(StoreError) as caught:
        Store(storage, "study", higher_is_better=False)
    line = str(caught.value)
    assert "\n" not in line
    assert "secret" not in line
    assert "\n" not in line
    return line


def test_a_file_that_is_no_database_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, but long enough to look at. " * 50)
    assert refused(str(tmp_path / "notes.txt")).endswith("notes.txt': file is not a database")


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    assert refused(str(tmp_path / "nowhere" / "study.db")).endswith("unable to open database file")


def test_a_host_that_cannot_be_reached_is_an_error():
    pytest.importorskip("psycopg")
    line = refused("postgresql://me:secret@127.0.0.1:1/db")
    assert line.startswith("storage 'postgresql://me:***@127.0.0.1:1/db': connection failed")


def test_a_wrong_password_is_an_error_that_does_not_show_it(postgresql_server):
    line = refused(postgresql_server.address(password="my-secret"))
    assert "password authentication failed" in line
    assert "***" in line


def test_a_database_that_does_not_exist_is_an_error(postgresql_server):
    assert "does not exist" in refused(postgresql_server.address("nothing"))


@pytest.mark.parametrize(
    "storage",
    [
        "://",
        "nonsense://x",
        "postgresql://me:secret@host:port/db",
        "://me:secret@host",
        "a b://me:secret@h/db",
    ],
)
def test_an_address_that_is_none_is_an_error(storage):
    assert refused(storage).startswith("storage ")


@pytest.mark.parametrize(
    ("storage", "package"),
    [("postgresql://me:secret@host/db", "psycopg"), ("mysql://me:secret@host/db", "MySQLdb")],
)
def test_a_driver_that_is_missing_is_named(monkeypatch, storage, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(storage)
    assert package in line
    if package == "psycopg":
        assert "pip install 'thalweg[postgresql]'" in line


def test_a_connection_that_is_lost_is_an_error(machine, monkeypatch):
    here = machine()
    here.take(trials(1))

    def lost(*_, **__):
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, OSError("server closed the connection"))

    monkeypatch.setattr(absence, "AWAY_SECONDS", (0.0,) * 3)
    monkeypatch.setattr(connecting.RDBStorage, "_get_trials", lost)
    with pytest.raises(StoreError, match="server closed the connection"):
        here.records()


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("study.db", "study.db"),
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:s/e:c@ret@host/db", "postgresql://me:***@host/db"),
        ("--storage=postgresql://me:secret@host/db", "--storage=postgresql://me:***@host/db"),
        ("postgresql:///db?user=me&password=secret&host=h", "postgresql:///db?user=me&password=***&host=h"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
    ],
)
def test_passwords_are_hidden(storage, shown):
    assert hidden(storage) == shown


def test_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert address("study.db") == f"sqlite:///{tmp_path}/study.db"
    assert address("postgres://h/d") == address("postgresql://h/d") == "postgresql+psycopg://h/d"
    assert address("postgresql+psycopg2://h/d") == "postgresql+psycopg2://h/d"
    assert address(IN_MEMORY) == "sqlite://"


def test_a_store_in_memory_is_a_store_of_its_own():
    one, other = (Store(IN_MEMORY, "study", higher_is_better=True) for _ in range(2))
    one.take(trials(1))
    one.finish(record(trials(1)[0], 1.0))
    assert len(one.records()) == 1
    assert other.records() == {}


def test_nothing_is_logged(storage, capfd, recwarn):
    store = Store(storage, "study", higher_is_better=False)
    store.take(trials(1))
    store.release_dead()
    store.finish(record(trials(1)[0], None))
    store.close()
    assert capfd.readouterr() == ("", "")
    assert not [w for w in recwarn.list if "thalweg" in str(w.filename) or "xperimental" in str(w.message)]


# Nothing that has finished is lost


FINISH_ONE_BY_ONE = """
import json, sys
from thalweg.lab.running.store import Store
from thalweg.lab.study.record import from_json
storage = sys.argv[1]
store = Store(storage, "study", higher_is_better=False)
for document in map(json.loads, sys.stdin):
    made = from_json(document)
    assert store.take([made.trial]) is not None
    store.finish(made)
    print(made.trial.lr, flush=True)
"""


@pytest.mark.parametrize("storage", ["file"], indirect=True)
def test_what_was_finished_outlives_a_kill(storage, machine):
    documents = [json.dumps(store_.records.to_json(record(trial, 1.0))) for trial in trials(12)]
    child = subprocess.Popen(
        [sys.executable, "-c", FINISH_ONE_BY_ONE, storage],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child.stdin.write("\n".join(documents))
    child.stdin.flush()
    told = [float(child.stdout.readline()) for _ in range(3)]
    child.kill()
    told += [float(line) for line in child.communicate()[0].splitlines()]
    here = machine()
    kept = {r.trial.lr for r in here.records().values()}
    assert set(told) <= kept
    here.release_dead()
    here.records()
    rest = []
    while (trial := here.take(trials(12))) is not None:
        rest.append(trial.lr)
        here.finish(record(trial, 1.0))
    assert sorted([*kept, *rest]) == [t.lr for t in trials(12)]
