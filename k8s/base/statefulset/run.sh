#!/bin/bash
# What a pod of the StatefulSet runs. A StatefulSet starts its containers again whatever they end with; here that is so only
# for exit codes that ask for it (128 and above), and a bounded number of times. Otherwise the pod stays, and says why.
set -u
most=${DISTTRAIN_MAX_RESTARTS:-20} folder=${TMPDIR:-/tmp}
export PET_NODE_RANK=${HOSTNAME##*-}

hold() {
    echo "disttrain: exit code $1: $2 This pod holds until the StatefulSet is deleted or scaled to 0." >&2
    trap 'kill "$(jobs -p)" 2>/dev/null; exit 0' TERM
    sleep infinity &
    echo "$1" >"$folder/ended"
    wait
}

starts=$(($(cat "$folder/starts" 2>/dev/null || echo 0) + 1))
echo "$starts" >"$folder/starts"
disttrain "$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM
while true; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break # else only the wait was interrupted
done
if [ "$code" -eq 0 ]; then
    hold 0 "the training has finished."
elif [ "$code" -lt 128 ]; then
    hold "$code" "it would end in the same way again."
elif [ "$starts" -gt "$most" ]; then
    hold "$code" "started $starts times, more than DISTTRAIN_MAX_RESTARTS=$most."
fi
exit "$code"
