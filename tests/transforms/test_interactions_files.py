"""Parts: every line in its order, cut after its rows, whatever the batches and the empty texts among them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.interactions_files import Parts

HEADER = b"A\n"
batches = st.lists(st.lists(st.sampled_from(["", "a\n", "bb\n", "é,1\n"]), max_size=8), max_size=5)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_parts_are_the_lines_in_order(kind: pa.DataType) -> None:
    @settings(max_examples=40)
    @given(batches, st.integers(1, 6), st.integers(0, 3))
    def exact(given: list[list[str]], part_rows: int, skipped: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            parts = Parts(folder, "x", HEADER, lambda: None, part_rows)
            for texts in given:
                parts.write(pa.array(texts, kind).slice(skipped))
            parts.close()
            lines = [text.encode() for texts in given for text in texts[skipped:] if text]
            wanted = [lines[start : start + part_rows] for start in range(0, len(lines), part_rows)]
            contents = [Path(file["path"]).read_bytes() for file in parts.files]
            assert contents == [HEADER + b"".join(each) for each in wanted]
            assert [(file["rows"], file["bytes"]) for file in parts.files] == [
                (len(each), len(content)) for each, content in zip(wanted, contents, strict=True)
            ]

    exact()
