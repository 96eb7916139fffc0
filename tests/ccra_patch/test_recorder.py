"""What is recorded of a model that runs: its own thread's calls, nothing after the block."""

import threading

import torch
from torch import nn

from ccra_patch.pai import PAIStack
from ccra_patch.recorder import recorded_calls, recorded_maps


def sample() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(3, 4, 9, 12, generator=generator)
    return stack, torch.randn(3, 5, 10, generator=generator), torch.ones(3, 5, dtype=torch.bool)


def test_calls_hold_what_went_in_and_came_out():
    model, given = nn.ModuleDict({"projector": PAIStack(12, 10, 8)}), sample()
    with recorded_calls(model) as calls, recorded_maps(model) as maps:
        _, expected = model["projector"](*given)
    model["projector"](*given)
    (call,) = calls
    assert maps == [expected]
    assert (call.attention, call.stack, call.query, call.maps) == (model["projector"], given[0], given[1], expected)

    part = call.images(torch.tensor([2, 0]))
    assert torch.equal(part.stack, given[0][[2, 0]])
    assert torch.equal(part.query, given[1][[2, 0]])
    assert torch.equal(part.maps.pwca, expected.pwca[[2, 0]])


def test_other_threads_are_not_recorded():
    model, given = PAIStack(12, 10, 8), sample()
    with recorded_calls(model) as calls:
        thread = threading.Thread(target=model, args=given)
        thread.start()
        thread.join()
    assert calls == []


def test_a_model_without_an_attention_stack_leaves_nothing():
    model = nn.Linear(2, 2)
    with recorded_maps(model) as maps:
        model(torch.zeros(1, 2))
    assert maps == []
