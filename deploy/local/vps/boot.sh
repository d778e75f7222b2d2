#!/bin/sh
# What the VPS runs: a release as in production, made by `wopr deploy` from the platform's own image, with production's
# compose.yaml and Caddyfile as that image ships them. Beside them only what doors.yaml lists.
set -eu
role=vps
. "$(dirname "$0")/../machine-lib.sh"
dir=/root/wopr-platform
# The name under which images are built here and loaded; it comes before what a registry has.
built=ghcr.io/wopr-network/wopr-platform:local
READY_SECONDS=180
LOCK_SECONDS=30
# Two machines and everything in them boot at once on one host: a release may take longer than on a VPS of its own.
patient="--yes --observe 2 --ready 60"

# Keeps of each setting on standard input the line that came last.
last_of_each() {
  awk '/^(export )?[A-Za-z_][A-Za-z_0-9]*=/ {
         name = $0; sub(/^export /, "", name); sub(/=.*/, "", name)
         if (!(name in line)) names[++count] = name
         line[name] = $0
       }
       END { for (i = 1; i <= count; i++) print line[names[i]] }'
}

# vps/.env over the defaults, and both over the secrets that the first release made for itself.
settings() {
  mkdir -p $dir
  umask 077
  { cat $ops/local/vps/defaults.env; cat $ops/local/vps/.env 2>/dev/null || say "no local/vps/.env: defaults only" >&2; } | last_of_each >/tmp/given
  { grep -E '^(BETTER_AUTH_SECRET|PLATFORM_SECRET|GPU_NODE_SECRET|POSTGRES_PASSWORD)=' $dir/.env 2>/dev/null || true; cat /tmp/given; } \
    | last_of_each >/tmp/env
  umask 022
}

wopr() { IMAGE=$image sh $ops/local/vps/wopr.sh "$@"; }

compose() { docker compose --env-file $dir/stack.env "$@"; }

# What was built here and loaded, else what the registry has.
choose_image() {
  image=$(have $built "$(setting WOPR_IMAGE)")
}

# The first release; later only when the settings changed: what ran before runs again by itself.
release() {
  choose_image
  if [ ! -f $dir/.env.given ]; then
    for other in postgres:16-alpine caddy:2-alpine "$(setting BOT_IMAGE)"; do have "$other" >/dev/null; done
    say "first release: $image"
    deploy "$image" --trigger "first boot"
    compose -p wopr-vps --project-directory $dir -f $dir/compose.yaml up -d --no-deps deliverer 2>&1
  elif ! cmp -s /tmp/given $dir/.env.given; then
    say "the settings changed"
    deploy --trigger "changed settings"
    docker restart wopr-vps-deliverer >/dev/null
  fi
}

# A deployer that died when the machine went down is not missed at once: its lock frees itself after 15 s.
deploy() {
  install -m 600 /tmp/env $dir/.env
  began=$(date +%s)
  until wopr deploy "$@" $patient; do
    [ $(($(date +%s) - began)) -lt $LOCK_SECONDS ] && wopr lock show --dir $dir | grep -q " runs " || return 1
    say "waiting for the lock of a deployer before this boot"
    sleep 3
  done
  install -m 600 /tmp/given $dir/.env.given
}

wait_ready() {
  began=$(date +%s)
  until docker exec wopr-vps-caddy wget -q -T 5 -O /dev/null http://127.0.0.1:3100/ready 2>/dev/null; do
    [ $(($(date +%s) - began)) -lt $READY_SECONDS ] || { say "not ready within $READY_SECONDS s: docker exec wopr-vps docker ps -a"; exit 1; }
    sleep 0.5
  done
}

# The row that the provisioner writes in production before it asks for a machine; the machine's reports move it on.
expect_node() {
  docker exec -i wopr-vps-postgres psql -q -v ON_ERROR_STOP=1 -U wopr -d wopr_platform <<END
INSERT INTO gpu_nodes (id, host, region, size, status, provision_stage, api_key)
VALUES ('$NODE_ID', '$1', 'local', 'cpu', 'provisioning', 'waiting_agent', '$(node_key)')
ON CONFLICT (id) DO UPDATE SET host = excluded.host, api_key = excluded.api_key
WHERE (gpu_nodes.host, gpu_nodes.api_key) IS DISTINCT FROM (excluded.host, excluded.api_key);
END
}

# The node's address is another one when its machine was made anew.
follow_node() {
  known=
  while :; do
    address=$(address_of wopr-gpu)
    if [ -n "$address" ] && [ "$address" != "$known" ]; then expect_node "$address" && known=$address; fi
    sleep 2
  done
}

printf '#!/bin/sh\nexec sh %s/local/vps/wopr.sh "$@"\n' $ops >/usr/local/bin/wopr
chmod 755 /usr/local/bin/wopr
wait_engine
settings
log_in
release
compose -p wopr-vps-doors -f $ops/local/vps/doors.yaml up -d 2>&1
wait_ready
follow_node &
started "VPS stack started."
# After `docker load`, `docker restart wopr-vps-platform-api` releases the image that was loaded.
docker events --filter container=wopr-vps-platform-api --filter event=restart --format '{{.Time}}' | while read -r _; do
  choose_image
  say "releasing $image"
  if wopr deploy "$image" $patient --trigger "docker restart" </dev/null; then
    say "released $image"
  else
    say "not released $image: what served goes on"
  fi
done
