#!/usr/bin/env bash
# Builds the runtime image, its CPU variant, for tests: with-podman.sh build-image.sh IMAGE
# No registry of images is needed: without BASE_IMAGE the base is made of Debian packages, once; it is kept as a file
# in CACHE. Wheels come from where pip has them.
set -euo pipefail
image=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${CACHE:?with-podman.sh sets it}
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

base=${BASE_IMAGE:-}
if [ -z "$base" ]; then
    python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
        echo "the base has Python 3.11, and wheels for it are fetched by one of that version; or name a BASE_IMAGE" >&2
        exit 1
    }
    base=localhost/invarlock-base:bookworm
    rootfs=$cache/bookworm.tar
    if [ ! -f "$rootfs" ]; then
        # in memory where there is any: dpkg waits for the disk after every file
        scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)")
        TMPDIR=$scratch mmdebstrap --quiet --variant=minbase --include=python3,python3-venv bookworm "$scratch/rootfs.tar"
        mv "$scratch/rootfs.tar" "$rootfs.part" && mv "$rootfs.part" "$rootfs"
        rm -rf "$scratch"
    fi
    podman image exists "$base" || podman import --quiet "$rootfs" "$base" > /dev/null
fi

(cd "$root" && tar -c --exclude=__pycache__ --exclude=.tox \
    invarlock packer contracts pyproject.toml constraints.txt README.md LICENSE Containerfile .containerignore) | tar -xC "$context"
python -m pip download -q -d "$context/wheels" -c "$root/constraints.txt" "${root}[suite,parquet,yaml]" 'setuptools>=77'
podman build --quiet --layers=false --network=none --tag "$image" \
    --build-arg BASE="$base" --build-arg VARIANT=cpu \
    --build-arg PIP_OPTIONS='--no-index --find-links=/build/wheels' \
    --build-arg REVISION="$(git -C "$root" rev-parse HEAD)" \
    --build-arg VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")" \
    "$context"
podman image prune --force > /dev/null
