"""What of a run is on this machine: .wandb files written by hand, cut anywhere."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st
from wandb.proto.wandb_internal_pb2 import Record

from r1.logger.wandb_run.run_file import BLOCK, HEADER, PART, is_whole, records

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def written(payloads: list[bytes]) -> bytes:
    """LevelDB's log format, as its documentation has it."""
    out = b"h" * HEADER
    for payload in payloads:
        begun, rest = False, payload
        while rest or not begun:
            left = BLOCK - len(out) % BLOCK
            if left < PART.size:
                out += b"\0" * left
                continue
            part, rest = rest[: left - PART.size], rest[left - PART.size :]
            kind = (MIDDLE if begun else FIRST) if rest else (LAST if begun else FULL)
            out += PART.pack(0, len(part), kind) + part
            begun = True
    return out


@given(st.lists(st.integers(1, 2 * BLOCK), max_size=4), st.data())
def test_records_of_any_length_come_back_and_a_cut_is_seen(sizes: list[int], data: st.DataObject) -> None:
    end = Record()
    end.exit.exit_code = 1
    payloads = [*(bytes([number + 1]) * size for number, size in enumerate(sizes)), end.SerializeToString()]
    whole = written(payloads)
    assert list(records(whole)) == payloads
    history = Record()
    history.history.step.num = 3
    with TemporaryDirectory() as folder:
        file = Path(folder) / "run.wandb"
        file.write_bytes(whole)
        assert is_whole(file)
        file.write_bytes(written([history.SerializeToString()] * 3))
        assert not is_whole(file)
        cut = written([history.SerializeToString(), payloads[-1]])
        file.write_bytes(cut[: data.draw(st.integers(0, len(cut) - 1))])
        assert not is_whole(file)
