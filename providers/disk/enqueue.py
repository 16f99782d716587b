"""Enqueues a job in the same transaction as the row that it is about."""

import json
import sqlite3
import sys

db = sqlite3.connect(sys.argv[1])
db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT)")
with db:  # one transaction: both rows, or neither
    order = db.execute("INSERT INTO orders (item) VALUES ('tea')").lastrowid
    db.execute(
        "INSERT INTO jobs (type, params, retries) VALUES (?, ?, ?)",
        ("cli", json.dumps({"command": "echo", "params": [f"order {order}"]}), 3),
    )
db.close()
