"""The runbook's SQL runs on our table as it is written there."""

import asyncpg

from wopr.core.db import Database
from wopr.inference.nodes import healthy_backends

INSERT = """
INSERT INTO gpu_nodes (id, host, region, size, status, provision_stage, service_health, monthly_cost_cents)
VALUES (
  'local-gpu-node-001',
  'host.docker.internal',
  'local',
  'rtx-3070',
  'active',
  'done',
  '{"llama":true,"chatterbox":true,"whisper":true,"qwen":true}',
  0
) ON CONFLICT (id) DO UPDATE SET
  host = 'host.docker.internal',
  status = 'active',
  provision_stage = 'done',
  service_health = '{"llama":true,"chatterbox":true,"whisper":true,"qwen":true}',
  updated_at = EXTRACT(epoch FROM now())::bigint;
"""
SELECT = "SELECT id, host, status, service_health FROM gpu_nodes;"


async def test_the_seeders_insert_runs_twice_and_its_select_finds_one_row(db: Database) -> None:
    connection = await asyncpg.connect(db.url)
    try:
        await connection.execute(INSERT)
        await connection.execute(INSERT)
        rows = await connection.fetch(SELECT)
    finally:
        await connection.close()
    assert [(row["id"], row["host"], row["status"]) for row in rows] == [
        ("local-gpu-node-001", "host.docker.internal", "active")
    ]
    async with db.begin() as session:
        backends = await healthy_backends(session)
    assert [(b.service, b.base_url) for b in backends] == [
        ("chatterbox", "http://host.docker.internal:8081"),
        ("llama", "http://host.docker.internal:8080"),
        ("qwen", "http://host.docker.internal:8083"),
        ("whisper", "http://host.docker.internal:8082"),
    ]


async def test_what_the_runbook_writes_is_announced_without_our_code(db: Database) -> None:
    heard: list[str] = []
    connection = await asyncpg.connect(db.url)
    try:
        await connection.add_listener("wopr_nodes", lambda *call: heard.append(call[3]))
        await connection.execute(INSERT)
        await connection.execute("UPDATE gpu_nodes SET last_health_at = 1")
        await connection.execute("UPDATE gpu_nodes SET status = 'failed'")
        await connection.execute("DELETE FROM gpu_nodes")
        await connection.fetchval("SELECT 1")
    finally:
        await connection.close()
    assert heard == ["local-gpu-node-001"] * 3
