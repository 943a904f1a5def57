"""The example of docs/search.md runs as it stands."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/search.md"


def test_the_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    results = {line.split(":")[0]: float(re.search(r"NE ([0-9.]+)", line).group(1)) for line in lines}
    assert set(results) == {"RandomSearch", "RegularizedEvolution", "BinocularsSearch"}
    assert max(results.values()) < 0.1
