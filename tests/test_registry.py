"""One registry a denoiser: whose calls are followed, in what order, and what is covered for it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

import t2i_xattn as tx
from conftest import make_pipeline, make_unet, state_of
from t2i_xattn.denoisers.registry import Registry
from t2i_xattn.denoisers.seen import Change, Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite, find_sites
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.owner import owner_of_call, running
from tiny_pipelines import of_class

MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn2"


Log = list[str]


class Call:
    """What a follower does in one call: it keeps what it sees."""

    def __init__(self, log: list[str], name: str, sites: Collection[str]) -> None:
        self.log, self.name, self.sites = log, name, sites
        self.seen: list[Seen] = []
        self.changing: Change | None = None

    def wants(self, site: AttentionSite) -> bool:
        return site.name in self.sites

    def changes(self, seen: Seen) -> Sequence[tuple[Rows, Change]]:
        if self.changing is None:
            return ()
        return [(tuple(range(len(seen.kernel.query))), self.changing)]

    def take(self, seen: Seen) -> None:
        self.log.append(f"{self.name} sees {seen.site.name}")
        self.seen.append(seen)

    def missed(self, site: AttentionSite, module: Any) -> None:
        self.log.append(f"{self.name} misses {site.name}")

    def end(self) -> None:
        self.log.append(f"{self.name} ends")


class Following:
    """A follower of a pipeline's denoiser."""

    edits = False

    def __init__(
        self,
        log: list[str],
        name: str = "one",
        pipe: Any = None,
        sites: Collection[str] = (MIDDLE,),
        changing: Change | None = None,
    ) -> None:
        self.log, self.name, self.pipe, self.site_names = log, name, pipe, sites
        self.changing = changing
        self.owners: list[Any] = []
        self.given: list[dict[str, Any]] = []
        self.calls: list[Call] = []

    def begin(self, given: dict[str, Any], owner: Any) -> tuple[Call | None, dict[str, Any]]:
        self.owners.append(owner)
        if owner is not None and owner is not self.pipe:
            return None, given
        self.given.append(given)
        self.calls.append(Call(self.log, self.name, self.site_names))
        self.calls[-1].changing = self.changing
        return self.calls[-1], given


class Scaled:
    """An edit: all shares times a number."""

    mixes = scales_the_rest = per_head = False

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def changed(self, probs: Tensor) -> Tensor:
        return probs * self.factor

    def mixed(self, taken: Tensor) -> Tensor:
        return taken


def run(unet: Any, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 5, 32, generator=generator)
    with torch.no_grad():
        output: Tensor = unet(sample, 1, encoder_hidden_states=text).sample
    return output


def covered(unet: Any) -> set[str]:
    return {name for name, module in unet.named_modules() if "forward" in vars(module)}


class TestCalls:
    def test_arguments_have_their_names_and_sites_are_seen(self) -> None:
        unet, log = make_unet(), Log()
        registry, one = Registry.of(unet), Following(log, sites=[s.name for s in find_sites(unet)])
        registry.join(one, unet)
        run(unet)
        registry.leave(one)
        (given,) = one.given
        assert set(given) == {"sample", "timestep", "encoder_hidden_states"}
        assert [seen.site for seen in one.calls[0].seen] == find_sites(unet)
        for seen in one.calls[0].seen:
            reading = seen.reading
            assert (seen.stream, reading.part, reading.parts) == ("text", 0, 1)
            assert reading.problem is None
            assert seen.problem_of((0, 1)) is None
            assert seen.size is not None
            assert seen.kernel.query.shape[2] == seen.size[0] * seen.size[1]
            assert torch.allclose(seen.probs((0, 1)).sum(-1), torch.ones(()), atol=1e-5)

    def test_all_who_follow_see_a_call_in_the_order_in_which_they_came(self) -> None:
        unet, log = make_unet(), Log()
        registry = Registry.of(unet)
        followers = [Following(log, name) for name in ("one", "two", "three")]
        for each in followers:
            registry.join(each, unet)
        run(unet)
        registry.leave(followers[0])
        run(unet)
        for each in followers:
            registry.leave(each)
        run(unet)
        names = ("one", "two", "three")
        assert log == [
            *(f"{name} sees {MIDDLE}" for name in names),
            *(f"{name} ends" for name in names),
            *(f"{name} sees {MIDDLE}" for name in names[1:]),
            *(f"{name} ends" for name in names[1:]),
        ]

    def test_probs_are_formed_once_for_all(self) -> None:
        unet, log = make_unet(), Log()
        registry = Registry.of(unet)
        followers = [Following(log, name) for name in ("one", "two")]
        for each in followers:
            registry.join(each, unet)
        run(unet)
        for each in followers:
            registry.leave(each)
        one, two = (each.calls[0].seen[0] for each in followers)
        assert one.probs((0, 1)) is two.probs((0, 1))

    def test_edits_compose_in_the_order_in_which_they_came(self) -> None:
        """(2 P)² is not 2 P²."""

        class Squared(Scaled):
            def changed(self, probs: Tensor) -> Tensor:
                return probs**2

        found = []
        for order in ((Scaled(2), Squared(0)), (Squared(0), Scaled(2))):
            unet, log = make_unet(), Log()
            registry = Registry.of(unet)
            followers = [Following(log, changing=each) for each in order]
            for each in followers:
                registry.join(each, unet)
            run(unet)
            for each in followers:
                registry.leave(each)
            seen = followers[0].calls[0].seen[0]
            found.append((seen.probs((0, 1)), seen.edited((0, 1))))
        (plain, one), (_, two) = found
        assert torch.allclose(one, 4 * plain**2)
        assert torch.allclose(two, 2 * found[1][0] ** 2)

    def test_a_follower_may_give_other_arguments(self) -> None:
        unet, log = make_unet(), Log()
        expected = run(unet, seed=1)
        generator = torch.Generator().manual_seed(1)
        sample = torch.randn(2, 4, 8, 8, generator=generator)
        text = torch.randn(2, 5, 32, generator=generator)

        class Moving(Following):
            def begin(self, given: Any, owner: Any) -> tuple[None, dict[str, Any]]:
                return None, given | {"sample": sample, "encoder_hidden_states": text}

        registry, moving, after = Registry.of(unet), Moving(log), Following(log)
        registry.join(moving, unet)
        registry.join(after, unet)
        found = run(unet)
        for each in (moving, after):
            registry.leave(each)
        assert torch.equal(found, expected)
        assert after.given[0]["sample"] is sample

    def test_a_site_whose_kernel_is_not_seen_is_told(self) -> None:
        unet, log = make_unet(), Log()
        attn = unet.get_submodule(MIDDLE)

        def blind(attn: Any, hidden_states: Tensor, **_: Any) -> Tensor:
            return hidden_states

        attn.processor = blind
        registry, one = Registry.of(unet), Following(log)
        registry.join(one, unet)
        run(unet)
        registry.leave(one)
        assert log == [f"one misses {MIDDLE}", "one ends"]

    def test_after_an_exception_the_next_call_is_a_call_of_its_own(self) -> None:
        unet, log = make_unet(), Log()

        def fail(*_: Any) -> None:
            raise RuntimeError("inside")

        registry, one = Registry.of(unet), Following(log)
        registry.join(one, unet)
        handle = unet.up_blocks[-1].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="inside"):
            run(unet)
        handle.remove()
        assert log == [f"one sees {MIDDLE}"]  # it did not end
        run(unet)
        registry.leave(one)
        assert log[1:] == [f"one sees {MIDDLE}", "one ends"]


class TestProblems:
    """What cannot be read as maps of the text is told with the call, and nothing is guessed."""

    def seen(self, unet: Any, sample: Tensor, text: Tensor) -> Seen:
        log = Log()
        registry, one = Registry.of(unet), Following(log)
        registry.join(one, unet)
        with torch.no_grad():
            unet(sample, 1, encoder_hidden_states=text)
        registry.leave(one)
        return one.calls[0].seen[0]

    def test_fewer_queries_than_places(self) -> None:
        unet = make_unet()
        attn: Any = unet.get_submodule(MIDDLE)
        processor = attn.processor

        def merging(attn: Any, hidden_states: Tensor, **more: Any) -> Tensor:
            half = hidden_states[:, ::2]
            return processor(attn, half, **more).repeat_interleave(2, dim=1)

        attn.processor = merging
        seen = self.seen(unet, torch.randn(2, 4, 8, 8), torch.randn(2, 5, 32))
        assert seen.size is None
        assert seen.reading.problem == "its 2 places there fit no grid of a latent of 8 × 8"

    def test_fewer_rows_than_the_batch(self) -> None:
        unet = make_unet()
        attn: Any = unet.get_submodule(MIDDLE)
        processor = attn.processor

        def first(
            attn: Any,
            hidden_states: Tensor,
            encoder_hidden_states: Tensor,
            attention_mask: Tensor | None = None,
        ) -> Tensor:
            return processor(attn, hidden_states[:1], encoder_hidden_states[:1]).expand(2, -1, -1)

        attn.processor = first
        seen = self.seen(unet, torch.randn(2, 4, 8, 8), torch.randn(2, 5, 32))
        assert seen.reading.problem == "the kernel got 1 rows there for a batch of 2"

    def test_more_keys_than_tokens(self) -> None:
        unet = make_unet()
        attn: Any = unet.get_submodule(MIDDLE)
        processor = attn.processor

        def longer(
            attn: Any,
            hidden_states: Tensor,
            encoder_hidden_states: Tensor,
            attention_mask: Tensor | None = None,
        ) -> Tensor:
            text = torch.cat([encoder_hidden_states] * 2, dim=1)
            return processor(attn, hidden_states, text)

        attn.processor = longer
        seen = self.seen(unet, torch.randn(2, 4, 8, 8), torch.randn(2, 5, 32))
        assert seen.reading.problem == "the kernel got 10 keys there for a text of 5 tokens"

    def test_a_second_kernel_call_that_nobody_knows(self) -> None:
        unet, log = make_unet(), Log()
        attn: Any = unet.get_submodule(MIDDLE)
        processor = attn.processor

        def twice(attn: Any, *args: Any, **more: Any) -> Tensor:
            return processor(attn, *args, **more) + processor(attn, *args, **more)

        attn.processor = twice
        registry, one = Registry.of(unet), Following(log)
        registry.join(one, unet)
        run(unet)
        registry.leave(one)
        first, second = one.calls[0].seen
        assert first.reading.problem is None
        assert second.reading.problem == "the kernel was called 2 times there"


class TestOwners:
    def test_the_pipeline_that_calls_is_told(self, pipe: Any) -> None:
        log = Log()
        other = of_class("StableDiffusionPipeline", pipe)
        registry, one = Registry.of(pipe.unet), Following(log, pipe=pipe)
        registry.join(one, pipe.unet)
        options: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent"}
        pipe("red", **options)
        other("red", **options)
        run(pipe.unet)
        registry.leave(one)
        assert one.owners == [pipe, other, None]
        assert len(one.calls) == 2

    def test_the_innermost_if_one_runs_another(self) -> None:
        """And anything may count as a pipeline that is followed as one."""

        class Custom:
            def __init__(self, inner: Any = None) -> None:
                self.inner = inner

            def __call__(self) -> tuple[Any, Any]:
                if self.inner is not None:
                    found: tuple[Any, Any] = self.inner()
                    return found
                return owner_of_call(pipes), running(outer)

        inner = Custom()
        outer = Custom(inner)
        pipes: list[Any] = [inner, outer]
        owner, frame = outer()
        assert owner is inner
        assert frame is not None
        assert frame.f_locals["self"] is outer
        pipes = [outer]
        assert outer()[0] is outer  # of the inner one nobody knows
        pipes = []
        assert outer()[0] is None
        assert running(outer) is None

    def test_two_runs_are_two_frames(self) -> None:
        class Custom:
            def __call__(self) -> Any:
                return running(self)

        custom = Custom()
        first, second = custom(), custom()
        assert first is not second


class TestCovers:
    def test_only_the_sites_that_somebody_needs(self) -> None:
        unet, log = make_unet(), Log()
        names = [site.name for site in find_sites(unet)]
        registry = Registry.of(unet)
        one, two = Following(log, sites=names[:2]), Following(log, "two", sites=names[1:3])
        assert covered(unet) == set()
        registry.join(one, unet)
        assert covered(unet) == {"", *names[:2]}
        registry.join(two, unet)
        assert covered(unet) == {"", *names[:3]}
        registry.leave(one)
        assert covered(unet) == {"", *names[1:3]}
        registry.leave(two)
        assert covered(unet) == set()

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_left_in_any_order_all_is_as_it_was_found(self, order: tuple[int, ...]) -> None:
        pipe, log = make_pipeline(), Log()
        expected, before = run(pipe.unet), state_of(pipe)
        names = [site.name for site in find_sites(pipe.unet)]
        registry = Registry.of(pipe.unet)
        followers = [
            Following(log, str(n), sites=names[n : n + 3], changing=Scaled(n or 1))
            for n in range(3)
        ]
        for each in followers:
            registry.join(each, pipe.unet)
        for number in order:
            registry.leave(followers[number])
            registry.leave(followers[number])  # may be told again
            log.clear()
            run(pipe.unet)
            assert not any(line.startswith(f"{number} ") for line in log)
        assert state_of(pipe) == before
        assert torch.equal(run(pipe.unet), expected)

    def test_one_registry_while_somebody_follows(self) -> None:
        unet, log = make_unet(), Log()
        one = Following(log)
        registry = Registry.of(unet)
        assert Registry.of(unet) is not registry  # nobody does yet
        registry.join(one, unet)
        assert Registry.of(unet) is registry
        compiled: Any = torch.compile(unet, backend="eager")
        assert Registry.of(compiled) is registry
        registry.leave(one)
        assert Registry.of(unet) is not registry

    def test_followers_of_a_pipeline(self, pipe: Any) -> None:
        log = Log()
        registry = Registry.of(pipe.unet)
        mine, other = Following(log, pipe=pipe), Following(log, pipe=object())
        for each in (other, mine):
            registry.join(each, pipe.unet)
        assert registry.followers_of(pipe) == [mine]
        for each in (other, mine):
            registry.leave(each)
        assert registry.followers_of(pipe) == []

    def test_what_was_compiled_since_is_linked(self) -> None:
        torch._dynamo.reset()
        unet, log = make_unet(), Log()
        expected = run(unet)
        registry, one = Registry.of(unet), Following(log)
        registry.join(one, unet)
        compiled: Any = torch.compile(unet, backend="eager", fullgraph=True)
        registry.link(compiled)
        assert torch.equal(run(compiled), expected)
        assert log == [f"one sees {MIDDLE}", "one ends"]  # once, though both are covered
        unet.compile(backend="eager", fullgraph=True)
        registry.link(unet)
        log.clear()
        assert torch.equal(run(unet), expected)
        assert log == [f"one sees {MIDDLE}", "one ends"]
        registry.leave(one)
        log.clear()
        assert torch.equal(run(unet), expected)
        assert torch.equal(run(compiled), expected)
        assert not log
        assert covered(unet) == set()

    def test_no_known_family(self) -> None:
        match = r"a family that is known, but came Linear; .* take a pipeline with one of these"
        with pytest.raises(UserError, match=match):
            Registry.of(torch.nn.Linear(2, 2))


class TestWatched:
    def test_nobody_else_sees_a_pass(self) -> None:
        unet, log = make_unet(), Log()
        registry, one = Registry.of(unet), Following(log)
        registry.join(one, unet)
        mine = Call(log, "mine", [MIDDLE])
        generator = torch.Generator().manual_seed(0)
        given = {
            "sample": torch.randn(2, 4, 8, 8, generator=generator),
            "timestep": 1,
            "encoder_hidden_states": torch.randn(2, 5, 32, generator=generator),
        }
        with torch.no_grad(), registry.watched(mine, given):
            type(unet).forward(unet, **given)
        assert log == [f"mine sees {MIDDLE}"]
        assert not one.calls
        with pytest.raises(RuntimeError, match="stop"), registry.watched(mine, given):
            raise RuntimeError("stop")
        log.clear()
        run(unet)
        assert log == [f"one sees {MIDDLE}", "one ends"]
        registry.leave(one)


class TestReading:
    def test_a_call_is_read_once_for_all_who_follow(
        self, pipe: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lengths of texts may have to be fetched from a GPU."""
        from t2i_xattn import edits

        family, read = type(Registry.of(pipe.unet).family), []
        own = family.call

        def call(self: Any, denoiser: Any, given: Any) -> Any:
            read.append(given)
            return own(self, denoiser, given)

        monkeypatch.setattr(family, "call", call)
        with tx.record(pipe), tx.edit(pipe, edits.Drop("red")), tx.record(pipe) as trace:
            pipe("a red circle", num_inference_steps=3, output_type="latent")
        assert len(read) == trace.settings["calls"] == 3
        assert "read" not in vars(Registry.of(pipe.unet)._local), "nothing is held"


class TestThreads:
    def test_threads_share_a_denoiser(self) -> None:
        """A call is known to the thread that makes it, and to no other."""
        unet = make_unet()
        expected = [run(unet, seed) for seed in range(2)]
        registry, followers = Registry.of(unet), []
        barrier, wrong = threading.Barrier(2), []

        class Own(Following):
            """Follows the calls of its thread only, and waits for the other's inside of them."""

            def begin(self, given: dict[str, Any], owner: Any) -> tuple[Call | None, Any]:
                if threading.get_ident() != self.thread:
                    return None, given
                return super().begin(given, owner)

            thread = 0

        def together(*_: Any) -> None:
            barrier.wait(30)

        handle = unet.mid_block.register_forward_pre_hook(together)

        def work(seed: int) -> None:
            one = Own([], str(seed))
            one.thread = threading.get_ident()
            followers.append(one)
            registry.join(one, unet)
            barrier.wait(30)
            for _ in range(5):
                if not torch.equal(run(unet, seed), expected[seed]):
                    wrong.append(seed)
            barrier.wait(30)
            registry.leave(one)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(120)
        handle.remove()
        assert not wrong
        assert covered(unet) == set()
        for one in followers:
            assert len(one.calls) == 5
            queries = [call.seen[0].kernel.query for call in one.calls]
            assert [len(call.seen) for call in one.calls] == [1] * 5
            assert all(torch.equal(each, queries[0]) for each in queries)
        first, second = (one.calls[0].seen[0].kernel.query for one in followers)
        assert not torch.equal(first, second)

    @pytest.mark.slow
    def test_they_come_and_go_together(self) -> None:
        unet = make_unet()
        expected, failures = run(unet), []

        def work() -> None:
            for _ in range(30):
                registry, one = Registry.of(unet), Following([])
                registry.join(one, unet)
                if not torch.equal(run(unet), expected):
                    failures.append("output")
                if not one.calls:
                    failures.append("unseen")
                registry.leave(one)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(120)
        assert not failures
        assert covered(unet) == set()
        assert not [key for key in vars(unet) if "t2i_xattn" in key]
