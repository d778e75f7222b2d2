#!/bin/sh
# Registers wopr-gpu as a node by hand, as the runbook does: its address into a row, by psql inside the VPS's PostgreSQL.
# Safe to run again. Without it the machine registers itself.
set -eu
here=$(dirname "$0")
node=${GPU_NODE_ID:-local-gpu-node-001}
address=$(docker inspect --format '{{(index .NetworkSettings.Networks "wopr-dev").IPAddress}}' wopr-gpu 2>/dev/null) || address=
[ -n "$address" ] || {
  echo "error: wopr-gpu does not run" >&2
  echo "  fix: docker compose -f $here/docker-compose.yml up -d" >&2
  exit 1
}
docker exec -i wopr-vps docker exec -i \
  -e GPU_NODE_ID="$node" -e GPU_NODE_HOST="$address" -e GPU_NODE_SIZE=cpu \
  -e LLAMA_PORT=8080 -e CHATTERBOX_PORT=8081 -e WHISPER_PORT=8082 -e QWEN_PORT=8083 \
  wopr-vps-postgres psql -q -v ON_ERROR_STOP=1 -U wopr -d wopr_platform <"$here/../gpu-seeder.sql"
echo "$node is registered at $address; the watchdog looks at it within seconds"
