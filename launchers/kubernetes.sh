#!/usr/bin/env bash
# Submit a training to Kubernetes. The options before CONFIG are the launcher's, what follows is of disttrain train.
#
#   launchers/kubernetes.sh --workers 2 --gpus 8 --image registry.example.com/disttrain-train:0.1.0 \
#       configs/planesnet.yaml data.path=/data/planesnet.zip
#   launchers/kubernetes.sh --kind trainjob --dry-run configs/planesnet.yaml data.path=/data/planesnet.zip | less
#
# --kind is pytorchjob, trainjob, mpijob or job (no operator needed). The manifests are those of k8s/overlays/KIND, or of
# --overlay DIR, with CONFIG as a ConfigMap; they are checked first, and --dry-run prints them. Exit code 2: something is
# wrong, and nothing was submitted. docs/kubernetes.md has the rest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"
run_module disttrain.commands.kubernetes submit "$@"
