# Read by start-head.sh and start-node.sh: who may come in, and by which ports.

command -v ray >/dev/null || {
	echo "error: no ray here: pip install 'farsim[train]' on every node, the same version" >&2
	exit 2
}

# Whoever reaches a cluster without a token runs what they like on it.
export RAY_AUTH_MODE=token
token=${RAY_AUTH_TOKEN_PATH:-${HOME:-}/.ray/auth_token}
if [ -z "${RAY_AUTH_TOKEN:-}" ] && ! [ -s "$token" ]; then
	echo "error: no token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or make $token with" \
		"'ray get-auth-token --generate' on one node and copy it to the others" >&2
	exit 2
fi

# The ports of a node, which security rules name (deploy/azure/rules.py).
options="
	--node-manager-port=8076
	--object-manager-port=8077
	--runtime-env-agent-port=8078
	--dashboard-agent-grpc-port=8079
	--dashboard-agent-listen-port=8080
	--metrics-export-port=8081
	--min-worker-port=10002
	--max-worker-port=19999
	--disable-usage-stats
"
