"""Run a command under each instruction set that torch's kernels choose among.

Kernels for different instruction sets add in a different order, so their results differ in the last
digits. A test that depends on these fails on somebody else's processor. A program:
`python tests/cpus.py COMMAND...` runs the command once for each set that this processor has, names
those it lacks, and ends with 1 if any run failed. Linux on x86-64 only: the sets are read from
/proc/cpuinfo.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class InstructionSet:
    """One choice of kernels: the flags that it needs, and what MKL, oneDNN and ATen call it."""

    name: str
    flags: frozenset[str]
    mkl: str
    onednn: str
    aten: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MKL_ENABLE_INSTRUCTIONS": self.mkl,
            "ONEDNN_MAX_CPU_ISA": self.onednn,
            "ATEN_CPU_CAPABILITY": self.aten,
        }


SETS = (
    InstructionSet("SSE4.2", frozenset({"sse4_2"}), "SSE4_2", "SSE41", "default"),
    InstructionSet("AVX2", frozenset({"avx2", "fma"}), "AVX2", "AVX2", "avx2"),
    InstructionSet(
        "AVX-512", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
        "AVX512", "AVX512_CORE", "avx512",
    ),
)  # fmt: skip


def processor(cpuinfo: str) -> tuple[str, frozenset[str]]:
    """(maker, flags) of the first processor in the text of /proc/cpuinfo."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    fields: dict[str, str] = {}
    for key, _, value in lines:
        fields.setdefault(key.strip(), value.strip())
    return fields.get("vendor_id", ""), frozenset(fields.get("flags", "").split())


def obeyed_by_mkl(folder: Path) -> dict[str, str]:
    """What makes MKL obey its variable on processors of other makers than Intel, if cc is here.

    It asks this function first, and ignores the variable unless the answer is yes.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        print("cpus: no C compiler, so MKL (matrix products) chooses for itself in every run")
        return {}
    source, library = folder / "intel.c", folder / "intel.so"
    source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


def main(command: list[str]) -> int:
    maker, flags = processor(CPUINFO.read_text() if CPUINFO.is_file() else "")
    if not flags:
        print("cpus: the instruction sets are chosen on Linux with an x86-64 processor only")
        return 2
    lacking = [one.name for one in SETS if not one.flags <= flags]
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        more = {} if maker == "GenuineIntel" else obeyed_by_mkl(Path(folder))
        for one in SETS:
            if one.name in lacking:
                continue
            words = {**one.environment, **more}
            print(f"cpus: {one.name}:", *(f"{k}={v}" for k, v in words.items()), flush=True)
            if subprocess.run(command, env={**os.environ, **words}).returncode:
                failed.append(one.name)
    print("cpus: failed under:", ", ".join(failed) or "none")
    print("cpus: not run, this processor lacks them:", ", ".join(lacking) or "none")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
