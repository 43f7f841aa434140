#!/usr/bin/env bash
# A real API server that holds CustomResourceDefinitions and their objects, and nothing else, on this machine's loopback:
# apiextensions-apiserver from Debian sid's library packages, which are unpacked beside the system, never installed.
#
#   tests/k8s/crd_server.sh COMMAND ...     runs COMMAND with KUBECONFIG set, and stops the server
#
# The binary is kept in ${XDG_CACHE_HOME:-~/.cache}/disttrain/crdsrv. Needs Debian with apt, root, and openssl.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kept=${XDG_CACHE_HOME:-$HOME/.cache}/disttrain/crdsrv
binary=$kept/crdsrv-$(sha256sum "$here/crdsrv/main.go" | cut -c1-12)

build() {
    local work mirror options package version go
    work=$(mktemp -d)
    mkdir -p "$work"/{lists/partial,cache/archives/partial,etc/sources.list.d,root} "$kept"
    : >"$work/status"
    mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/etc/sources.list"
    options=(-o "Dir::Etc::sourcelist=$work/etc/sources.list" -o "Dir::Etc::sourceparts=$work/etc/sources.list.d"
        -o "Dir::State::Lists=$work/lists" -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache"
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false)
    apt-get "${options[@]}" update -qq
    package=golang-k8s-apiextensions-apiserver-dev
    apt-get "${options[@]}" install -y --no-install-recommends --download-only golang-go "$package" >/dev/null
    for archive in "$work"/cache/archives/golang-*.deb; do
        dpkg-deb -x "$archive" "$work/root"
    done
    version=v1.$(dpkg-deb -f "$work"/cache/archives/"$package"_*.deb Version | sed 's/^0\.//; s/[-+].*//')
    go=$(echo "$work"/root/usr/lib/go-1.*)
    (cd "$here/crdsrv" && env -i PATH="$go/bin:/usr/bin:/bin" HOME="$work" GOROOT="$go" GOTOOLCHAIN=local GO111MODULE=off \
        GOPATH="$work/root/usr/share/gocode" GOCACHE="$work/gocache" CGO_ENABLED=0 go build -trimpath \
        -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" -o "$binary.coming" .)
    mv "$binary.coming" "$binary"
    rm -rf "$work"
    echo "crd_server: built from Kubernetes $version" >&2
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

command -v etcd >/dev/null || apt-get install -y -qq --no-install-recommends etcd-server >/dev/null
[ -x "$binary" ] || build
folder=$(mktemp -d) port=$(free_port) store=$(free_port) peers=$(free_port)
etcd --data-dir "$folder/etcd" --listen-client-urls "http://127.0.0.1:$store" \
    --advertise-client-urls "http://127.0.0.1:$store" --listen-peer-urls "http://127.0.0.1:$peers" \
    --initial-advertise-peer-urls "http://127.0.0.1:$peers" --initial-cluster "default=http://127.0.0.1:$peers" \
    >"$folder/etcd.log" 2>&1 &
etcd=$!
"$binary" -port "$port" -etcd "http://127.0.0.1:$store" -cert-dir "$folder/certs" >"$folder/server.log" 2>&1 &
server=$!
trap 'kill $server $etcd 2>/dev/null; wait; rm -rf "$folder"' EXIT
cat >"$folder/kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:$port", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: none}}]
contexts: [{name: c, context: {cluster: c, user: u, namespace: default}}]
current-context: c
END
export KUBECONFIG=$folder/kubeconfig
for _ in $(seq 600); do
    [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && break
    kill -0 $server 2>/dev/null || break
    sleep 0.2
done
if [ "$(kubectl get --raw /readyz)" != ok ]; then
    tail -n 20 "$folder/etcd.log" "$folder/server.log" >&2
    exit 1
fi
"$@"
