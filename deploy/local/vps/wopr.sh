#!/bin/sh
# wopr COMMAND...: the command line on the VPS's installation, from the image that serves, or from $IMAGE. In the machine it is
# called `wopr`: docker exec wopr-vps wopr releases
set -eu
dir=/root/wopr-platform
image=${IMAGE:-$(sed -n 's/^WOPR_DELIVERER_IMAGE=//p' $dir/stack.env)}
exec docker run --rm --user 0:0 --env WOPR_HOME=$dir --volume $dir:$dir --volume /var/run/docker.sock:/var/run/docker.sock \
  "$image" "$@" --dir $dir --name wopr-vps
