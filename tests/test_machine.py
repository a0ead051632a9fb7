"""The machine's name in a results file: two processors that a system calls the same are told apart."""

import platform

from torch.backends.cpu import get_cpu_capability

from flashref.machine import environment, processor

X86 = """processor : 0
vendor_id\t: AuthenticAMD
cpu family\t: {family}
model\t\t: {model}
model name\t: AMD EPYC
flags\t\t: fpu vme: de
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
CPU implementer\t: 0x41
"""


def named(folder, text: str) -> str:
    (folder / "cpuinfo").write_text(text)
    return processor(folder / "cpuinfo")


def test_a_processor_is_named_with_its_generation_and_instructions(tmp_path):
    one, other = (named(tmp_path, X86.format(family=25, model=model) * 2) for model in (1, 17))
    assert one == f"AMD EPYC (family 25, model 1, {get_cpu_capability()})"
    assert other == f"AMD EPYC (family 25, model 17, {get_cpu_capability()})"


def test_where_the_system_gives_no_name_python_does(tmp_path):
    name = platform.processor() or platform.machine()
    for given in (named(tmp_path, ARM), named(tmp_path, ""), processor(tmp_path / "no such file")):
        assert given == f"{name} ({get_cpu_capability()})"


def test_the_environment_of_a_cpu_names_it():
    assert environment()["device"] == processor() != f" ({get_cpu_capability()})"
