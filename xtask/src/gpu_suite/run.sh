#!/bin/sh
# All trips lie in one folder. Everything that this folder can ask of a GPU, what tells most first, in LIMIT seconds (560): dkd's suite;
# PyTorch's speed on the same networks; the replication's table, if CIFAR-10 came along; with SANITIZER=1 the kernels under
# compute-sanitizer. A stage that hangs or fails takes no other with it. Results go to $OUT, else to `out` here: log, results as JSON.
# Arguments are the suite's: with some, it is run with them, and nothing else is. PYTHON, SECONDS_EACH, TORCH_VARIANTS (eager, graph,
# compile: minutes more; nothing leaves PyTorch out), TABLE (nothing leaves it out) and PRECISION (the table's: f32, tf32, bf16) can be set.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
limit=${LIMIT:-560}
python=${PYTHON:-python3}
seconds=${SECONDS_EACH:-1}
variants=${TORCH_VARIANTS-graph,eager}
table=${TABLE-$here/configs/tables/cifar10-seed.toml}
precision=${PRECISION:-tf32}
few=resnet20,resnet56
many=resnet8x4,resnet32x4,wrn_40_2,vgg13,MobileNetV2,ShuffleV1
pair=resnet32x4,resnet8x4
begin=$(date +%s)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/cache" "$work/lib" || exit 1
export XDG_CACHE_HOME="$work/cache"

left() { echo $((limit - $(date +%s) + begin)); }

# A stage: its name, the most seconds that it gets, and a command. Its code is in $said; 99 if it was left out.
stage() {
    name=$1 most=$2 there=$(($(left) - 15))
    shift 2
    [ "$most" -le "$there" ] || most=$there
    said=99
    if [ "$most" -lt 5 ]; then
        echo "== $name: left out: no time is left"
        return
    fi
    echo "== $name, $(left) s are left"
    timeout -k 5 "$most" "$@"
    said=$?
    if [ "$said" -ne 0 ]; then
        echo "== $name: code $said"
        echo 1 >"$work/code"
    fi
}

# A stage of the suite's, with its results in a file of their own.
suite() {
    name=$1 most=$2
    shift 2
    stage "$name" "$most" "$work/dkd-gpu-suite" --goldens "$here/fixtures/models" --seconds "$seconds" --out "$work/$name.json" \
        ${libraries:+--libraries "$libraries"} ${data:+--data "$work/data" --dataset "$data"} "$@"
}

merge() {
    set --
    for part in smoke first checks rest; do
        [ -e "$work/$part.json" ] && set -- "$@" "$work/$part.json"
    done
    [ $# -eq 0 ] || "$work/dkd-gpu-suite" merge "$@" --out "$out/suite.json"
}

# PyTorch on networks and batches.
torch() {
    name=$1 most=$2
    shift 2
    there='import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'
    if [ -z "$variants" ] || ! "$python" -c "$there" 2>/dev/null; then
        echo "$name: left out: $python has no PyTorch, or TORCH_VARIANTS is empty"
        return
    fi
    merge >/dev/null
    stage "$name" "$most" "$python" "$here/python/gpu_torch.py" --descriptions "$work/descriptions" --seconds "$seconds" \
        --variants "$variants" --suite "$out/suite.json" --out "$out/$name.json" "$@"
}

all() {
    for program in dkd dkd-gpu-suite; do
        gzip -dc "$here/$program.gz" >"$work/$program" && chmod +x "$work/$program" || return 1
    done
    # NVIDIA's libraries: those of a Python environment, if there are any, else the system's. They are asked for by names without a version
    # first, under which another copy may be on this computer.
    libraries=$("$python" -c '
import importlib.util, pathlib
found = importlib.util.find_spec("nvidia")
print(pathlib.Path(list(found.submodule_search_locations)[0]).parent if found else "")
' 2>/dev/null) || libraries=
    if [ -n "$libraries" ]; then
        for name in nvrtc cublas cublasLt curand cudnn; do
            for file in "$libraries"/nvidia/*/lib/lib$name.so.*; do
                [ -e "$file" ] && ln -sf "$file" "$work/lib/lib$name.so"
            done
        done
    fi
    export LD_LIBRARY_PATH="$work/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    # A data set that came along in parts; with some of them only, images are generated.
    data=
    if ls "$here"/data.pack* >/dev/null 2>&1; then
        if (cd "$here" && "$work/dkd-gpu-suite" unpack data.pack* --out "$work/data"); then
            data=$(cat "$here/dataset")
        else
            echo "data: left out"
        fi
    fi
    if [ $# -gt 0 ]; then
        suite smoke "$limit" "$@"
        merge >/dev/null
        return
    fi
    suite smoke 60 --parts goldens --models resnet8 --precisions f32
    # Without a device there is nothing else to ask.
    [ -e "$work/smoke.json" ] || return
    mkdir -p "$work/descriptions"
    for model in $(echo "$few,$many" | tr ',' ' '); do
        "$work/dkd" inspect "$model" --description --classes 10 >"$work/descriptions/$model.json"
    done
    suite first 120 --parts bench,profile --models $few --batches 64 --precisions tf32,bf16
    torch torch-first 110 --models $few --pair $pair --batches 64
    suite checks 150 --parts goldens,compare,curves
    suite fastest 40 --fastest --parts profile --models $few --batches 64 --precisions bf16
    if [ "$data" = cifar10 ] && [ -n "$table" ]; then
        start=$(date +%s)
        stage table 150 "$work/dkd" table "$table" --data "$work/data" --device cuda --precision "$precision" \
            ${libraries:+--cuda-libraries "$libraries"} --out "$work/table"
        echo "table $(basename "$table") in $precision: code $said, $(($(date +%s) - start)) s"
    else
        echo "table: left out: it takes all parts of CIFAR-10"
    fi
    suite rest 180 --parts bench --models $many --batches 64,512
    torch torch-rest 180 --models $many --pair $pair --batches 512,64
    # Wrong addresses, then races; each kernel is some hundred times slower, so a network that has most of them.
    if [ -n "${SANITIZER:-}" ]; then
        for tool in memcheck racecheck; do
            stage "$tool" 600 compute-sanitizer --tool "$tool" --error-exitcode 9 "$work/dkd-gpu-suite" \
                ${libraries:+--libraries "$libraries"} --parts compare --models resnet8,ShuffleV1,seed_student --precisions f32,bf16
        done
    fi
    # Last, so that it is what one sees.
    merge
}

# The code goes through a file: that of a pipe is its last program's.
{
    all "$@" || echo 1 >"$work/code"
} 2>&1 | tee "$out/log"
[ ! -e "$work/code" ]
