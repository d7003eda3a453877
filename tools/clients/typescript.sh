#!/usr/bin/env bash
# Generates TypeScript from the protos and compiles it with the examples, in build/clients/typescript: with what
# package-lock.json pins, as a user would.
set -euo pipefail
cd "$(dirname "$0")/../.."
self=tools/clients/typescript.sh
examples=examples/clients/typescript
work=build/clients/typescript
mkdir -p "$work"
digest=$(cat "$self" $(find protos "$examples" -type f | sort) | cksum)
[ "$(cat "$work/made" 2> /dev/null)" != "$digest" ] || exit 0
cp "$examples"/{package.json,package-lock.json,.npmrc,tsconfig.json} "$examples"/*.ts "$work"
if ! cmp --silent "$work/package-lock.json" "$work/installed-lock.json"; then
    # No package's own scripts are run: the programs that are needed lie in the packages.
    npm ci --prefix "$work" --ignore-scripts --no-audit --no-fund --fetch-timeout 60000 --fetch-retries 1
    cp "$work/package-lock.json" "$work/installed-lock.json"
fi
export PATH="$PWD/$work/node_modules/.bin:$PATH"
rm -rf "$work/gen" "$work/dist" "$work/made"
buf generate --template "$examples/buf.gen.yaml" --output "$work"
tsc --project "$work"
echo "$digest" > "$work/made"
