# What machine.sh and both boot.sh need; read with `.`, after `role` is set.
ENGINE_SECONDS=120
NODE_ID=local-gpu-node-001
ops=/wopr-ops

say() { echo "==> $*"; }

# The engine of a machine with much in its volume takes a while.
wait_engine() {
  began=$(date +%s)
  until docker info >/dev/null 2>&1; do
    [ $(($(date +%s) - began)) -lt $ENGINE_SECONDS ] || { say "no Docker engine within $ENGINE_SECONDS s: /var/log/dockerd.log"; exit 1; }
    sleep 0.2
  done
  say "Docker engine up"
}

# setting NAME: its value in vps/.env or else in defaults.env, without quotes.
setting() {
  cat $ops/local/vps/defaults.env $ops/local/vps/.env 2>/dev/null | sed -n "s/^\(export \)\{0,1\}$1=//p" | tail -n 1 \
    | sed "s/^'\(.*\)'\$/\1/; s/^\"\(.*\)\"\$/\1/"
}

# address_of MACHINE: containers inside a machine know no machine by its name, since Docker's resolver does not reach them.
address_of() { getent hosts "$1" | awk '{ print $1; exit }'; }

# What the node reports with, and the key of its services, which a rented node is given.
node_secret() { setting GPU_NODE_SECRET; }
node_key() { node_secret | sha256sum | cut -d ' ' -f 1; }

# Before the first pull: with the credentials of vps/.env, else with the host's own. A `docker login` in here is kept.
log_in() {
  user=$(setting REGISTRY_USERNAME)
  server=$(setting REGISTRY_SERVER)
  if [ -n "$user" ]; then
    setting REGISTRY_PASSWORD | docker login "${server:-ghcr.io}" --username "$user" --password-stdin >/dev/null 2>&1 \
      && say "logged in to ${server:-ghcr.io}" || say "login to ${server:-ghcr.io} refused: REGISTRY_* in local/vps/.env"
  elif [ ! -f /root/.docker/config.json ] && [ -f /root/.docker-host/config.json ]; then
    # A helper program for credentials is on the host only.
    grep -q -e credsStore -e credHelpers /root/.docker-host/config.json \
      || { mkdir -p /root/.docker && cp /root/.docker-host/config.json /root/.docker/config.json; }
  fi
}

# have IMAGE...: writes the first of them that is here; with none, the last is pulled, or waited for until somebody loads it.
have() (
  tries=0
  while :; do
    for image in "$@"; do
      if docker image inspect "$image" >/dev/null 2>&1; then
        echo "$image"
        exit
      fi
    done
    if [ "${PULL:-missing}" != never ] && [ $((tries % 30)) = 0 ] && docker pull --quiet "$image" >/dev/null 2>&1; then
      say "pulled $image" >&2
      continue
    fi
    [ $tries != 0 ] || say "waiting for $image; from a host that has it: docker save $image | docker exec -i wopr-$role docker load" >&2
    tries=$((tries + 1))
    sleep 1
  done
)

started() {
  say "$1"
  touch /run/wopr-started
}
