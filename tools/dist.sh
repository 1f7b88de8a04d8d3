#!/usr/bin/env bash
# Makes what is published, in dist/: one Linux program for any distribution with the C library below or a newer one, an
# archive with manual pages, completions and the demo's model, a Python wheel, a Debian package, a bill of materials
# (CycloneDX) and checksums. Installs its tools below target/dist-tools. `dist.sh program` makes the program alone.
#
# The program is linked with zig, which can link against an old C library on any machine. It is not static: the CUDA
# driver is opened with dlopen, which a static program cannot do.
set -euo pipefail
cd "$(dirname "$0")/.."
glibc=2.17
machine=$(uname -m)
target=$machine-unknown-linux-gnu
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
name=quern-$version-$machine-linux
limit=30000000

tools=target/dist-tools
[ -x $tools/venv/bin/python ] || python3 -m venv $tools/venv
$tools/venv/bin/pip install --quiet --disable-pip-version-check 'maturin==1.16.0' 'ziglang==0.17.1'
PATH=$PWD/$tools/venv/bin:$PWD/$tools/bin:$PATH

# The one compilation: the program is taken out of the wheel, so that all packages carry the same bytes.
rm -rf dist
maturin build --quiet --locked --profile dist --zig --target "$target" --compatibility "manylinux_${glibc/./_}" \
    --manifest-path crates/cli/Cargo.toml --out dist
python -m zipfile -e dist/quern-*.whl dist/wheel
cp "$(find dist/wheel -path '*.data/scripts/quern')" dist/quern
chmod 755 dist/quern
rm -r dist/wheel
size=$(stat -c %s dist/quern)
needs=$(objdump -T dist/quern | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -1)
echo "dist/quern: $size bytes, needs $needs"
[ "$size" -lt $limit ] || { echo "dist/quern is larger than $limit bytes" >&2; exit 1; }
newest=$(printf '%s\nGLIBC_%s\n' "$needs" $glibc | sort -V | tail -1)
[ "$newest" = "GLIBC_$glibc" ] || { echo "dist/quern needs $needs, newer than glibc $glibc" >&2; exit 1; }
[ "${1:-all}" = all ] || exit 0

# The tree of the archive and of the Debian package.
stage=dist/stage
mkdir -p $stage/{bin,share/man/man1,share/bash-completion/completions,share/zsh/vendor-completions,share/fish/vendor_completions.d,share/quern,share/doc/quern/docs}
cp dist/quern $stage/bin/
dist/quern man -o $stage/share/man/man1
gzip -9n $stage/share/man/man1/*.1
dist/quern completions bash >$stage/share/bash-completion/completions/quern
dist/quern completions zsh >$stage/share/zsh/vendor-completions/_quern
dist/quern completions fish >$stage/share/fish/vendor_completions.d/quern.fish
cp -rL crates/cli/wheel/data/share/quern/demo $stage/share/quern/
chmod -R u=rwX,go=rX $stage
cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE $stage/share/doc/quern/
cp docs/*.md docs/quern.svg $stage/share/doc/quern/docs/
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
    --transform "s,^$stage,$name," -czf "dist/$name.tar.gz" $stage

cargo install --quiet --locked --root $tools --target-dir $tools/build cargo-deb cargo-cyclonedx
if command -v dpkg >/dev/null; then
    cargo deb --quiet --no-build --no-strip --package quern --output "dist/"
else
    echo "there is no dpkg here, so no Debian package was made"
fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) cargo cyclonedx --quiet --manifest-path crates/cli/Cargo.toml \
    --format json --spec-version 1.5 --target "$target" --override-filename "$name.cdx"
# Without the path of this checkout.
sed "s,path+file://$PWD/,path+file://,g" "crates/cli/$name.cdx.json" >"dist/$name.cdx.json"
find crates -name "$name.cdx.json" -delete

rm -rf $stage
(cd dist && sha256sum -- * >SHA256SUMS)
ls -l dist
