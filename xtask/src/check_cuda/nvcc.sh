#!/bin/sh
# In the place of nvcc. Without REAL_NVCC every output is empty, which is enough to check Rust code. With it,
# candle's kernels for quantised numbers are left out, which take most of the time and of the size: their
# functions end the program, and nothing here calls them; all else goes to the real compiler.
out= dir=. src= mode= prev=
for a in "$@"; do
  case $prev in
  -o) out=$a ;;
  --output-directory) dir=$a ;;
  esac
  case $a in
  *.cu) src=$a ;;
  -c | --lib | --ptx | --version) mode=$a ;;
  esac
  prev=$a
done
name=$(basename "$src" .cu)
if [ -z "$REAL_NVCC" ]; then
  case $mode in
  --version) echo 'Cuda compilation tools, release 13.0, V13.0.0' ;;
  *) : >"${out:-$dir/$name.ptx}" ;;
  esac
  exit
fi
case $mode:$name in
--ptx:quantized)
  printf '.version 7.0\n.target sm_80\n.address_size 64\n' >"${out:-$dir/$name.ptx}" ;;
-c:mmvq_gguf)
  {
    echo '#include <stdlib.h>'
    sed -n 's/^ *pub fn \([A-Za-z0-9_]*\).*/void \1(void) { abort(); }/p' src/ffi.rs
  } | cc -w -O1 -fPIC -ffunction-sections -c -x c - -o "$out" ;;
-c:*) cc -c -x c /dev/null -o "$out" ;;
--lib:*)
  rm -f "$out"
  for a in "$@"; do
    case $a in *.o) ar qcs "$out" "$a" || exit ;; esac
  done ;;
*) exec "$REAL_NVCC" "$@" ;;
esac
