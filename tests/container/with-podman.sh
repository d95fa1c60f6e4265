#!/usr/bin/env bash
# Runs a command with a podman of the tests' own: with-podman.sh COMMAND...
# Its images lie apart from the user's, and what it needs on machines without systemd (runc, cgroupfs) is said in its
# configuration, so that every podman is started with the same options.
set -euo pipefail
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/invarlock-tests}
mkdir -p "$cache"
driver=vfs
if [ "$(id -u)" = 0 ] && grep -qw overlay /proc/filesystems; then driver=overlay; fi
runtime=$(command -v runc > /dev/null && echo runc || echo crun)
cat > "$cache/containers.conf" << END
[network]
network_backend = "netavark"
[engine]
cgroup_manager = "cgroupfs"
runtime = "$runtime"
events_logger = "file"
END
cat > "$cache/storage.conf" << END
[storage]
driver = "$driver"
graphroot = "$cache/storage-$driver"
runroot = "$cache/storage-run-$driver"
END
export CACHE=$cache CONTAINERS_CONF=$cache/containers.conf CONTAINERS_STORAGE_CONF=$cache/storage.conf
exec "$@"
