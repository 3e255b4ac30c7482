#!/bin/sh
# All trips lie in one folder. Everything that this folder can ask of a GPU: dkd's suite, then PyTorch's speed if Python has torch.
# Results go to $OUT, else to `out` here. Further arguments are the suite's. PYTHON, MODELS, PAIR, BATCHES, SECONDS_EACH and
# TORCH_VARIANTS can be set: eager, graph, compile (minutes more); TORCH_VARIANTS= (empty) leaves PyTorch out.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
python=${PYTHON:-python3}
models=${MODELS:-resnet20,resnet56,resnet8x4,resnet32x4,wrn_40_2,vgg13,MobileNetV2,ShuffleV1}
pair=${PAIR:-resnet32x4,resnet8x4}
batches=${BATCHES:-64,512}
seconds=${SECONDS_EACH:-2}
variants=${TORCH_VARIANTS-eager,graph}
programs=$out/programs
mkdir -p "$programs" || exit 1
for program in dkd dkd-gpu-suite; do
    gzip -dc "$here/$program.gz" >"$programs/$program" && chmod +x "$programs/$program" || exit 1
done

# NVIDIA's libraries: those of a Python environment, if there are any, else the system's.
libraries=$("$python" -c '
import importlib.util, pathlib
found = importlib.util.find_spec("nvidia")
print(pathlib.Path(list(found.submodule_search_locations)[0]).parent if found else "")
' 2>/dev/null) || libraries=
set -- --seconds "$seconds" --batches "$batches" --out "$out/suite.json" "$@"
if [ -n "$libraries" ]; then
    set -- --libraries "$libraries" "$@"
fi

# A data set that came along in parts; with some of them only, images are generated.
if ls "$here"/data.pack* >/dev/null 2>&1; then
    if (cd "$here" && "$programs/dkd-gpu-suite" unpack data.pack* --out "$out/data"); then
        set -- --data "$out/data" --dataset "$(cat "$here/dataset")" "$@"
    else
        echo "data: left out"
    fi
fi

# The code goes through a file: that of a pipe is its last program's.
{
    "$programs/dkd-gpu-suite" --goldens "$here/fixtures/models" "$@"
    echo $? >"$out/code"
} | tee "$out/suite.log"

if [ -n "$variants" ] && "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    mkdir -p "$out/descriptions"
    for model in $(echo "$models,$pair" | tr ',' ' '); do
        "$programs/dkd" inspect "$model" --description --classes 10 >"$out/descriptions/$model.json"
    done
    "$python" "$here/python/gpu_torch.py" --descriptions "$out/descriptions" --models "$models" --pair "$pair" \
        --batches "$batches" --seconds "$seconds" --variants "$variants" --suite "$out/suite.json" --out "$out/torch.json"
    # Once more, for it to be last.
    sed -n '/^part /,$p' "$out/suite.log"
else
    echo "torch: left out: $python has no PyTorch that finds a GPU, or TORCH_VARIANTS is empty"
fi
exit "$(cat "$out/code")"
