#!/bin/sh
# How likely does the model find a response?  score.sh ID QUESTION RESPONSE (without quotation marks: this is JSON)
set -eu
address="${BURNISH_SCORING_ENDPOINT:-127.0.0.1:50051}"
request="{\"samples\": [{\"id\": \"$1\", \"messages\": [
    {\"role\": \"ROLE_USER\", \"content\": \"$2\"}, {\"role\": \"ROLE_ASSISTANT\", \"content\": \"$3\"}]}],
    \"return_tokens\": true}"
if [ -n "${BURNISH_TLS_CA:-}" ]; then set -- -cacert "$BURNISH_TLS_CA"; else set -- -plaintext; fi
if [ -n "${BURNISH_TOKEN:-}" ]; then set -- "$@" -H "authorization: Bearer $BURNISH_TOKEN"; fi
exec grpcurl "$@" -d "$request" "$address" burnish.api.scoring.v1.ScoringService/ScoreSamples
