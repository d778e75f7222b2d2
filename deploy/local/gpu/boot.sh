#!/bin/sh
# What the GPU machine runs: the services and the gate of a rented node, by the compose file that cloud-init puts there, and
# then its registration, as a rented node reports: a stage at a time, with GPU_NODE_SECRET.
set -eu
role=gpu
. "$(dirname "$0")/../machine-lib.sh"
HEALTHY_SECONDS=600
REPORT_SECONDS=600

compose() { docker compose --project-name wopr-node --env-file /tmp/node.env -f /opt/wopr/compose.yaml "$@"; }

# What setup and the platform's answer set on a rented node.
prepare() {
  umask 077
  { cat $ops/local/gpu/node.env; echo "NODE_API_KEY=$(node_key)"; } >/tmp/node.env
  umask 022
}

wait_healthy() {
  began=$(date +%s)
  for port in 8080 8081 8082 8083; do
    until wget -q -T 5 -O /dev/null http://127.0.0.1:$port/health 2>/dev/null; do
      [ $(($(date +%s) - began)) -lt $HEALTHY_SECONDS ] || { say "port $port does not answer within $HEALTHY_SECONDS s: docker exec wopr-gpu docker ps -a"; exit 1; }
      sleep 0.5
    done
  done
}

# report STAGE: until the VPS takes it. The secret goes through standard input; curl is in the image of the text service.
report() {
  began=$(date +%s)
  until docker exec -i wopr-llama-cpp curl -fsS --max-time 10 --output /dev/null --config - 2>/tmp/report <<END
request = POST
url = "http://$(address_of wopr-vps):3100/internal/gpu/register?stage=$1&node_id=$NODE_ID"
header = "Authorization: Bearer $(node_secret)"
END
  do
    [ $(($(date +%s) - began)) -lt $REPORT_SECONDS ] || { say "not registered: $(cat /tmp/report)"; exit 1; }
    sleep 1
  done
}

wait_engine
log_in
prepare
for image in $(sed -n 's/^[A-Z]*_IMAGE=//p' /tmp/node.env); do have "$image" >/dev/null; done
compose up -d 2>&1
wait_healthy
started "GPU stack started."
report registering
report done
say "registered as $NODE_ID"
