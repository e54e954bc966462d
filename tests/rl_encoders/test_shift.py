"""Random shifts."""

import torch

from rl_encoders.shift import draw_shifts, shift


def test_pictures_move_by_whole_pixels_and_repeat_the_border():
    frames = torch.arange(2 * 3 * 8 * 9 * 3).view(2, 3, 8, 9, 3)
    by = torch.tensor([[2, -3], [-1, 0]])
    moved = shift(frames, by)
    assert moved.shape == frames.shape
    for number in range(2):
        for row in range(8):
            for column in range(9):
                down, right = by[number].tolist()
                wanted = frames[number, :, min(max(row + down, 0), 7), min(max(column + right, 0), 8)]
                assert torch.equal(moved[number, :, row, column], wanted)


def test_single_pictures_and_no_shift():
    frames = torch.randint(256, (4, 5, 6, 3), dtype=torch.uint8)
    assert torch.equal(shift(frames, torch.zeros(4, 2, dtype=torch.long)), frames)


def test_every_shift_is_drawn():
    drawn = draw_shifts(5000, 2)
    assert torch.unique(drawn, dim=0).shape == (25, 2)
    assert (drawn.min(), drawn.max()) == (-2, 2)
