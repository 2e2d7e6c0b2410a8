#!/bin/sh
# Generates the Python stubs of the contract as DIR/farsim/v1/*; DIR is the repository's root
# unless given. The tools are an old grpcio-tools, so that the stubs run with old and new runtimes
# alike; `make setup` puts them into the virtual environment, in proto-tools.
#
#   usage: proto/generate.sh [DIR]
#   PYTHON   the interpreter whose environment has the tools; .venv/bin/python unless set
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root}
python=${PYTHON:-$root/.venv/bin/python}

tools=$("$python" -c 'import sys; print(sys.prefix)')/proto-tools
if [ ! -d "$tools/grpc_tools" ]; then
    echo "$0: no grpc_tools in $tools; run \`make setup\` first" >&2
    exit 1
fi

protoc() {
    PYTHONPATH=$tools "$python" -m grpc_tools.protoc -I"$root/proto" "$@"
}

mkdir -p "$out"
for file in "$root"/proto/farsim/v1/*.proto; do
    protoc --python_out="$out" --pyi_out="$out" "$file"
    # For a file without a service the plugin would write a stub without content.
    if grep -q '^service ' "$file"; then
        protoc --grpc_python_out="$out" "$file"
    fi
done
