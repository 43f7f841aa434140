#!/usr/bin/env bash
# Build Horovod from its published source for the torch that is installed, and install it beside that torch.
#
#   launchers/install_horovod.sh [--cpu] [--without-mpi]
#
# --cpu           without NCCL, also where a CUDA toolkit is present
# --without-mpi   with the gloo controller only (horovodrun, not mpirun)
#
# The first build takes some minutes. The wheel is kept in ${XDG_CACHE_HOME:-~/.cache}/disttrain/horovod under a version
# that names what it was built for, so that the next environment with the same torch takes seconds.
# CUDA_HOME names the CUDA toolkit, MAKEFLAGS=-jN the number of compilers at a time, PYTHON the interpreter.
set -euo pipefail

HOROVOD=0.28.1
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/python.sh"

die() {
    echo "disttrain: error: $*" >&2
    exit 2
}
say() { echo "install_horovod: $*" >&2; }

cuda=auto mpi=auto
for option in "$@"; do
    case $option in
    --cpu) cuda=none ;;
    --without-mpi) mpi=none ;;
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *) die "$option is not an option: --cpu and --without-mpi are." ;;
    esac
done

# ---- for which torch, CUDA and MPI ----

# Read, not imported: an import of torch takes longer than all else that is to do where Horovod is installed already.
read -r torch torch_cuda torch_folder < <("$PYTHON" - <<'PY'
import importlib.util, pathlib, runpy

folder = pathlib.Path(importlib.util.find_spec("torch").origin).parent
version = runpy.run_path(str(folder / "version.py"))
print(version["__version__"], version.get("cuda") or "none", folder)
PY
) || die "$PYTHON has no torch. Run make setup, or set PYTHON to an interpreter that has it."

# A toolkit with all that a build needs, of torch's own major version. An nvcc that is only a script around one does not
# count: CMake looks for the rest beside it.
find_toolkit() {
    local folder
    for folder in "${CUDA_HOME:-}" "${CUDA_PATH:-}" "$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")" \
        /usr/local/cuda; do
        [ -x "$folder/bin/nvcc" ] && [ -f "$folder/include/cuda_runtime.h" ] || continue
        compgen -G "$folder/lib*/libcudart.so*" >/dev/null || continue
        toolkit_version="$("$folder/bin/nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p')"
        [ "${toolkit_version%%.*}" = "${torch_cuda%%.*}" ] || continue
        toolkit=$folder
        return
    done
}

# NCCL as torch itself brings it, else the system's: both at once in a process would be two libraries of one name.
find_nccl() {
    local folder
    for folder in "$torch_folder/../nvidia/nccl" /usr/local /usr; do
        [ -f "$folder/include/nccl.h" ] || continue
        nccl_library="$(compgen -G "$folder/lib*/libnccl.so.2" || compgen -G "$folder/lib/*/libnccl.so.2" || true)"
        nccl_library="${nccl_library%%$'\n'*}"
        [ -n "$nccl_library" ] && nccl_include="$folder/include" && return
    done
}

toolkit="" nccl_library=""
if [ "$cuda" = auto ] && [ "$torch_cuda" != none ]; then
    find_toolkit 2>/dev/null
    [ -z "$toolkit" ] || find_nccl || true
fi
[ -n "$nccl_library" ] && cuda="cuda$toolkit_version" || cuda=cpu

missing=()
if [ "$mpi" = auto ]; then
    if ! echo '#include <mpi.h>' | mpicxx -x c++ -fsyntax-only - 2>/dev/null; then
        missing+=(libopenmpi-dev openmpi-bin)
    elif version="$(mpicxx --showme:version 2>/dev/null)"; then
        mpi="openmpi$(sed -n 's/.*Open MPI \([0-9]*\).*/\1/p' <<<"$version")"
    else
        mpi="mpich$(mpichversion 2>/dev/null | sed -n 's/^MPICH Version:[^0-9]*\([0-9]*\).*/\1/p')"
    fi
    command -v mpirun >/dev/null || missing+=(openmpi-bin)
fi

# ---- is it there already? ----

# PEP 440 takes letters, digits and dots in the local part of a version.
wanted="$HOROVOD+torch$(tr -c 'a-z0-9\n' . <<<"$torch" | tr -s .).$cuda.$([ "$mpi" = none ] && echo nompi || echo "$mpi")"
installed() { "$PYTHON" -c 'import importlib.metadata as m; print(m.version("horovod"))' 2>/dev/null; }
loads() { "$PYTHON" -c 'import horovod.torch' 2>/dev/null; }

if [ ${#missing[@]} -eq 0 ] && [ "$(installed)" = "$wanted" ] && loads; then
    say "horovod $wanted is installed and loads."
    exit 0
fi

# ---- build ----

cache="${XDG_CACHE_HOME:-$HOME/.cache}/disttrain/horovod"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
pip() { "$PYTHON" -m pip --disable-pip-version-check "$@"; }

cached_wheel() {
    local tag
    tag="$("$PYTHON" -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')"
    compgen -G "$cache/horovod-$wanted-$tag-$tag-*_$(uname -m).whl" | head -1 || true
}

build() {
    local include source jobs
    for program in g++ cmake make; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    include="$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')"
    [ -f "$include/Python.h" ] || missing+=("$("$PYTHON" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')")
    [ ${#missing[@]} -eq 0 ] || die "Horovod is built from source, and these system packages are missing: ${missing[*]}." \
        "As root: apt-get install ${missing[*]}$([ "$mpi" = auto ] && echo " (or build for gloo alone: --without-mpi)")"

    say "building horovod $wanted (some minutes; the log: $cache/build.log)"
    pip install --quiet cloudpickle psutil pyyaml packaging 'cffi>=1.4' setuptools wheel
    pip download --quiet --no-deps --no-binary horovod --no-build-isolation -d "$scratch" "horovod==$HOROVOD"
    source="$scratch/horovod-$HOROVOD"
    tar -xf "$scratch/horovod-$HOROVOD.tar.gz" -C "$scratch"
    # The headers of torch 2.1 and newer need 17, those of 2.15 need 20.
    sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 20)/' "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
    export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1
    if [ "$mpi" = none ]; then export HOROVOD_WITHOUT_MPI=1; else export HOROVOD_WITH_MPI=1; fi
    export HOROVOD_LOCAL_VERSION="${wanted#*+}"
    if [ "$cuda" = cpu ]; then
        # It asks for CUDA as soon as torch finds an nvcc.
        sed -i 's/(CUDA_HOME is not None)/False/' "$source/cmake/Modules/FindPytorch.cmake"
    else
        prepare_cuda "$source"
    fi
    # A compiler on torch's headers takes 2 GB.
    jobs="$(awk -v cores="$(env -u OMP_NUM_THREADS nproc)" '/MemAvailable/ {n = int($2 / 2e6); print n < 1 ? 1 : n < cores ? n : cores}' /proc/meminfo)"
    export MAKEFLAGS="${MAKEFLAGS:--j$jobs}"
    mkdir -p "$cache" "$scratch/wheel"
    if ! pip wheel --verbose --no-deps --no-build-isolation -w "$scratch/wheel" "$source" >"$cache/build.log" 2>&1; then
        grep -E 'error|Error|Could NOT' "$cache/build.log" | head -20 >&2 || true
        die "horovod $wanted does not build. The log: $cache/build.log$([ "$cuda" = cpu ] || echo ". Without NCCL: --cpu")"
    fi
    # A move within the cache is atomic: two builds at a time do not hand each other half a wheel.
    cp "$scratch"/wheel/horovod-*.whl "$cache/.part.$$"
    mv "$cache/.part.$$" "$cache/$(basename "$scratch"/wheel/horovod-*.whl)"
}

prepare_cuda() {
    export CUDA_HOME=$toolkit HOROVOD_CUDA_HOME=$toolkit CUDAToolkit_ROOT=$toolkit CUDACXX=$toolkit/bin/nvcc
    export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED
    export HOROVOD_NCCL_INCLUDE=$nccl_include HOROVOD_NCCL_LIB=$scratch/nccl
    mkdir "$scratch/nccl"
    ln -s "$(readlink -f "$nccl_library")" "$scratch/nccl/libnccl.so" # torch's package has no name to link against
    sed -i 's/set(CMAKE_CUDA_STANDARD 11)/set(CMAKE_CUDA_STANDARD 17)/' "$1/horovod/common/ops/cuda/CMakeLists.txt"
    # For the GPUs that this torch is for; by default for every one that nvcc knows.
    HOROVOD_BUILD_CUDA_CC_LIST="${HOROVOD_BUILD_CUDA_CC_LIST:-$("$PYTHON" -c '
import re, torch
print(",".join(re.findall(r"sm_(\d+)(?!\w)", torch._C._cuda_getArchFlags() or "")))')}"
    if [ -n "$HOROVOD_BUILD_CUDA_CC_LIST" ]; then export HOROVOD_BUILD_CUDA_CC_LIST; else unset HOROVOD_BUILD_CUDA_CC_LIST; fi
}

[ -n "$(cached_wheel)" ] && [ ${#missing[@]} -eq 0 ] || build
say "installing $(basename "$(cached_wheel)")"
pip install --quiet 'cffi>=1.4' cloudpickle psutil pyyaml packaging
pip install --quiet --no-deps --force-reinstall "$(cached_wheel)"

# ---- does it work? ----

"$PYTHON" -c 'import horovod.torch' || die "horovod $wanted is installed and does not load (see above)."
check() {
    if ! timeout 120 "$@" "$PYTHON" "$here/check_horovod.py" >"$scratch/check.log" 2>&1; then
        cat "$scratch/check.log" >&2
        die "the allreduce of two processes fails: $* $PYTHON $here/check_horovod.py"
    fi
    say "two processes, $(grep -o 'allreduce .*' "$scratch/check.log" | head -1)"
}
check "$PYTHON" -m horovod.runner.launch --gloo -np 2
if [ "$mpi" != none ]; then
    options=()
    case $mpi in openmpi*)
        options=(--oversubscribe) # for a machine with one core
        [ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
        ;;
    esac
    check mpirun "${options[@]}" -np 2
fi
