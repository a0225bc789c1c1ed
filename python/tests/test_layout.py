"""What `_library.py` says of ronde.h is so: sizes, offsets and constants as a C compiler sees them."""

import ctypes
import subprocess
from pathlib import Path

import pytest
from ronde import _library as c

HEADERS = Path(__file__).parents[2] / "include"
STRUCTS = {
    "config": c.Config,
    "id": c.Id,
    "change": c.Change,
    "options": c.Options,
    "part": c.Part,
    "hole": c.Hole,
    "outcome": c.Outcome,
    "call": c.Call,
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    lines = []
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(ronde_{name}));')
        for field, _ in struct._fields_:
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof(ronde_{name}, {field}), SIZE({name}, {field}));')
    for names in (c.STATUSES, c.DTYPES, c.REDUCTIONS, c.COLLECTIVES, c.TOLERANCES):
        lines += [f'printf("{name} %d\\n", (int)RONDE_{name});' for name in names]
    text = "#include <ronde.h>\n#include <stdio.h>\n#include <stddef.h>\n"
    text += "#define SIZE(s, f) sizeof(((ronde_##s *)0)->f)\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n"
    folder = tmp_path_factory.mktemp("layout")
    (folder / "layout.c").write_text(text)
    subprocess.run(["cc", "-I", str(HEADERS), "layout.c", "-o", "layout"], cwd=folder, check=True)
    printed = subprocess.run([folder / "layout"], capture_output=True, text=True, check=True).stdout
    return {name: tuple(map(int, numbers)) for name, *numbers in map(str.split, printed.splitlines())}


@pytest.mark.parametrize("name", STRUCTS)
def test_structs(compiled, name):
    struct = STRUCTS[name]
    assert compiled[name] == (ctypes.sizeof(struct),)
    for field, _ in struct._fields_:
        place = getattr(struct, field)
        assert compiled[f"{name}.{field}"] == (place.offset, place.size), field


def test_constants(compiled):
    for names in (c.STATUSES, c.DTYPES, c.REDUCTIONS, c.COLLECTIVES):
        assert [compiled[name] for name in names] == [(number,) for number in range(len(names))]
    # NONE of the tolerances.
    assert [compiled[name] for name in c.TOLERANCES] == [(0,), (1,), (2,)]


def test_every_function_is_there_as_declared():
    text = (HEADERS / "ronde.h").read_text()
    for name, takes in c._TAKES.items():
        assert f"ronde_{name}(" in text, name
        declared = text.split(f"ronde_{name}(")[-1] if name not in ("version",) else "void)"
        arguments = declared.split(")")[0]
        count = 0 if arguments.strip() == "void" else arguments.count(",") + 1
        assert count == len(takes), (name, arguments)
