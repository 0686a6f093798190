#!/bin/sh
# Installs the repository that it lies in, for whoever runs it: a virtual environment beside the
# code, with the exact versions of requirements.lock. The Dockerfile runs nothing else to build.
# PYTHON: another interpreter than python3 (3.11, 3.12 or 3.13).
set -eu
cd "$(dirname "$0")/../.."

# LightGBM needs OpenMP, which slim images leave out.
PATH=$PATH:/usr/sbin:/sbin
if ! ldconfig -p | grep -q libgomp && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update --quiet=2
    apt-get install --yes --quiet=2 --no-install-recommends libgomp1
    rm -rf /var/lib/apt/lists/*
fi

"${PYTHON:-python3}" -m venv --clear .venv
pip=".venv/bin/python -m pip install --quiet --disable-pip-version-check"
$pip --require-hashes --requirement requirements.lock
$pip --no-deps --no-build-isolation --editable .
.venv/bin/activity --help >/dev/null
echo "installed: $PWD/.venv/bin/activity"
