"""The suite under each instruction set: what is run, and what is named as lacking."""

import json
import sys

import pytest

import cpus

OLD = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu sse4_2 avx2 fma\n\nprocessor\t: 1\n"
)


def test_each_set_that_the_processor_has_is_run_and_the_others_are_named(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "cpuinfo")
    cpus.CPUINFO.write_text(OLD)
    names = ["MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"]
    script = (
        "import json, os; found = [os.environ[n] for n in " + repr(names) + "]; "
        "print(json.dumps(found)); raise SystemExit(found[0] == 'AVX2')"
    )
    assert cpus.main([sys.executable, "-c", script]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines if line.startswith("[")] == [
        ["SSE4_2", "SSE41", "default"], ["AVX2", "AVX2", "avx2"],
    ]  # fmt: skip
    assert lines[-2:] == [
        "cpus: failed under: AVX2", "cpus: not run, this processor lacks them: AVX-512",
    ]  # fmt: skip
    assert cpus.main([sys.executable, "-c", "pass"]) == 0


@pytest.mark.parametrize("cpuinfo", [None, "processor\t: 0\nFeatures\t: fp asimd\n"])
def test_elsewhere_it_says_so(tmp_path, monkeypatch, capsys, cpuinfo):
    monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "cpuinfo")
    if cpuinfo is not None:
        cpus.CPUINFO.write_text(cpuinfo)
    assert cpus.main(["false"]) == 2
    assert "Linux" in capsys.readouterr().out
