"""Runs cqlsh against the emulator and checks what it prints.

Usage: cqlsh_session.py CQLSH HOST PORT
"""

import os
import subprocess
import sys

SETUP = """
CREATE KEYSPACE shop WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1};
USE shop;
CREATE TYPE address (street text, number int);
CREATE TABLE orders (customer text, id int, total decimal, lines map<text, int>, PRIMARY KEY (customer, id))
  WITH CLUSTERING ORDER BY (id DESC) AND comment = 'what customers bought' AND cdc = {'enabled': true, 'preimage': true};
INSERT INTO orders (customer, id, total, lines) VALUES ('ann', 1, 9.95, {'tea': 2});
INSERT INTO orders (customer, id, total) VALUES ('ann', 2, 20) USING TTL 3600;
BEGIN BATCH
  INSERT INTO orders (customer, id, total) VALUES ('bob', 1, 1);
  INSERT INTO orders (customer, id, total) VALUES ('bob', 2, 2);
APPLY BATCH;
"""

# A session, and texts that its output must hold in this order.
SESSIONS = [
    ("DESCRIBE CLUSTER", ["Cluster: scylla-emulator", "Partitioner: Murmur3Partitioner"]),
    ("SHOW VERSION", ["cqlsh", "CQL spec 3.3.1"]),
    (SETUP.strip().removesuffix(";"), []),
    ("DESCRIBE KEYSPACES", ["shop"]),
    ("USE shop; DESCRIBE TABLES", ["orders"]),
    ("DESCRIBE TYPE shop.address", ["CREATE TYPE shop.address", "street text", "number int"]),
    ("DESCRIBE TABLE shop.orders", [
        "CREATE TABLE shop.orders", "customer text", "id int", "total decimal", "PRIMARY KEY (customer, id)",
        "CLUSTERING ORDER BY (id DESC)", "what customers bought",
    ]),
    ("DESCRIBE KEYSPACE shop", ["CREATE KEYSPACE shop", "CREATE TABLE shop.orders"]),
    ("SELECT id, total FROM shop.orders WHERE customer = 'ann'", ["id | total", "2 |    20", "1 |  9.95", "(2 rows)"]),
    ("SELECT lines FROM shop.orders WHERE customer = 'ann' AND id = 1", ["{'tea': 2}", "(1 rows)"]),
    ("SELECT count(*) FROM shop.orders", ["4", "(1 rows)"]),
    ("PAGING 2; SELECT id FROM shop.orders", ["(4 rows)"]),
    ('SELECT "cdc$operation", customer, id FROM shop.orders_scylla_cdc_log', ["(4 rows)"]),
    ("TRUNCATE shop.orders; SELECT * FROM shop.orders", ["(0 rows)"]),
    ("EXPAND ON; SELECT key, cql_version FROM system.local", ["@ Row 1", "key", "local"]),
    ("DROP KEYSPACE shop; DESCRIBE KEYSPACES", ["system_schema"]),
]

# A statement that must fail, and a text of the failure.
REFUSALS = [
    ("SELEC * FROM shop.orders", "no viable alternative"),
    ("SELECT * FROM nonesuch.t", "Keyspace nonesuch does not exist"),
]


def run(cqlsh, host, port, statements):
    environment = dict(os.environ, LC_ALL="C.UTF-8")
    return subprocess.run(
        [cqlsh, host, port, "--no-color", "-e", statements],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )


def main():
    cqlsh, host, port = sys.argv[1:4]
    for statements, expected in SESSIONS:
        done = run(cqlsh, host, port, statements)
        title = statements.strip().splitlines()[0][:60]
        if done.returncode != 0:
            sys.exit(f"cqlsh: {title}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        at = 0
        for text in expected:
            found = done.stdout.find(text, at)
            if found < 0:
                sys.exit(f"cqlsh: {title}: no {text!r} in\n{done.stdout}{done.stderr}")
            at = found + len(text)
        print(f"ok   cqlsh: {title}")
    for statement, text in REFUSALS:
        done = run(cqlsh, host, port, statement)
        if done.returncode == 0 or text not in done.stdout + done.stderr:
            sys.exit(f"cqlsh: {statement}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        print(f"ok   cqlsh refuses: {statement}")


if __name__ == "__main__":
    main()
