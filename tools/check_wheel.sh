#!/usr/bin/env bash
# Builds a Python wheel that carries quern, installs it in a new environment, and runs the demo from there, outside the
# checkout. The program is that of the tests (profile dev), so that nothing is compiled twice; tools/dist.sh builds what is
# published. Exit code 3: maturin cannot be had because there is no Python or no network; 1: anything else.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-dev}

if ! command -v python3 >/dev/null || ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    echo "wheel: there is no python3 with venv, so no wheel was built"
    exit 3
fi
work=target/wheel-check
tools=$work/tools
[ -x "$tools/bin/python" ] || python3 -m venv "$tools"
if ! "$tools/bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.9,<2' 2>"$work/pip.log"; then
    cat "$work/pip.log" >&2
    offline='NewConnectionError|ConnectTimeoutError|ReadTimeoutError|NameResolutionError|ProxyError|Temporary failure in name resolution|Network is unreachable'
    if grep -qE "$offline" "$work/pip.log"; then
        echo "wheel: there is no network to install maturin from, so no wheel was built"
        exit 3
    fi
    exit 1
fi

rm -rf "$work/wheels" "$work/env" "$work/elsewhere"
"$tools/bin/maturin" build --quiet --profile "$profile" --compatibility linux \
    --manifest-path crates/cli/Cargo.toml --out "$work/wheels"
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check --no-index "$work"/wheels/quern-*.whl

# Outside the checkout, whose fixtures must not be needed.
mkdir "$work/elsewhere"
quern=$(realpath "$work/env/bin/quern")
share=$(realpath "$work/env/share/quern/demo")
cd "$work/elsewhere"
"$quern" --version
"$quern" demo --quiet >demo.txt
grep -qF "$share/bookworm-4m" demo.txt || { echo "wheel: the demo did not use the model in the wheel" >&2; exit 1; }
grep -q 'It generates' demo.txt || { echo "wheel: the demo did not come to its end" >&2; exit 1; }
"$quern" man -o man
[ -s man/quern.1 ] && [ -s man/quern-quantize.1 ] || { echo "wheel: there are no manual pages" >&2; exit 1; }
"$quern" completions bash | bash -n
echo "wheel: installed, the demo runs ($(ls ../wheels), $(du -h ../wheels/*.whl | cut -f1))"
