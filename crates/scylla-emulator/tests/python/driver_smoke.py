"""Uses the emulator through Python's scylla-driver and checks every answer.

Usage: driver_smoke.py HOST PORT
"""

import datetime
import decimal
import sys
import uuid

from cassandra import AlreadyExists, ConsistencyLevel, InvalidRequest
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.policies import RoundRobinPolicy
from cassandra.protocol import SyntaxException
from cassandra.query import BatchStatement, BatchType, SimpleStatement, dict_factory


def check(what, got, expected):
    if got != expected:
        sys.exit(f"{what}\n  expected {expected!r}\n  got      {got!r}")
    print(f"ok   {what}")


def refused(what, session, statement, error, text):
    try:
        session.execute(statement)
    except error as raised:
        check(what, text in str(raised), True)
    else:
        sys.exit(f"{what}: not refused")


def schema(session, cluster):
    session.execute(
        "CREATE KEYSPACE py WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}"
    )
    session.set_keyspace("py")
    created = session.execute(
        "CREATE TABLE events (pk int, ck int, kind text, payload blob, tags set<text>, PRIMARY KEY (pk, ck))"
        " WITH CLUSTERING ORDER BY (ck DESC) AND cdc = {'enabled': true, 'ttl': 3600}"
    )
    check("schema agreement", created.response_future.is_schema_agreed, True)
    table = cluster.metadata.keyspaces["py"].tables["events"]
    check("partition key", [c.name for c in table.partition_key], ["pk"])
    check("clustering key", [(c.name, c.is_reversed) for c in table.clustering_key], [("ck", True)])
    check("column types", {n: c.cql_type for n, c in table.columns.items()}, {
        "pk": "int", "ck": "int", "kind": "text", "payload": "blob", "tags": "set<text>",
    })
    # The driver learns of the log table from an event that it handles later; ask now.
    cluster.refresh_schema_metadata()
    log = cluster.metadata.keyspaces["py"].tables["events_scylla_cdc_log"]
    check("log table key", [c.name for c in log.primary_key], ["cdc$stream_id", "cdc$time", "cdc$batch_seq_no"])
    check("described", "CREATE TABLE py.events" in table.export_as_string(), True)


def rows(session):
    insert = session.prepare("INSERT INTO events (pk, ck, kind, payload, tags) VALUES (?, ?, ?, ?, ?)")
    values = [(1, ck, f"kind {ck}", bytes([ck % 256]), {"a", "b"}) for ck in range(300)]
    results = execute_concurrent_with_args(session, insert, values, concurrency=50)
    check("inserts", all(result.success for result in results), True)
    select = SimpleStatement("SELECT ck FROM events WHERE pk = 1", fetch_size=47)
    check("pages, descending", [row["ck"] for row in session.execute(select)], list(range(299, -1, -1)))
    bound = session.prepare("SELECT kind, payload, tags FROM events WHERE pk = ? AND ck = ?")
    check("one row", session.execute(bound, (1, 7)).one(), {
        "kind": "kind 7", "payload": b"\x07", "tags": {"a", "b"},
    })
    named = "SELECT count(*) AS n FROM events WHERE pk = %(pk)s AND ck < %(ck)s"
    check("count", session.execute(named, {"pk": 1, "ck": 10}).one(), {"n": 10})


def batches(session):
    insert = session.prepare("INSERT INTO events (pk, ck, kind) VALUES (?, ?, ?)")
    batch = BatchStatement(BatchType.LOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
    batch.add(insert, (2, 1, "first"))
    batch.add(insert, (3, 1, "second"))
    batch.add("INSERT INTO events (pk, ck, kind) VALUES (%s, %s, %s)", (2, 2, "third"))
    session.execute(batch)
    found = session.execute("SELECT pk, ck, kind FROM events WHERE pk IN (2, 3)")
    check("batch", sorted((r["pk"], r["ck"], r["kind"]) for r in found), [
        (2, 1, "first"), (2, 2, "third"), (3, 1, "second"),
    ])
    log = list(session.execute('SELECT pk, ck, kind, "cdc$operation", "cdc$ttl" FROM events_scylla_cdc_log'))
    mine = sorted((r["pk"], r["ck"], r["kind"]) for r in log if r["pk"] in (2, 3))
    check("log of the batch", mine, [(2, 1, "first"), (2, 2, "third"), (3, 1, "second")])
    check("operations", {r["cdc$operation"] for r in log}, {2})


def transactions(session):
    insert = "INSERT INTO events (pk, ck, kind) VALUES (9, 9, 'lwt') IF NOT EXISTS"
    check("applied", session.execute(insert).was_applied, True)
    check("not applied", session.execute(insert).was_applied, False)
    check("conditional", session.execute(
        "UPDATE events SET kind = 'new' WHERE pk = 9 AND ck = 9 IF kind = 'lwt'").was_applied, True)


def types(session):
    values = {
        "a": ("bigint", -(2**63)), "b": ("boolean", True), "c": ("decimal", decimal.Decimal("12.345")),
        "d": ("double", 0.5), "e": ("inet", "127.0.0.1"), "f": ("varint", 2**80), "g": ("smallint", -5),
        "h": ("timestamp", datetime.datetime(2023, 11, 14, 22, 13, 20, 123000)),
        "i": ("uuid", uuid.UUID("00000000-0000-4000-8000-000000000001")),
        "j": ("list<int>", [3, 1, 2]), "k": ("map<text, int>", {"x": 1}), "l": ("frozen<set<int>>", {1, 2}),
        "m": ("timeuuid", uuid.UUID("5132b130-ae79-11e4-ab27-000000000001")), "n": ("ascii", "plain"),
    }
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in values.items())
    session.execute(f"CREATE TABLE types (pk int PRIMARY KEY, {columns})")
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    insert = session.prepare(f"INSERT INTO types (pk, {names}) VALUES (1, {marks})")
    session.execute(insert, [value for _, value in values.values()])
    got = session.execute(f"SELECT {names} FROM types WHERE pk = 1").one()
    for name, (kind, value) in values.items():
        # Collections come back as the driver's own sorted types, which compare equal to the plain ones.
        check(f"type {kind}", got[name] == value, True)


def refusals(session):
    refused("syntax error", session, "SELEC * FROM events", SyntaxException, "no viable alternative")
    refused("unknown table", session, "SELECT * FROM nonesuch", InvalidRequest, "unconfigured table nonesuch")
    refused("existing table", session, "CREATE TABLE events (pk int PRIMARY KEY)", AlreadyExists, "already exists")


def main():
    host, port = sys.argv[1], int(sys.argv[2])
    profile = ExecutionProfile(load_balancing_policy=RoundRobinPolicy(), row_factory=dict_factory, request_timeout=30)
    cluster = Cluster([host], port=port, execution_profiles={EXEC_PROFILE_DEFAULT: profile})
    session = cluster.connect()
    check("protocol version", cluster.protocol_version, 4)
    check("shard-aware", cluster.is_shard_aware(), True)
    check("hosts up", [host.is_up for host in cluster.metadata.all_hosts()], [True])
    check("token map", len(cluster.metadata.token_map.ring), 4)
    schema(session, cluster)
    rows(session)
    batches(session)
    transactions(session)
    types(session)
    refusals(session)
    session.execute("DROP KEYSPACE py")
    check("dropped", "py" in cluster.metadata.keyspaces, False)
    cluster.shutdown()


if __name__ == "__main__":
    main()
