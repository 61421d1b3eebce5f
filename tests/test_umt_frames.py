"""The frames that the reference samples."""

import pytest

from repshift import InputError
from repshift.evaluation.data.frames import first_seconds, middle_frames
from umt_models import fixture

_, REF = fixture("frame_sampling")


def test_the_middle_frames_are_those_of_the_reference():
    names = ("vlen", "num_frames", "fps", "trimmed30")
    rows = zip(*(REF[f"input.{name}"].tolist() for name in names), strict=True)
    for (total, count, fps, trimmed), expected in zip(rows, REF["output.indices"], strict=True):
        seen = first_seconds(total, fps) if trimmed else total
        assert middle_frames(seen, count) == expected[expected >= 0].tolist()


@pytest.mark.parametrize(("total", "count"), [(0, 4), (4, 0)])
def test_nothing_to_sample(total, count):
    with pytest.raises(InputError, match=f"cannot take {count} frames of a video of {total}"):
        middle_frames(total, count)
