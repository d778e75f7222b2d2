#!/bin/sh
# machine.sh vps|gpu: the first process of a machine in a container. Starts the machine's own Docker engine, then what its
# role brings up on it. When the machine is stopped, the engine ends in order, so that no database inside is cut.
set -eu
role=$1
here=$(dirname "$0")
. "$here/machine-lib.sh"
log=/var/log/dockerd.log

begin_engine() {
  rm -rf /run/wopr-started /var/run/docker /var/run/docker.pid /var/run/docker.sock # what a killed one left
  # Without --tls=false it would wait for 15 s before it listens.
  set -- dockerd --tls=false --log-level warn --host unix:///var/run/docker.sock
  # Networks in here outlive the one between the machines, which is made anew with an address that is free outside: from
  # the same pool both came to have the same one, and the way to the other machine ended in here.
  set -- "$@" --default-address-pool base=10.217.0.0/16,size=24
  for registry in $(setting REGISTRY_PLAIN_HTTP | tr ',' ' '); do set -- "$@" --insecure-registry "$registry"; done
  # The public image prepares control groups and iptables in its own entrypoint.
  if command -v dockerd-entrypoint.sh >/dev/null; then set -- dockerd-entrypoint.sh "$@"; else make_writable; fi
  "$@" >"$log" 2>&1 &
  engine=$!
}

# Without --privileged these are mounted read-only.
make_writable() {
  for place in /sys /proc/sys /sys/fs/cgroup; do
    if mountpoint -q $place; then mount -o remount,rw $place || true; fi
  done
  for place in /sys/fs/cgroup/*/; do
    if mountpoint -q "$place"; then mount -o remount,bind,rw "$place" || true; fi
  done
}

end() {
  trap '' TERM INT
  kill "$work" 2>/dev/null || true
  kill "$engine" 2>/dev/null || true
  wait "$engine" || true
  exit 0
}

say "starting the Docker engine of wopr-$role"
begin_engine
{ sh "$here/$role/boot.sh" || say "wopr-$role is not started; once that is mended: docker restart wopr-$role"; } &
work=$!
trap end TERM INT
wait "$engine" || true
say "the Docker engine ended:"
tail -n 20 "$log"
exit 1
