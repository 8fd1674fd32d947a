"""Two gateways on one database at a budget's edge never overspend: on PostgreSQL, and on one SQLite file."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from postgres_server import postgres
from running_gateway import ask, check_statement, cost, running, settled, tables

from corollary.serving import GatewayLedger
from corollary.serving import _tables as t
from corollary.serving._keys import add_key
from corollary.serving._ledger import ANSWERED, Call, OverBudget, Reservation, Settlement
from corollary.serving._money import Limit


@pytest.fixture(scope="module")
def postgres_url():
    with postgres() as url:
        yield url


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared.sqlite"
    url = request.getfixturevalue("postgres_url")
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as link:  # empty again
        t.metadata.drop_all(link)
    engine.dispose()
    return url


def two(database, mock, budget, count):
    """Requests of two gateways in turns, from many threads."""
    config = {"upstreams": tables(mock.url, concurrency=200), "budgets": [budget], "ledger": {"url": database}}
    with running(config) as (one, first), running(config) as (other, second):
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda i: ask((one, other)[i % 2])[0], range(count)))
        settled(first)
        settled(second)
        codes = [found[0::2], found[1::2]]
        return codes, first.ledger.summary(), first.ledger.audit()


def test_two_gateways_at_the_edge_of_a_budget(database, mock):
    mock.mode = "no usage"  # every answer stays charged at its maximum: the edge is reached exactly
    money = 0.004
    codes, found, wrong = two(database, mock, {"money": money, "window": "1d"}, 160)
    assert wrong == []
    most = found["charged"] / found["states"]["answered"]
    assert money - most < found["charged"] <= money  # not one more would have fitted, and not one too many was sent
    assert sum(c.count(200) for c in codes) == found["states"]["answered"] == mock.billed
    assert all(200 in c and 429 in c for c in codes)


def test_two_gateways_settle_what_each_of_them_reserved(database, mock):
    _, found, wrong = two(database, mock, {"money": 0.01, "window": "1d"}, 60)
    assert wrong == []
    assert found["in_flight"] == 0
    assert found["charged"] == pytest.approx(mock.billed * cost("small"), abs=1e-9)
    check_statement(database, mock.billed * cost("small"))


def test_accounts_in_any_order_never_lock_each_other_out(database):
    """Reservations against several accounts in opposite orders, from two ledgers at once: no deadlock, exact sums."""
    ledgers = [GatewayLedger(database), GatewayLedger(database)]
    limits = [Limit(f"key:{name}/forever", None, 1000, None) for name in "abcd"]
    done, wrong = [], []

    def play(which):
        async def all_of_them():
            for i in range(60):
                order = limits if (i + which) % 2 else limits[::-1]
                call = Call(f"{which}-{i}.0", f"{which}-{i}", "m", (), 10, 1, 1.0)
                try:
                    await ledgers[which].reserve(Reservation(call, tuple(order[i % 3 :])))
                except OverBudget:
                    continue
                done.append(call)
                if i % 2:
                    ledgers[which].settle(Settlement(call, ANSWERED, 4, 1, 1, 1))

        try:
            asyncio.run(all_of_them())
        except Exception as problem:
            wrong.append(problem)

    threads = [threading.Thread(target=play, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    for ledger in ledgers:
        ledger.close()
    check = GatewayLedger(database, read_only=True)
    assert check.audit() == []
    assert all(row["money"] <= 1000 for row in check.read(sa.select(t.account)))
    assert len(done) == check.summary()["states"]["answered"] + check.summary()["states"].get("pending", 0)
    check.close()


def test_a_key_made_at_one_replica_opens_both_and_revocations_reach_both(database, mock):
    config = {"upstreams": tables(mock.url), "ledger": {"url": database}}
    with running(config) as (one, first), running(config) as (other, second):
        add_key(first.ledger.engine, "ann")
        for gateway in (first, second):
            gateway._refresh()
        assert [ask(one)[0], ask(other)[0]] == [401, 401]


def test_two_replicas_may_start_at_once_on_an_empty_database(database):
    found = []
    threads = [threading.Thread(target=lambda: found.append(GatewayLedger(database))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4
    [rows] = {len(ledger.read(sa.select(t.version))) for ledger in found}
    assert rows == 1
    for ledger in found:
        ledger.close()


def test_a_database_that_comes_back_is_used_again(postgres_url, mock):
    """Connections broken from the other side: the writer takes a new one, and the request succeeds."""
    config = {"upstreams": tables(mock.url), "ledger": {"url": postgres_url}}
    with running(config) as (base, gateway):
        assert ask(base)[0] == 200
        with gateway.ledger.engine.begin() as link:
            link.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                                 "AND datname = current_database()")  # fmt: skip
        assert ask(base)[0] == 200
        assert gateway.ledger.audit() == []
