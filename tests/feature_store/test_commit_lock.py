import os
import subprocess
import sys
import threading

import pytest

from feature_store import commit_lock as locks
from feature_store.commit_lock import commit_lock, lock_key
from feature_store.errors import CommitLockError, ContractError
from tests.servers.services import address, postgres

TABLE = "s3a://tables/home/examples"
HOLD = """
import sys
from feature_store.commit_lock import commit_lock
with commit_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def port():
    with postgres() as found:
        yield found


@pytest.fixture
def lock(port, monkeypatch):
    monkeypatch.setenv(locks.LOCK_SETTING, address(port, "loopfm"))
    return port


@pytest.fixture
def holder(lock):
    """Another process that holds the lock of TABLE."""
    command = [sys.executable, "-c", HOLD, TABLE]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def take(table, taken):
    with commit_lock(table):
        taken.set()


def waiting(table):
    """A thread that waits for the table's lock, and the event of its having it."""
    taken = threading.Event()
    thread = threading.Thread(target=take, args=(table, taken), daemon=True)
    thread.start()
    return thread, taken


def query(port, text):
    import psycopg2

    connection = psycopg2.connect(address(port, "loopfm"))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchall()


def test_one_at_a_time_across_processes_whatever_the_spelling(holder):
    thread, taken = waiting("s3://tables/home/examples")
    assert not taken.wait(1)
    holder.communicate("go on\n", timeout=60)
    assert taken.wait(60)
    thread.join(60)


def test_a_killed_holder_lets_go(holder):
    _, taken = waiting(TABLE)
    assert not taken.wait(1)
    holder.kill()
    assert taken.wait(60)


def test_tables_do_not_wait_for_each_other(holder):
    _, taken = waiting("s3a://tables/home/labels")
    assert taken.wait(60)


def test_threads_of_one_process_wait_as_well(lock):
    with commit_lock(TABLE):
        thread, taken = waiting(TABLE)
        assert not taken.wait(0.5)
    assert taken.wait(60)
    thread.join(60)


def test_the_lock_is_free_after_an_error_in_the_body(lock):
    with pytest.raises(ZeroDivisionError), commit_lock(TABLE):
        _ = 1 // 0
    _, taken = waiting(TABLE)
    assert taken.wait(60)


def test_too_long_a_wait_names_the_holder(holder, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_S", 1)
    message = rf"examples: its commit lock was not free for 1 s; held by loopfm .*:{holder.pid}: end that process"
    with pytest.raises(CommitLockError, match=message), commit_lock(TABLE):
        pass


def test_a_lock_lost_during_the_commit_is_an_error(lock):
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'loopfm %'"
    with pytest.raises(CommitLockError, match=r"broke during a commit.*run the step again"), commit_lock(TABLE):
        query(lock, ended)


def test_no_database_is_an_error_that_does_not_show_the_password(monkeypatch):
    monkeypatch.setenv(locks.LOCK_SETTING, "postgresql://loopfm:hidden@127.0.0.1:1/loopfm")
    with pytest.raises(CommitLockError, match="LOOPFM_COMMIT_LOCK: no database answers") as caught, commit_lock(TABLE):
        pass
    assert "hidden" not in str(caught.value)


def test_another_address_is_refused(monkeypatch):
    monkeypatch.setenv(locks.LOCK_SETTING, "sqlite:///locks.db")
    with pytest.raises(ContractError, match=r"LOOPFM_COMMIT_LOCK: .* postgresql://user"), commit_lock(TABLE):
        pass


def test_the_embedded_default_needs_none(monkeypatch, tmp_path):
    monkeypatch.delenv(locks.LOCK_SETTING, raising=False)
    with commit_lock(str(tmp_path)):
        pass


def test_keys_fit_what_postgresql_takes():
    keys = {lock_key(f"s3://tables/{number}") for number in range(1000)}
    assert len(keys) == 1000
    assert min(keys) < 0 < max(keys)
    assert max(abs(key) for key in keys) < 2**63
