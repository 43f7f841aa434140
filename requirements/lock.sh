#!/usr/bin/env bash
# Write the lock files of the images anew: requirements/lock.sh PYTHON, as `make lock` calls it.
#
# Every version is that of the environment of PYTHON, in which the tests have passed, so update that one first. Each file has all
# that its image needs, with hashes, for Python 3.11 and 3.12 on x86-64 Linux. The CPU's torch of the serving image is named in
# Dockerfile.cuda, and has to be found here too, for what it needs itself: UV_FIND_LINKS or UV_INDEX says where.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}

"$python" -m pip freeze | grep -E '^[A-Za-z0-9_.-]+==[^+]*$' >"$scratch/tested.txt"
grep -vE '^(torch|torchvision)==' "$scratch/tested.txt" >"$scratch/without_torch.txt"
# A requirement that holds nowhere leaves torchvision out.
cpu=$(sed -n 's/^ARG TORCH_CPU="\(torch==[^ "]*\).*/\1/p' Dockerfile.cuda)
printf '%s\n' "$cpu" 'torchvision; sys_platform == "none"' >"$scratch/cpu.txt"

lock() {
    local image=$1
    shift
    "$(dirname "$python")/uv" pip compile --quiet --upgrade --python-version 3.11 \
        --python-platform x86_64-unknown-linux-gnu --generate-hashes --no-header --no-annotate "$@" \
        --output-file "$scratch/$image.txt" setup.cfg
    {
        echo "# The versions of the image's packages. Written by: make lock"
        cat "$scratch/$image.txt"
    } >"requirements/$image.txt"
}
lock torch --constraint "$scratch/tested.txt"
lock train --constraint "$scratch/tested.txt" --extra gpu --extra scenes --extra tensorboard --extra prometheus --extra report
lock tune --constraint "$scratch/tested.txt" --extra gpu --extra scenes --extra tensorboard --extra prometheus --extra report \
    --extra tune
lock serve --constraint "$scratch/without_torch.txt" --override "$scratch/cpu.txt" --no-emit-package torch --extra scenes \
    --extra serve
