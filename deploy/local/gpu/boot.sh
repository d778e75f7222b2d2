#!/bin/sh
# What the GPU machine runs: the four services as approach B describes them, without a GPU, and its own registration.
set -eu
role=gpu
. "$(dirname "$0")/../machine-lib.sh"
SERVICES="chatterbox whisper llama-cpp qwen-embeddings"
HEALTHY_SECONDS=600

compose() {
  docker compose -p wopr-gpu --project-directory $ops --env-file $ops/local/gpu/cpu.env -f $ops/docker-compose.local.yml \
    --profile voice --profile llm "$@"
}

# Every image of the services, each once.
images() { compose config | sed -n 's/^ *image: *//p' | grep -v -e postgres: -e caddy: -e wopr-platform | sort -u; }

wait_healthy() {
  began=$(date +%s)
  for port in 8080 8081 8082 8083; do
    until wget -q -T 5 -O /dev/null http://127.0.0.1:$port/health 2>/dev/null; do
      [ $(($(date +%s) - began)) -lt $HEALTHY_SECONDS ] || { say "port $port does not answer within $HEALTHY_SECONDS s: docker exec wopr-gpu docker ps -a"; exit 1; }
      sleep 0.5
    done
  done
}

wait_engine
log_in
for image in $(images); do have "$image" >/dev/null; done
compose up -d --no-deps $SERVICES 2>&1
wait_healthy
started "GPU stack started."
