#!/bin/sh
# Starts the first node of a Ray cluster here, where farsim train will run.
#
#   deploy/ray/start-head.sh                              # goes to the background
#   deploy/ray/start-head.sh --block --num-cpus=4         # stays; further options are ray start's
#
# Every node needs the same token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token) and
# the same version of farsim[train].
set -eu
. "$(dirname "$0")/options.sh"
# shellcheck disable=SC2086 # Options, one a word.
exec ray start --head --port=6379 --ray-client-server-port=10001 --include-dashboard=false $options "$@"
