#!/usr/bin/env bash
# The system packages that some tests need. As root (with apt) they are installed; otherwise it is said which are
# missing, and the tests that need them are skipped with that reason.
set -euo pipefail

declare -A package_of=([g++]=g++ [mpirun]=openmpi-bin [git]=git)
missing=()
for program in "${!package_of[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "MISSING SYSTEM PACKAGES: ${missing[*]}. The tests that need them are SKIPPED. Install them as root, e.g.:" >&2
    echo "    apt-get install ${missing[*]}" >&2
fi
