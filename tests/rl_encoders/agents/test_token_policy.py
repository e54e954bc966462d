"""Models that write actions as tokens, on a small one of Llava's kind with LoRA by peft."""

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

from rl_encoders.agents.external_policy import ExternalPolicy
from rl_encoders.agents.token_policy import ActionTokens, TokenPolicy
from tests.rl_encoders.agents.vla import WORDS, save_small_vla
from vie import VieError

B, N, A = 3, 4, 2
QUESTION = "<s><image>In: What action should the robot take to open the drawer?\nOut:"
SEEN = {"pixels": np.random.default_rng(0).integers(0, 256, (B, 40, 40, 3), dtype=np.uint8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("vla")
    save_small_vla(found)
    return found


@pytest.fixture(scope="module")
def loaded(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32), AutoProcessor.from_pretrained(
        folder
    )


@pytest.fixture
def made(loaded):
    """A policy; all of it in float32 unless told, so that ways to one result can be compared."""

    def make(tokens=None, dtype=torch.float32, r=4, action_dim=A, **options):
        model, processor = copy.deepcopy(loaded[0]).to(dtype), loaded[1]
        torch.manual_seed(1)
        lora = LoraConfig(
            r=r, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", init_lora_weights="gaussian"
        )

        def prompt(seen):
            questions = [QUESTION] * len(seen["pixels"])
            return processor(text=questions, images=list(seen["pixels"]), return_tensors="pt").to(dtype)

        tokens = tokens or ActionTokens.of_openvla(len(WORDS))
        return TokenPolicy(get_peft_model(model, lora), prompt, tokens, action_dim, **options)

    return make


def few():
    """Three words alone, so that chances can be counted."""
    return ActionTokens.evenly([100, 40, 200])


class TestTokens:
    def test_openvlas(self):
        """As its release has them: counted from the vocabulary's end, the 256th read as the 255th."""
        tokens, edges = ActionTokens.of_openvla(32_000), np.linspace(-1, 1, 256)
        actions = np.concatenate([np.random.default_rng(0).uniform(-1, 1, 2000), [-1, 1, 0], edges])
        wanted = 32_000 - np.digitize(actions, edges)
        found = tokens.encode(torch.from_numpy(actions))
        np.testing.assert_array_equal(found, wanted)
        middles = (edges[:-1] + edges[1:]) / 2
        places = np.clip(32_000 - wanted - 1, 0, 254)
        of_word = {int(word): place for place, word in enumerate(tokens.ids)}
        back = tokens.decode(torch.tensor([of_word[int(word)] for word in found]))
        np.testing.assert_allclose(back, middles[places], rtol=1e-6)

    def test_actions_outside_are_the_ends(self):
        assert ActionTokens.of_openvla(300).encode(torch.tensor([-7.0, 7.0])).tolist() == [299, 44]
        assert ActionTokens.evenly([5, 6]).encode(torch.tensor([-7.0, -0.1, 0.1, 7.0])).tolist() == [5, 5, 6, 6]

    def test_even_bins(self):
        tokens = ActionTokens.evenly([7, 3, 9, 1], low=0.0, high=2.0)
        assert tokens.encode(torch.tensor([[0.1, 0.6], [1.4, 1.9]])).tolist() == [[7, 3], [9, 1]]
        assert tokens.decode(torch.arange(4)).tolist() == [0.25, 0.75, 1.25, 1.75]


class TestSampling:
    def test_going_on_from_one_pass_is_asking_anew(self, made):
        one, other = made(reuse_prompt=True), made(reuse_prompt=False)
        drawn = []
        for policy in (one, other):
            torch.manual_seed(7)
            drawn.append(policy.ask(SEEN, N))
        np.testing.assert_array_equal(*drawn)
        assert drawn[0].shape == (B, N, A)
        assert drawn[0].dtype == np.float32
        assert len(np.unique(drawn[0])) > B * N

    def test_the_prompt_goes_through_once(self, made):
        policy, shapes = made(rows_at_once=100), []
        policy.model.register_forward_pre_hook(
            lambda module, given, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
        )
        policy.ask(SEEN, N)
        (prompts, length), *later = shapes
        assert prompts == B
        assert length > 10
        assert later == [(B * N, 1)] * (A - 1)
        shapes.clear()
        policy.rows_at_once = 2 * N + 1  # of what then goes on from the prompts
        policy.ask(SEEN, N)
        assert [rows for rows, width in shapes if width > 1] == [2, 1]

    @pytest.mark.parametrize("temperature", [1.0, 0.3])
    def test_actions_follow_the_models_chances(self, made, temperature):
        """Counted, beside the product of the chances of a component and of the next one after it."""
        policy = made(few(), rows_at_once=10_000, temperature=temperature)
        one = {"pixels": SEEN["pixels"][:1]}
        drawn = policy.ask(one, 3000)[0]
        asked = policy.prompt(one)
        words = torch.cartesian_prod(policy.tokens.ids, policy.tokens.ids)
        ids = torch.cat([asked["input_ids"].expand(9, -1), words], dim=1)
        with torch.no_grad():
            said = policy.model(input_ids=ids, pixel_values=asked["pixel_values"].expand(9, -1, -1, -1)).logits
        chances = (said[:, -3:-1, policy.tokens.ids] / temperature).softmax(dim=-1)
        places = torch.cartesian_prod(torch.arange(3), torch.arange(3))
        wanted = chances.gather(2, places[..., None])[..., 0].prod(dim=1)
        actions = policy.tokens.decode(places).numpy()
        found = [(np.abs(drawn - action) < 1e-6).all(axis=1).mean() for action in actions]
        assert wanted.min() < 0.05 < 0.2 < wanted.max()
        np.testing.assert_allclose(found, wanted, atol=0.04)

    def test_observations_in_parts_are_the_same(self, made):
        policy = made(few(), temperature=1e-6)
        together = policy.ask(SEEN, N)
        policy.rows_at_once = 1
        np.testing.assert_array_equal(policy.ask(SEEN, N), together)


class TestTeaching:
    actions = np.array([[0.5, -0.5], [0.1, 0.9], [-1.0, 1.0]], np.float32)

    def test_the_loss_is_that_of_transformers(self, made):
        policy = made()
        asked = policy.prompt(SEEN)
        words = policy.tokens.encode(torch.from_numpy(self.actions))
        ids = torch.cat([asked["input_ids"], words], dim=1)
        labels = ids.clone()
        labels[:, :-A] = -100
        with torch.no_grad():
            wanted = policy.model(input_ids=ids, pixel_values=asked["pixel_values"], labels=labels).loss
        assert policy.teach(SEEN, self.actions) == pytest.approx(float(wanted), rel=1e-5)

    def test_parts_of_a_batch_are_summed_up(self, made):
        policies = made(rows_at_once=16), made(rows_at_once=2)
        for policy in policies:
            policy.optimizer = torch.optim.SGD(policy.weights().values(), 1.0)
        losses = [policy.teach(SEEN, self.actions) for policy in policies]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        for one, other in zip(*(policy.weights().values() for policy in policies), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    def test_dropout_is_for_learning_alone(self, made):
        policy, learning = made(), []
        policy.model.register_forward_pre_hook(lambda module, given: learning.append(module.training))
        policy.teach(SEEN, self.actions)
        policy.ask(SEEN, 1)
        policy.teach(SEEN, self.actions)
        assert learning == [True, *[False] * A, True]

    def test_lora_alone_is_trained(self, made):
        """In bfloat16, as PA-RL trains OpenVLA; peft keeps what is trained in float32, or small steps would be lost."""
        policy = made(dtype=torch.bfloat16, r=32)
        before = {name: one.detach().clone() for name, one in policy.model.named_parameters()}
        for _ in range(3):
            policy.teach(SEEN, self.actions)
        moved = {name for name, one in policy.model.named_parameters() if not torch.equal(one, before[name])}
        assert moved
        assert all("lora_" in name for name in moved)
        assert {name for name in before if "lora_" in name} == set(policy.weights())
        assert {one.dtype for one in policy.weights().values()} == {torch.float32}
        held = {id(one) for group in policy.optimizer.param_groups for one in group["params"]}
        assert held == {id(one) for one in policy.weights().values()}
        assert policy.optimizer.defaults["lr"] == 2e-5

    def test_actions_move_towards_those_that_are_imitated(self, made):
        policy = made(lr=1e-2)
        before = np.abs(policy.ask(SEEN, 30) - self.actions[:, None]).mean()
        for _ in range(30):
            policy.teach(SEEN, self.actions)
        after = np.abs(policy.ask(SEEN, 30) - self.actions[:, None]).mean()
        assert before > 0.5
        assert after < 0.2


class TestBehindTheProtocol:
    def behind(self, vla, **options):
        kept = {"optimizer": vla.optimizer, "weights": vla.weights, "load_weights": vla.load_weights}
        return ExternalPolicy(vla.ask, vla.teach, A, **kept, **options)

    def test_candidates_are_drawn_anew_when_the_weights_have_changed(self, made):
        policy = self.behind(made(), refresh_every=1)
        seen = {"pixels": torch.from_numpy(SEEN["pixels"])}
        first = policy.sample(seen, N)
        assert torch.equal(policy.sample(seen, N), first)
        policy.imitate(seen, torch.zeros(B, A))
        assert not torch.equal(policy.sample(seen, N), first)
        assert policy.asked == 2 * B

    def test_lora_and_its_optimizer_go_on(self, made):
        seen, actions = {"pixels": torch.from_numpy(SEEN["pixels"])}, torch.from_numpy(TestTeaching.actions)
        policy, again = (self.behind(made(lr=1e-3)) for _ in range(2))
        for _ in range(2):
            policy.imitate(seen, actions)
        state = copy.deepcopy((policy.state_dict(), policy.optimizer.state_dict()))
        assert all("lora_" in name for name in state[0]["_extra_state"]["weights"])
        again.load_state_dict(state[0])
        again.optimizer.load_state_dict(state[1])
        for one in (policy, again):
            one.imitate(seen, actions)
        for name, parameter in policy.weights().items():
            assert torch.equal(parameter, again.weights()[name])


class TestBadInput:
    def test_nothing_to_train(self, made):
        policy = made()
        policy.model.requires_grad_(False)
        with pytest.raises(VieError, match=r"no parameter of the model requires a gradient: give it LoRA by peft"):
            TokenPolicy(policy.model, policy.prompt, policy.tokens, A)

    def test_prompts_of_different_lengths(self, made, loaded):
        policy = made()
        questions = [QUESTION, QUESTION + " open", QUESTION]
        pictures = list(SEEN["pixels"])
        policy.prompt = lambda seen: loaded[1](text=questions, images=pictures, padding=True, return_tensors="pt")
        with pytest.raises(VieError, match="prompts of one call have different lengths"):
            policy.ask(SEEN, N)

    def test_a_cache_that_cannot_be_repeated(self, made, monkeypatch):
        policy = made()
        real = type(policy.model).forward

        def forward(self, *given, **named):
            out = real(self, *given, **named)
            out.past_key_values = ((torch.zeros(1),),)
            return out

        monkeypatch.setattr(type(policy.model), "forward", forward)
        with pytest.raises(
            VieError, match="the model's cache is a tuple, which cannot be repeated: reuse_prompt=False"
        ):
            policy.ask(SEEN, N)

    def test_lora_of_other_settings(self, made):
        with pytest.raises(VieError, match="the checkpoint holds other trained parameters than the model has"):
            made(r=4).load_weights(made(r=8).weights())
