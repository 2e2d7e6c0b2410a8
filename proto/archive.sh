#!/bin/sh
# Packs the contract for those who have nothing else of Farsim: the .proto files, their descriptor
# set with comments (for generators and tools that read no .proto), and the golden bytes to test a
# codec against. The same content gives the same bytes.
#
#   usage: proto/archive.sh DIR        writes DIR/farsim-proto.tar.gz
#   PYTHON   as for generate.sh
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?usage: proto/archive.sh DIR}
python=${PYTHON:-$root/.venv/bin/python}

tools=$("$python" -c 'import sys; print(sys.prefix)')/proto-tools
if [ ! -d "$tools/grpc_tools" ]; then
    echo "$0: no grpc_tools in $tools; run \`make setup\` first" >&2
    exit 1
fi

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
archive=$staging/farsim-proto
mkdir -p "$archive/farsim/v1" "$archive/golden" "$out"
cp "$root"/proto/farsim/v1/*.proto "$archive/farsim/v1/"
cp "$root"/tests/data/golden/*.json "$archive/golden/"
cp "$root/LICENSE" "$archive/"
# Links to what is not in the archive become their text.
sed -E -e 's#\.\./proto/farsim/#farsim/#g' -e 's#\.\./tests/data/golden#golden#g' \
    -e 's#\[([^]]+)\]\((\.\./|[a-z]+\.md)[^)]*\)#\1#g' "$root/docs/authoring.md" > "$archive/README.md"
(
    cd "$root/proto"
    PYTHONPATH=$tools "$python" -m grpc_tools.protoc -I. --include_imports --include_source_info \
        --descriptor_set_out="$archive/farsim.v1.binpb" farsim/v1/*.proto
)
chmod -R u=rwX,go=rX "$archive"
tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
    --directory "$staging" farsim-proto | gzip --no-name > "$out/farsim-proto.tar.gz"
echo "$out/farsim-proto.tar.gz"
