"""What a host does to its modules, done to a trunk."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

from rl_encoders import sharing
from rl_encoders.stages import stages
from rl_encoders.trunk import Trunk
from vie import VieError, create_model

NAME = "vie_single_r18"


def network(seed=0):
    torch.manual_seed(seed)
    model = create_model(NAME, width=8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def trunk(trained=0, seed=0, **options):
    """One of which the last stages are trained."""
    made = network(seed)
    made = Trunk(made, stages(made), **options)
    made.train_from(len(made.stages) - trained)
    return made


@pytest.fixture
def clip():
    return torch.randn(4, 3, 1, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def wanted(clip):
    with torch.no_grad():
        return network().forward_features(clip)["conv5"]


def in_sight(made):
    return [*made.parameters(), *(buffer for name, buffer in made.named_buffers() if name != "frozen_digest")]


def storages(*made):
    """Of what is frozen."""
    return {_at(value) for each in made for value in each.frozen().values()}


def _at(tensor):
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("trained", range(6))
def test_it_computes_what_the_network_does(clip, wanted, trained):
    assert torch.equal(trunk(trained)(clip)["conv5"], wanted)
    assert torch.equal(trunk(trained).train()(clip)["conv5"], wanted)


def test_what_is_frozen_is_out_of_sight(clip):
    made = trunk()
    assert in_sight(made) == []
    assert list(made.state_dict()) == ["frozen_digest"]
    assert not any(isinstance(module, nn.Conv2d | nn.BatchNorm2d) for module in made.modules())
    assert not made(clip)["conv5"].requires_grad


def test_what_is_trained_gets_the_gradients_of_the_network(clip):
    made, plain = trunk(2), network()
    made(clip)["conv5"].square().sum().backward()
    plain.forward_features(clip)["conv5"].square().sum().backward()
    found = dict(made.weights.named_parameters())
    expected = dict(plain.named_parameters())
    assert found
    assert all(torch.equal(value.grad, expected[name].grad) for name, value in found.items())
    assert set(found) == {name for _, names in stages(plain)[-2:] for name in names} & set(expected)


class TestAgainstHosts:
    """Each does something that a library was seen to do."""

    @pytest.mark.parametrize("trained", [0, 2, 5])
    def test_orthogonal_initialisation(self, clip, wanted, trained):
        """Stable-Baselines3's PPO, over the modules and, more roughly, over ``modules()``."""

        def initialise(module):
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                nn.init.orthogonal_(module.weight)

        made = trunk(trained)
        made.apply(initialise)
        for module in made.modules():
            initialise(module)
        made.verify(as_loaded=True)
        assert torch.equal(made(clip)["conv5"], wanted)

    @pytest.mark.parametrize("trained", [0, 2, 5])
    def test_training_mode_moves_no_statistics(self, clip, wanted, trained):
        made = trunk(trained)
        made.train()
        for module in made.modules():
            module.train()
        made(clip * 100)
        assert torch.equal(made.eval()(clip)["conv5"], wanted)
        made.verify()

    def test_statistics_move_where_that_is_asked_for(self, clip, wanted):
        made = trunk(2, update_statistics=True)
        before = {name: value.clone() for name, value in made.weights.named_buffers()}
        made.train()(clip)
        moved = {name for name, value in made.weights.named_buffers() if not torch.equal(value, before[name])}
        assert moved == set(before) != set()
        made.verify()
        copied = trunk(2, update_statistics=True)
        copied.load_state_dict(made.state_dict())
        assert torch.equal(copied.eval()(clip)["conv5"], made.eval()(clip)["conv5"])
        assert not torch.equal(made(clip)["conv5"], wanted)

    def test_weight_decay_and_a_large_step(self, clip, wanted):
        made = trunk()
        host = nn.ModuleList([made, nn.Linear(3, 3)])
        optimizer = torch.optim.AdamW(host.parameters(), lr=1.0, weight_decay=0.5)
        host[1](torch.randn(2, 3)).sum().backward()
        optimizer.step()
        assert torch.equal(made(clip)["conv5"], wanted)

    @pytest.mark.parametrize("trained", [0, 2])
    def test_a_target_copy_holds_what_is_frozen_once(self, clip, wanted, trained):
        made = trunk(trained)
        target = copy.deepcopy(nn.Sequential(made))[0]
        assert storages(made) == storages(target)
        assert not {_at(tensor) for tensor in in_sight(made)} & {_at(tensor) for tensor in in_sight(target)}
        with torch.no_grad():
            for online in made.parameters():
                online.add_(1)
            for online, averaged in zip(made.parameters(), target.parameters(), strict=True):
                averaged.mul_(0.5).add_(online, alpha=0.5)
        made.verify()
        target.verify()
        assert torch.equal(target(clip)["conv5"], wanted) == (trained == 0)

    def test_trunks_loaded_apart_hold_what_is_frozen_once(self):
        """Stable-Baselines3's SAC makes three extractors; d3rlpy makes five encoders and more."""
        made = [trunk(), trunk(2), trunk()]
        assert storages(*made) == storages(made[0])
        assert storages(made[0]) != storages(trunk(seed=3))

    def test_moving(self, clip, wanted):
        one, other = trunk(2), trunk(2)
        assert {value.device.type for value in one.to("meta").parameters()} == {"meta"}
        assert one.device.type == "meta"
        assert torch.equal(other(clip)["conv5"], wanted)

    @pytest.mark.parametrize("cast", ["half", "double", "bfloat16"])
    def test_casting_is_refused_before_anything_is_cast(self, clip, wanted, cast):
        made = trunk(2)
        with pytest.raises(VieError, match="load it with precision=bf16"):
            getattr(nn.Sequential(made), cast)()
        assert torch.equal(made(clip)["conv5"], wanted)
        made.verify(as_loaded=True)

    def test_averages_of_buffers_too(self, clip, wanted):
        """torch's AveragedModel."""
        made = trunk(2)
        averaged = torch.optim.swa_utils.AveragedModel(made, use_buffers=True)
        for _ in range(3):
            averaged.update_parameters(made)
        averaged.module.verify()
        assert torch.allclose(averaged.module(clip)["conv5"], wanted, atol=1e-6)
        trunk(2).load_state_dict(averaged.module.state_dict())

    @pytest.mark.parametrize("trained", [0, 2])
    def test_another_process(self, clip, wanted, trained):
        made = trunk(trained)
        there = pickle.loads(pickle.dumps(made))
        assert torch.equal(there(clip)["conv5"], wanted)
        assert storages(made) == storages(there)
        there.verify(as_loaded=True)

    def test_functional_calls_reach_what_is_trained(self, clip, wanted):
        """TorchRL's losses call a module with other parameters than its own."""
        made = trunk(1)
        zeros = {name: torch.zeros_like(value) for name, value in made.named_parameters()}
        assert not torch.func.functional_call(made, zeros, (clip,))["conv5"].any()
        assert torch.equal(made(clip)["conv5"], wanted)

    def test_a_compiled_trunk(self, clip, wanted):
        made = trunk(1)
        compiled = torch.compile(made, backend="aot_eager")
        assert torch.allclose(compiled(clip)["conv5"], wanted, atol=1e-5)
        with torch.no_grad():
            for value in made.parameters():
                value.zero_()
        assert not compiled(clip)["conv5"].any()


class TestVerify:
    def test_it_names_the_layer_that_was_written_to(self):
        made = trunk(1, seed=10)  # of its own, as what is written to is shared
        with torch.no_grad():
            made.stream.trunk.stem.weight[0] += 1
        with pytest.raises(VieError, match=r"trunk\.stem\.weight is frozen and has changed"):
            made.verify()

    def test_it_names_the_layer_that_asks_for_gradients(self):
        made = trunk(seed=11)
        made.stream.trunk.stem.weight.requires_grad_()
        with pytest.raises(VieError, match=r"trunk\.stem\.weight is frozen and asks for gradients"):
            made.verify()

    def test_it_names_the_norm_that_is_in_training(self):
        made = trunk(1)
        made.stream.trunk.stem.train()
        with pytest.raises(VieError, match="is frozen and in training mode"):
            made.verify()

    def test_it_says_that_the_host_has_initialised_anew(self):
        made = trunk(1)
        made.verify(as_loaded=True)
        with torch.no_grad():
            next(made.parameters()).mul_(1.5)
        made.verify()
        with pytest.raises(VieError, match="not as it was loaded"):
            made.verify(as_loaded=True)

    def test_it_knows_the_optimizer(self):
        made = trunk(1)
        some = list(made.parameters())
        made.verify(torch.optim.SGD(some, lr=1.0))
        with pytest.raises(VieError, match="is to be trained and is 0 times in the optimizer"):
            made.verify(torch.optim.SGD(some[1:], lr=1.0))


class TestCheckpoints:
    def test_a_refused_one_changes_nothing(self):
        made = trunk()
        with pytest.raises(VieError, match="belongs to another encoder"):
            made.load_state_dict(trunk(2, seed=5).state_dict())
        assert not made.is_trained

    def test_one_of_fewer_trained_stages_is_refused(self):
        with pytest.raises(VieError, match="load it with the mode or schedule that it was saved with"):
            trunk(2).load_state_dict(trunk(1).state_dict())

    def test_unfrozen_stages_come_back(self, clip):
        made = trunk(1)
        made.train_from(len(made.stages) - 2)
        with torch.no_grad():
            for value in made.parameters():
                value.add_(0.1)
        again = trunk()
        again.load_state_dict(made.state_dict())
        assert again.first_trained == made.first_trained
        assert torch.equal(again(clip)["conv5"], made(clip)["conv5"])
        assert again.fingerprint() == made.fingerprint() != trunk().fingerprint()

    def test_of_another_source_it_is_refused(self):
        with pytest.raises(VieError, match="the checkpoint belongs to another encoder"):
            trunk().load_state_dict(trunk(seed=5).state_dict())

    def test_unfreezing_leaves_other_copies_alone(self, clip, wanted):
        made, other = trunk(), trunk()
        new = made.train_from(0)
        assert {id(value) for value in new} == {id(value) for value in made.parameters()}
        with torch.no_grad():
            for value in new:
                value.zero_()
        assert torch.equal(other(clip)["conv5"], wanted)
        other.verify()

    def test_what_was_trained_is_not_frozen_again(self):
        made = trunk(2)
        assert made.train_from(len(made.stages)) == []
        assert made.first_trained == len(made.stages) - 2

    def test_memory_goes_with_the_last_trunk(self):
        gc.collect()
        before = len(sharing._SHARED)
        made = [trunk(seed=23), trunk(1, seed=23)]
        assert len(sharing._SHARED) > before + 10
        del made[0]
        gc.collect()
        assert len(sharing._SHARED) > before + 10
        made.clear()
        gc.collect()
        assert len(sharing._SHARED) == before


def test_weights_that_no_module_lists_are_used(clip):
    """TorchRL's losses put them there for the time of a call."""
    made, other = trunk(5), trunk(5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    for module, source in zip(made.weights.modules(), other.weights.modules(), strict=True):
        for name in list(module._parameters):
            del module._parameters[name]
            module.__dict__[name] = source._parameters[name].detach().clone().requires_grad_()
    found = made(clip)["conv5"]
    assert torch.equal(found, other(clip)["conv5"])
    found.sum().backward()
    assert all(tensor.grad is not None for tensor in made.trained().values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a device to move to")
def test_what_is_frozen_follows_what_a_host_has_moved(clip, wanted):
    made = trunk(2)
    for parameter in made.parameters():
        parameter.data = parameter.data.cuda()
    found = made(clip.cuda())["conv5"]
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-3, atol=1e-3)
    made.verify()


def test_a_copy_after_a_call_with_computed_weights(clip, wanted):
    made = trunk(2)
    computed = {name: value * 1.0 for name, value in made.named_parameters()}
    torch.func.functional_call(made, computed, (clip,))
    assert torch.equal(copy.deepcopy(made)(clip)["conv5"], wanted)


def test_a_tensor_that_was_written_to_is_not_handed_on(clip, wanted):
    spoilt = trunk()
    with torch.no_grad():
        spoilt.stream.trunk.stem.weight.zero_()
    assert torch.equal(trunk()(clip)["conv5"], wanted)
