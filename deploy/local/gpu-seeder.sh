#!/bin/sh
# Registers wopr-gpu as a node by hand, as the runbook does: a row, by psql inside the VPS's PostgreSQL. Safe to run again.
# Without it the machine registers itself. Its name is the host, since its address changes with each `down`.
set -eu
here=$(dirname "$0")
node=${GPU_NODE_ID:-local-gpu-node-001}
docker inspect wopr-gpu >/dev/null 2>&1 || {
  echo "error: wopr-gpu does not run" >&2
  echo "  fix: docker compose -f $here/docker-compose.yml up -d" >&2
  exit 1
}
docker exec -i wopr-vps docker exec -i \
  -e GPU_NODE_ID="$node" -e GPU_NODE_HOST=wopr-gpu -e GPU_NODE_SIZE=cpu \
  -e LLAMA_PORT=8080 -e CHATTERBOX_PORT=8081 -e WHISPER_PORT=8082 -e QWEN_PORT=8083 \
  wopr-vps-postgres psql -q -v ON_ERROR_STOP=1 -U wopr -d wopr_platform <"$here/../gpu-seeder.sql"
echo "$node is registered at wopr-gpu; the watchdog looks at it within seconds"
