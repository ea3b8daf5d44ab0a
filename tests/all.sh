#!/usr/bin/env bash
# The tests, in order, from the project's root with the environment in .venv; with the word `long` those that take minutes each instead: whole jobs, tutorials and
# the tests marked so. Ends with one line that counts them.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() { printf '\n== %s\n' "$*"; }

notebooks=0
if [ "${1:-}" = long ]; then
  step "the jobs in the pipeline's order, and the tutorials"
  jobs=(); for job in ingest validate tune assess deploy score monitor; do jobs+=("nbs/jobs/$job.ipynb"); done
  # nbval refuses outputs without execution counts, which nbdev-clean takes away: the tutorials are run from copies without outputs
  jupyter nbconvert --log-level=ERROR --to notebook --ClearOutputPreprocessor.enabled=True --output-dir "$work/tutorials" nbs/tutorials/*.ipynb
  MLW_STORE="$work/store" MLW_ROOT="$PWD" MLW_TUNE_TRIALS=8 pytest -q -p no:xdist --nbval-lax --nbval-cell-timeout=600 "${jobs[@]}" "$work"/tutorials/*.ipynb --junitxml="$work/nbval.xml"

  step "what spans notebooks and takes minutes"
  pytest -q tests --ignore=tests/test_export.py -m long -n 2 --dist loadfile --no-loadscope-reorder --durations=30 --junitxml="$work/tests.xml"
else
  step "the package follows from the notebooks"
  pytest -q tests/test_export.py --junitxml="$work/export.xml"

  step "style and types"
  ruff check mlops_workbench tests benchmarks
  pyright --pythonpath "$(command -v python)" mlops_workbench

  step "the notebooks under nbs/api"
  nbdev-test --n-workers 2
  notebooks=$(find nbs/api -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' | wc -l)

  step "what spans notebooks"
  pytest -q tests --ignore=tests/test_export.py -m "not long" -n 2 --dist loadfile --no-loadscope-reorder --durations=30 --junitxml="$work/tests.xml"
fi

python - "$work" "$notebooks" <<'EOF'
import sys, xml.etree.ElementTree as xml
from pathlib import Path
total = skipped = 0
for f in Path(sys.argv[1]).glob("*.xml"):
    for suite in xml.parse(f).iter("testsuite"): total += int(suite.get("tests")); skipped += int(suite.get("skipped"))
print(f"\n{sys.argv[2]} notebooks and {total - skipped} tests passed, {skipped} skipped")
EOF
