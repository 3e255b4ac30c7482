"""Compiles a text of kernels with NVRTC; needs no GPU and no package besides the library.

    python3 compile_kernels.py FOLDER TEXT ARCHITECTURE[,...] [OPTION ...]

FOLDER is searched for libnvrtc.so.*; options are NVRTC's. Prints a line of JSON for each architecture: its name, whether the text
compiles, NVRTC's log, the bytes of machine code, and the file where it is: the text's, with the architecture and `cubin` behind it.
"""

import ctypes
import json
import pathlib
import sys


def library(folder):
    found = sorted(pathlib.Path(folder).rglob("libnvrtc*.so.*"))
    for start in ("libnvrtc-builtins.so.", "libnvrtc.so."):
        # By its path: the first is then found when the second asks for it by name.
        path = next(p for p in found if p.name.startswith(start))
        opened = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return opened


def text_of(nvrtc, program, what):
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    data = ctypes.create_string_buffer(max(size.value, 1))
    getattr(nvrtc, f"nvrtcGet{what}")(program, data)
    return data.raw[: size.value]


def compile_for(nvrtc, file, architecture, options):
    text = file.read_bytes()
    program = ctypes.c_void_p()
    code = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    if code:
        raise SystemExit(f"nvrtcCreateProgram: {code}")
    options = [*options, f"--gpu-architecture={architecture}"]
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    compiled = nvrtc.nvrtcCompileProgram(program, len(options), array) == 0
    result = {
        "architecture": architecture,
        "compiled": compiled,
        "log": text_of(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace"),
    }
    if compiled:
        code = text_of(nvrtc, program, "CUBIN")
        to = file.with_suffix(f".{architecture}.cubin")
        to.write_bytes(code)
        result |= {"bytes": len(code), "code": str(to)}
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return result


def main():
    folder, text, architectures, *options = sys.argv[1:]
    nvrtc = library(folder)
    for architecture in architectures.split(","):
        print(json.dumps(compile_for(nvrtc, pathlib.Path(text), architecture, options)), flush=True)


main()
