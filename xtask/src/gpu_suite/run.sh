#!/bin/sh
# All trips lie in one folder. Everything that this folder can ask of a GPU: dkd's suite; its kernels under compute-sanitizer, where that
# is; PyTorch's speed, if Python has torch; the replication's table, if CIFAR-10 came along. Results go to $OUT, else to `out` here.
# Further arguments are the suite's. PYTHON, MODELS, BATCHES, SECONDS_EACH and TORCH_VARIANTS can be set: eager, graph, compile
# (minutes more); TORCH_VARIANTS= (empty) leaves PyTorch out, SANITIZER= the sanitizer, TABLE= the table. PRECISION is the table's: f32,
# tf32, which is what PyTorch's convolutions are by default, or bf16.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
python=${PYTHON:-python3}
models=${MODELS:-resnet20,resnet56,resnet8x4,resnet32x4,wrn_40_2,vgg13,MobileNetV2,ShuffleV1}
pair=resnet32x4,resnet8x4
batches=${BATCHES:-64,512}
seconds=${SECONDS_EACH:-2}
variants=${TORCH_VARIANTS-eager,graph}
sanitizer=${SANITIZER-compute-sanitizer}
table=${TABLE-$here/configs/tables/cifar10-seed.toml}
precision=${PRECISION:-tf32}
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
if [ -n "${MODELS:-}" ]; then
    set -- --models "$models" "$@"
fi
if [ -n "$libraries" ]; then
    set -- --libraries "$libraries" "$@"
fi

data=
# A data set that came along in parts; with some of them only, images are generated.
if ls "$here"/data.pack* >/dev/null 2>&1; then
    if (cd "$here" && "$programs/dkd-gpu-suite" unpack data.pack* --out "$out/data"); then
        data=$(cat "$here/dataset")
        set -- --data "$out/data" --dataset "$data" "$@"
    else
        echo "data: left out"
    fi
fi

rm -f "$out/suite.json"
# The code goes through a file: that of a pipe is its last program's.
{
    "$programs/dkd-gpu-suite" --goldens "$here/fixtures/models" "$@"
    echo $? >"$out/code"
} | tee "$out/suite.log"

code=$(cat "$out/code")
# Without a device there is nothing else to ask.
[ -e "$out/suite.json" ] || exit "$code"

# Wrong addresses, then races; each kernel is some hundred times slower, so a network that has most of them, and twenty minutes at most.
if [ -n "$sanitizer" ] && command -v "$sanitizer" >/dev/null 2>&1; then
    for tool in memcheck racecheck; do
        timeout 600 "$sanitizer" --tool "$tool" --error-exitcode 9 "$programs/dkd-gpu-suite" ${libraries:+--libraries "$libraries"} \
            --parts compare --models resnet8,ShuffleV1,seed_student --precisions f32,bf16 >"$out/$tool.log" 2>&1
        said=$?
        echo "compute-sanitizer $tool: code $said: $(grep 'SUMMARY' "$out/$tool.log" | tail -n 1)"
        [ "$said" -eq 0 ] || code=1
    done
else
    echo "compute-sanitizer: left out: it is not there"
fi

if [ "$data" = cifar10 ] && [ -n "$table" ]; then
    begin=$(date +%s)
    timeout 600 "$programs/dkd" table "$table" --data "$out/data" --device cuda --precision "$precision" ${libraries:+--cuda-libraries "$libraries"} \
        --out "$out/table" >"$out/table.log" 2>&1
    echo "table $(basename "$table") in $precision: code $?, $(($(date +%s) - begin)) s"
else
    echo "table: left out: it takes all parts of CIFAR-10"
fi

if [ -n "$variants" ] && "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    mkdir -p "$out/descriptions"
    for model in $(echo "$models,$pair" | tr ',' ' '); do
        "$programs/dkd" inspect "$model" --description --classes 10 >"$out/descriptions/$model.json"
    done
    "$python" "$here/python/gpu_torch.py" --descriptions "$out/descriptions" --models "$models" --pair "$pair" \
        --batches "$batches" --seconds "$seconds" --variants "$variants" --suite "$out/suite.json" --out "$out/torch.json"
else
    echo "torch: left out: $python has no PyTorch that finds a GPU, or TORCH_VARIANTS is empty"
fi

# Once more, for it to be last.
sed -n '/^part /,$p' "$out/suite.log"
exit "$code"
