#!/bin/sh
# A trainer that is not in Python: ask and tell over HTTP, with nothing but curl, sed and awk.
#
#     qcluster serve &
#     sh examples/hpo_http.sh [URL] [STUDY] [TRIALS]
#
# Started again after any crash, its own or the server's, it goes on where it was: the request names
# make the server give the same trials again, and telling an outcome twice changes nothing.
set -eu

url=${1:-http://127.0.0.1:8000}
study=${2:-shell}
trials=${3:-12}
studies=$url/v1/hpo/studies

call() {
    curl --silent --show-error --fail --retry 60 --retry-delay 1 --retry-all-errors \
        --header 'Content-Type: application/json' \
        --header "Authorization: Bearer ${QCLUSTER_TOKEN:-}" "$@"
}

# field NAME: the number or name that follows it in JSON on standard input.
field() {
    sed -n "s/.*\"$1\": *\"\{0,1\}\([^,\"}]*\).*/\1/p"
}

call "$studies" --data '{"id": "'"$study"'", "seed": 1, "mode": "min", "space": {
    "lr": {"type": "loguniform", "low": 1e-5, "high": 0.1},
    "layers": {"type": "randint", "low": 1, "high": 5}}}' >/dev/null

number=0
while [ "$number" -lt "$trials" ]; do
    asked=$(call "$studies/$study/ask" --data '{"request": "r'"$number"'"}')
    trial=$(echo "$asked" | field id)
    lr=$(echo "$asked" | field lr)
    layers=$(echo "$asked" | field layers)
    # The training itself; four layers do not fit.
    if [ "$layers" -eq 4 ]; then
        outcome='"status": "failed"'
    else
        value=$(awk "BEGIN {print (log($lr) / log(10) + 3) ^ 2 + $layers / 10}")
        outcome='"value": '$value
    fi
    call "$studies/$study/tell" --data '{"trial": "'"$trial"'", '"$outcome"'}' >/dev/null
    number=$((number + 1))
done
call "$studies/$study"
echo
