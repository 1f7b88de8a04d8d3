#!/usr/bin/env bash
# Checks the crates that the program is made of with cargo-deny: licences, banned and doubled crates, where they come
# from, and known weaknesses (deny.toml). Nothing is installed here, because compiling cargo-deny takes longer than all
# the rest of CI. Exit code 3: there is no cargo-deny, or the list of weaknesses cannot be fetched; 1: anything else.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo deny --version >/dev/null 2>&1; then
    echo "dependencies: there is no cargo-deny, so they were not checked (cargo install cargo-deny --locked)"
    exit 3
fi
cargo deny --offline --locked check licenses bans sources

# The database of advisories is a repository on GitHub.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if cargo deny --locked check advisories 2>"$log"; then
    cat "$log"
    echo "dependencies: checked, with advisories"
elif grep -q 'failed to fetch advisory database' "$log"; then
    echo "dependencies: checked, but for advisories, whose database cannot be fetched"
    exit 3
else
    cat "$log" >&2
    exit 1
fi
