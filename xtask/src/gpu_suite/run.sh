#!/bin/sh
# All trips lie in one folder. Everything that this folder can ask of a GPU, what tells most first, in LIMIT seconds (560): dkd's suite;
# PyTorch's speed on the same networks; the replication's table, if CIFAR-10 came along; with SANITIZER=1 the kernels under
# compute-sanitizer. A stage that hangs or fails takes no other with it. Results go to $OUT, else to `out` here: a log and a few files.
# Arguments are the suite's: with some, it is run with them, and nothing else is. STAGES (some of smoke, bench, profile, turns, cohort,
# connections, measured, fastest, torch, goldens, compare, curves, rest, table, sanitizer; smoke is always run), PYTHON, SECONDS_EACH,
# TORCH_VARIANTS (graph, eager, compile: minutes more; nothing leaves PyTorch out), TABLE (nothing leaves it out) and PRECISION (the table's:
# f32, tf32, bf16) can be set.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
limit=${LIMIT:-560}
python=${PYTHON:-python3}
seconds=${SECONDS_EACH:-1}
variants=$(echo "${TORCH_VARIANTS-graph,eager}" | tr ',' ' ')
table=${TABLE-$here/configs/tables/cifar10-seed.toml}
precision=${PRECISION:-tf32}
few=resnet20,resnet56
many=resnet8x4,resnet32x4,wrn_40_2,vgg13,MobileNetV2,ShuffleV1
pair=resnet32x4,resnet8x4
begin=$(date +%s)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/lib" "$work/results" "$work/descriptions" || exit 1
rm -f "$out/suite.json" "$out/stage.json" "$out/torch.json" "$out/summary" "$out/table.md"
results= said=99 connections=

failed() { echo 1 >"$work/code"; }

left() { echo $((limit - $(date +%s) + begin)); }

# Whether a stage of this name is wanted and has time; $most is what it gets of the seconds that it asks for. Some are kept for the end.
time_for() {
    case ",smoke,unpack,${STAGES:-${1%%-*}}," in
    *",${1%%-*},"*) ;;
    *) return 1 ;;
    esac
    name=$1 most=$(($(left) - 15))
    [ "$2" -gt "$most" ] || most=$2
    if [ "$most" -lt 5 ]; then
        echo "== $name: left out: no time is left"
        return 1
    fi
}

# Runs a command in $most seconds; its code is in $said.
stage() {
    echo "== $name, $(left) s are left"
    timeout -k 5 "$most" "$@"
    said=$?
    case $said in
    0) ;;
    # Nothing to measure: it has said why.
    77) echo "== $name: left out" ;;
    124)
        echo "== $name: cut off"
        # A table takes as long as it takes.
        [ "$name" = table ] || failed
        ;;
    *)
        echo "== $name: code $said"
        failed
        ;;
    esac
}

# One of our programs, which find NVIDIA's libraries, and compile kernels once for all stages.
ours() {
    stage env XDG_CACHE_HOME="$work/cache" LD_LIBRARY_PATH="$work/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
        ${connections:+CUDA_DEVICE_MAX_CONNECTIONS=$connections} "$@"
}

# A stage of the suite's: name, seconds, arguments. It begins nothing in its last quarter, so it seldom has to be cut off; what it has
# found by then is in a file, and that stays in $out if all of this is cut off.
suite() {
    time_for "$1" "$2" || return 0
    shift 2
    ours "$work/dkd-gpu-suite" --goldens "$here/fixtures/models" --seconds "$seconds" --out "$out/stage.json" --limit $((most * 3 / 4)) \
        ${libraries:+--libraries "$libraries"} ${data:+--data "$work/data" --dataset "$data"} "$@"
    if [ -e "$out/stage.json" ]; then
        mv "$out/stage.json" "$work/results/$name.json"
        results="$results $name.json"
    fi
    merge || failed
}

# All results so far in one file, and as tables.
merge() {
    [ -n "$results" ] || return 0
    theirs=
    [ ! -e "$out/torch.json" ] || theirs=$out/torch.json
    (
        cd "$work/results" &&
            timeout 20 "$work/dkd-gpu-suite" merge $results ${theirs:+--torch "$theirs"} --out "$out/suite.json"
    ) >"$out/summary"
}

# PyTorch in all of its variants, a process each: name, seconds, arguments.
torch() {
    [ -n "$variants" ] || return 0
    of_torch=$1 each=$2
    shift 2
    for variant in $variants; do
        time_for "$of_torch-$variant" "$each" || continue
        stage "$python" "$here/python/gpu_torch.py" --descriptions "$work/descriptions" --seconds "$seconds" --variants "$variant" \
            --pair $pair --limit $((most * 3 / 4)) --out "$out/torch.json" "$@"
        # There will be nothing later either.
        if [ "$said" -eq 77 ]; then
            variants=
            break
        fi
    done
}

# A data set that came along in parts; with some of them only, images are generated.
unpack() {
    ls "$here"/data.pack* >/dev/null 2>&1 && time_for unpack 60 || return 0
    ours "$work/dkd-gpu-suite" unpack "$here"/data.pack* --out "$work/data"
    if [ "$said" -eq 0 ]; then
        data=$(cat "$here/dataset")
    else
        echo "data: left out"
    fi
}

prepare() {
    for program in dkd dkd-gpu-suite; do
        gzip -dc "$here/$program.gz" >"$work/$program" && chmod +x "$work/$program" || return 1
    done
    # NVIDIA's libraries: those of a Python environment, if there are any, else the system's. They are asked for by names without a version
    # first, under which another copy may be on this computer.
    libraries=$(timeout 30 "$python" -c '
import importlib.util, pathlib
found = importlib.util.find_spec("nvidia")
print(pathlib.Path(list(found.submodule_search_locations)[0]).parent if found else "")
' 2>/dev/null) || libraries=
    for library in ${libraries:+nvrtc cublas cublasLt curand cudnn}; do
        newest=0
        for file in "$libraries"/nvidia/*/lib/lib$library.so.[0-9]*; do
            version=${file##*.so.}
            version=${version%%.*}
            [ -e "$file" ] && [ "$version" -gt "$newest" ] || continue
            newest=$version
            ln -sf "$file" "$work/lib/lib$library.so"
        done
    done
    # The driver's own: a toolkit's folder may have a stub of that name.
    for file in $(ldconfig -p 2>/dev/null | sed -n 's/.*libcuda\.so\.1 .*=> //p') /usr/local/nvidia/lib64/libcuda.so.1; do
        if [ -e "$file" ]; then
            ln -sf "$file" "$work/lib/libcuda.so"
            break
        fi
    done
    if ! command -v "$python" >/dev/null 2>&1; then
        echo "torch: left out: there is no $python"
        variants=
    fi
    for model in $(echo "${variants:+$few,$many}" | tr ',' ' '); do
        timeout 20 "$work/dkd" inspect "$model" --description --classes 10 >"$work/descriptions/$model.json" || failed
    done
}

all() {
    data=
    prepare || return 1
    if [ $# -gt 0 ]; then
        unpack
        suite smoke "$limit" "$@"
        return
    fi
    suite smoke 120 --parts goldens --models resnet8
    # It has said what is missing: without a device there is nothing else to ask. If it hung or crashed, others may not.
    if [ -z "$results" ] && [ "$said" -eq 1 ]; then
        return 1
    fi
    suite bench 120 --parts bench --bench networks,pair --models $few --batches 64 --precisions tf32,bf16
    suite profile 60 --parts profile,answers --batches 64 --precisions tf32,bf16
    # What kernels gain that begin while others end.
    suite turns 30 --parts bench --bench networks --models $few --batches 64 --precisions tf32,bf16 --in-turn
    suite cohort 60 --parts bench --bench cohort --batches 64 --precisions tf32,bf16
    # Whether branches wait for each other because the driver has too few queues for them.
    connections=32
    suite connections 30 --parts bench --bench cohort --batches 64 --precisions tf32
    connections=
    # What other convolutions than those by cuDNN's rules would give.
    for algorithms in measured fastest; do
        suite $algorithms 50 --parts bench,profile --bench networks --models $few --batches 64 --precisions tf32,bf16 --algorithms $algorithms
    done
    torch torch 90 --models $few --batches 64
    unpack
    suite goldens 90 --parts goldens
    suite compare 120 --parts compare
    suite curves 90 --parts curves
    suite rest-64 90 --parts bench --bench networks --models $many --batches 64 --precisions tf32,bf16
    suite rest-512 120 --parts bench --models $few,$many --batches 512 --precisions tf32,bf16
    suite rest-f32 150 --parts bench --models $few,$many --precisions f32
    torch torch-rest 150 --models $few,$many --batches 64,512
    if [ "$data" = cifar10 ] && [ -n "$table" ]; then
        if time_for table 600; then
            ours "$work/dkd" table "$table" --data "$work/data" --device cuda --precision "$precision" \
                ${libraries:+--cuda-libraries "$libraries"} --out "$work/table"
            [ ! -e "$work/table/report.md" ] || cp "$work/table/report.md" "$out/table.md"
        fi
    else
        echo "table: left out: it takes all parts of CIFAR-10"
    fi
    # Wrong addresses, then races; each kernel is some hundred times slower, so a network that has most of them.
    for tool in ${SANITIZER:+memcheck racecheck}; do
        time_for "sanitizer-$tool" 600 || continue
        ours compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 "$work/dkd-gpu-suite" \
            ${libraries:+--libraries "$libraries"} --parts compare --models resnet8,ShuffleV1,seed_student --precisions f32,bf16
    done
    # Last, so that it is what one sees.
    merge || failed
    [ ! -e "$out/summary" ] || cat "$out/summary"
}

# The code goes through a file: that of a pipe is its last program's.
{
    all "$@" || failed
} 2>&1 | tee "$out/log"
[ ! -e "$work/code" ]
