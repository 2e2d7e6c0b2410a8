#!/bin/sh
# Starts a further node of a Ray cluster here.
#
#   deploy/ray/start-node.sh 10.20.0.4:6379               # goes to the background
#   deploy/ray/start-node.sh 10.20.0.4:6379 --block       # stays; further options are ray start's
#
# The token and the version of farsim[train] must be the head's; see start-head.sh.
set -eu
[ $# -ge 1 ] || {
	echo "usage: $0 HEAD:PORT [OPTION OF RAY START...]" >&2
	exit 2
}
. "$(dirname "$0")/options.sh"
head=$1
shift
# shellcheck disable=SC2086 # Options, one a word.
exec ray start --address="$head" $options "$@"
