#!/bin/bash
# Put a run's model on the volume that serving mounts: MODEL_DIR FOLDER. It gets a folder of its own, named by its description's
# hash, and the link FOLDER/live is moved to it in one step. To go back: move the link.
set -euo pipefail
model=$1 folder=$2
if [ ! -f "$model/model.json" ]; then
    echo "publish: $model has no model.json: it is not a model that disttrain has written. Give RUN_DIR/model of a" \
        "training that has finished." >&2
    exit 3
fi
version=$(sha256sum "$model/model.json" | cut -c1-12)
mkdir -p "$folder"
if [ ! -d "$folder/$version" ]; then
    rm -rf "$folder/.coming"
    cp -rL "$model" "$folder/.coming"
    mv -T "$folder/.coming" "$folder/$version"
fi
ln -sfn "$version" "$folder/.next"
mv -T "$folder/.next" "$folder/live"
echo "publish: $folder/live is now $version" >&2
