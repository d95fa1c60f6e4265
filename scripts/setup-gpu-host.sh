#!/usr/bin/env bash
# Makes a CUDA host ready for the GPU suites: looks at driver, disk, Python and container engine, makes a virtual
# environment, installs, builds the runtime image, and says how to go on. Run it again at any time: what is there is
# kept. docs/gpu-host.md has the whole way to a pack.
set -euo pipefail

usage="usage: scripts/setup-gpu-host.sh [--check] [--execution container|host] [--venv DIR]

  --check      look, and print what would be run; change nothing
  --execution  container (default): suites run in the runtime image; host: here
  --venv DIR   the virtual environment, default .venv"
# What 'subset' takes at most: hub copy, baseline copy, a subject a worker; and what environment and image take.
run_gb=75
install_gb=20
image=${INVARLOCK_RUNTIME_IMAGE:-invarlock-runtime:local}
extras=suite,parquet,yaml
sees_gpu='import sys, torch; cuda = torch.version.cuda; torch.cuda.is_available() or sys.exit("PyTorch sees no GPU; it is built " + (f"for CUDA {cuda}: update the driver" if cuda else "without CUDA: install a build with it"))'

stop() {
  printf '%s\n' "$1" >&2
  exit 2
}

check=0
execution=container
venv=.venv
while [ $# -gt 0 ]; do
  case $1 in
    --check) check=1 ;;
    --execution) execution=${2-} && shift ;;
    --venv) venv=${2-} && shift ;;
    -h | --help) printf '%s\n' "$usage" && exit 0 ;;
    *) stop "setup-gpu-host.sh: unknown option '$1'; --help lists them" ;;
  esac
  shift || stop "setup-gpu-host.sh: the last option has no value"
done
case $execution in container | host) ;; *) stop "--execution: '$execution' is neither container nor host" ;; esac
[ -n "$venv" ] || stop "--venv: the folder's name is empty; leave the option out for .venv"
# a relative folder is one of the caller's
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing=()

check_driver() {
  local gpus
  if ! command -v nvidia-smi > /dev/null; then
    missing+=("driver: no nvidia-smi on the PATH; install the NVIDIA driver, restart, then run this again")
  elif ! gpus=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>&1); then
    missing+=("driver: nvidia-smi fails (${gpus%%$'\n'*}); load the driver, or restart, then run this again")
  elif [ -z "$gpus" ]; then
    missing+=("driver: nvidia-smi lists no GPU; look whether the machine has one")
  else
    printf 'GPU: %s\n' "$gpus"
  fi
}

check_disk() {
  local free needed keep=${MIN_FREE_DISK_GB:-200}
  [[ $keep =~ ^[0-9]+$ ]] || stop "MIN_FREE_DISK_GB: '$keep' is not a whole number of GB"
  free=$(($(df -Pk . | awk 'NR == 2 { print $4 }') * 1024 / 1000000000))
  needed=$((run_gb + install_gb + keep))
  if [ "$free" -lt "$needed" ] && [ "${PACK_SKIP_DISK_PREFLIGHT:-0}" != 1 ]; then
    missing+=("disk: $free GB free in $PWD, subset takes up to $run_gb, installing $install_gb, and $keep must stay free; use a larger disk, lower MIN_FREE_DISK_GB, or go on all the same: PACK_SKIP_DISK_PREFLIGHT=1")
  else
    printf 'disk: %s GB free\n' "$free"
  fi
}

check_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null; then
      if ! "$name" -c 'import ensurepip, venv' 2> /dev/null; then
        missing+=("Python: $name cannot make virtual environments; install its package $name-venv")
      fi
      python=$name
      printf 'Python: %s\n' "$("$name" --version)"
      return
    fi
  done
  missing+=("Python: none of 3.11 to 3.13 on the PATH; install python3 and python3-venv")
}

check_engine() {
  engine=${INVARLOCK_CONTAINER_ENGINE:-$(command -v podman || command -v docker || true)}
  if ! command -v "${engine:-none}" > /dev/null; then
    missing+=("container engine: ${engine:-neither podman nor docker} is there; install podman and nvidia-container-toolkit, or run on the host: --execution host")
  elif ! "$engine" info > /dev/null 2>&1; then
    missing+=("container engine: '$engine info' fails; start it, or let this user use it, or run on the host: --execution host")
  elif [ "${engine##*/}" = podman ] && ! compgen -G '/etc/cdi/*nvidia*' > /dev/null && ! compgen -G '/var/run/cdi/*nvidia*' > /dev/null; then
    missing+=("container engine: podman knows of no GPU; as root: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml (package nvidia-container-toolkit)")
  else
    printf 'container engine: %s\n' "$engine"
  fi
}

# Prints a command; runs it too, unless --check is given.
step() {
  printf '+ %s\n' "${*@Q}"
  [ "$check" = 1 ] || "$@"
}

command -v git > /dev/null || missing+=("git: not on the PATH; install it, a pack says which commit made it")
check_driver
check_disk
check_python
[ "$execution" = host ] || check_engine
if [ ${#missing[@]} -gt 0 ]; then
  printf '%s\n' "${missing[@]}" >&2
  exit 1
fi

[ -x "$venv/bin/python" ] || step "$python" -m venv "$venv"
step "$venv/bin/pip" install --quiet -c constraints.txt -e ".[$extras]"
if [ "$execution" = container ]; then
  step "$engine" build -t "$image" --build-arg "REVISION=$(git rev-parse HEAD 2> /dev/null || echo unknown)" .
fi
step "$venv/bin/python" -c "$sees_gpu"

host=''
[ "$execution" = container ] || host='INVARLOCK_ALLOW_HOST_EXECUTION=1 '
gpus=$(nvidia-smi --list-gpus | wc -l)
cat << END

Ready. Go on with:
  . ${venv@Q}/bin/activate
  invarlock keygen maker
  ${host}INVARLOCK_ALLOW_REMOTE_CODE=1 pytest suites -m subset -n $gpus --net 1 --signing-key maker.pem
END
