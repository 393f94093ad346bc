#!/bin/sh
# Run by cron each minute: one site's values as files for node_exporter's textfile collector.
# An endpoint that fails leaves its file as it is; alert on node_textfile_mtime_seconds.
api=${CRYPTOLOOT_API:-https://api.crypto-loot.com}
secret_file=${CRYPTOLOOT_SECRET_FILE:-/etc/cryptoloot.secret}
directory=${TEXTFILE_DIRECTORY:-/var/lib/prometheus/node-exporter}

# Backslashes, quotes and newlines, as labels want them; a value is asked for by its field.
functions='
def escaped: gsub("\\\\"; "\\\\") | gsub("\""; "\\\"") | gsub("\n"; "\\n");
def users(name; value): .users[] | "\(name){user=\"\(.name | escaped)\"} \(value)";
if .success then . else error("no success") end |'

# put FILE PATH PROGRAM: the new file takes the old one's place at once, or not at all.
put() {
    new=$directory/$1.prom.$$
    answer=$(curl -sSf --max-time 15 --get --data-urlencode "secret@$secret_file" "$api$2") &&
        printf '%s' "$answer" | jq -r "$functions $3" >"$new" && mv "$new" "$directory/$1.prom"
    status=$?
    rm -f "$new"
    return $status
}

failed=0
put cryptoloot_payout /stats/payout '
    "# TYPE cryptoloot_network_difficulty gauge", "cryptoloot_network_difficulty \(.diff)",
    "# TYPE cryptoloot_payout_coins_per_million_hashes gauge",
    "cryptoloot_payout_coins_per_million_hashes \(.payoutPer1MHashes)"' || failed=1
put cryptoloot_history /stats/history '
    "# TYPE cryptoloot_hashrate_hashes_per_second gauge",
    "cryptoloot_hashrate_hashes_per_second \(.history | max_by(.synctime).hashrate)"' || failed=1
put cryptoloot_users /user/top '
    "# TYPE cryptoloot_user_hashes_total counter", users("cryptoloot_user_hashes_total"; .total),
    "# TYPE cryptoloot_user_withdrawn_coins_total counter",
    users("cryptoloot_user_withdrawn_coins_total"; .withdrawn),
    "# TYPE cryptoloot_user_balance_coins gauge", users("cryptoloot_user_balance_coins"; .balance)' || failed=1
exit $failed
