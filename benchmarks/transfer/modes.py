"""The ways to measure an encoder on a task, each a list of rows for the results file."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.transfer.config import Schedule
from benchmarks.transfer.networks import Classifier, Probe
from benchmarks.transfer.training import Bench, Score, train
from pretrain.evaluate import Features, check_any, extract
from pretrain.runtime import autocast_to, use_channels_last
from vie import Stream, create_model, knn_scores
from vie.linear import linear_readout

Row = dict[str, Any]


def _features(bench: Bench, model: Stream, train: bool) -> Features:
    clips, autocast = bench.test_clips(train), autocast_to(bench.config.runtime.precision, bench.device)
    features = extract(model, clips, bench.device, autocast, bench.config.data.workers)
    check_any(len(features.videos), len(clips.videos))
    return features


def knn(bench: Bench, model: Stream) -> list[Row]:
    """Nearest neighbours of the pooled features and of trained embeddings, and logistic regression on the former.

    Features are averaged over the clips of a video; nothing is drawn by chance.
    """
    known, asked = (_features(bench, model, train) for train in (True, False))
    vote = partial(knn_scores, k=bench.config.knn.neighbours, temperature=bench.config.knn.temperature)
    rows: list[Row] = []
    for column, classes in bench.task.classes.items():
        labels = torch.from_numpy(bench.task.numbers[column]).to(bench.device)
        kept, tested = labels[known.videos] >= 0, labels[asked.videos] >= 0
        train_labels, test_labels = labels[known.videos][kept], labels[asked.videos][tested]
        pooled = known.pooled[kept], asked.pooled[tested]
        unit = F.normalize(pooled[0], dim=1), F.normalize(pooled[1], dim=1)
        readouts = [
            ("pooled", "knn", vote(unit[1], unit[0], train_labels, len(classes))),
            ("pooled", "logistic", linear_readout(pooled[0], train_labels, len(classes))(pooled[1])),
        ]
        if bench.embeds:
            with torch.no_grad():
                embedded = model.embed(pooled[0]), model.embed(pooled[1])
            readouts.append(("embedding", "knn", vote(embedded[1], embedded[0], train_labels, len(classes))))
        for layer, readout, scores in readouts:
            ranked = scores.topk(min(5, len(classes)), dim=1).indices == test_labels[:, None]
            top1, top5 = (100 * ranked[:, :count].any(dim=1).float().mean().item() for count in (1, 5))
            rows.append(_row(bench, column, layer, "avg", readout, top1=top1, top5=top5, videos=len(test_labels)))
    return rows


def linear(bench: Bench, model: Stream) -> list[Row]:
    """Linear read-outs of every layer of the frozen trunk, flattened and pooled, trained together."""
    torch.manual_seed(bench.seed)
    frames, size = bench.sampling.frames, bench.sampling.size
    example = torch.zeros(1, 3, frames, size, size, device=bench.device)
    autocast = autocast_to(bench.config.runtime.precision, bench.device)
    schedule = bench.config.linear
    probe = Probe(model, bench.task.classes, example, autocast, schedule.standardise)
    return _trained(bench, probe, schedule, "linear")


def random(bench: Bench, model: Stream) -> list[Row]:
    """The same network with new weights: its nearest neighbours, and linear read-outs of its layers."""
    fresh = renewed(bench, model)
    return knn(replace(bench, embeds=False), fresh) + linear(bench, fresh)


def finetune(bench: Bench, model: Stream) -> list[Row]:
    """All layers trained from the encoder's weights, with a linear head on the pooled feature; label by label."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def given() -> Stream:
        model.load_state_dict(weights)
        return model

    return _whole(bench, given, bench.config.finetune, "finetune")


def scratch(bench: Bench, model: Stream) -> list[Row]:
    """All layers trained from new weights."""
    return _whole(bench, lambda: renewed(bench, model), bench.config.scratch, "scratch")


MODES: dict[str, Callable[[Bench, Stream], list[Row]]] = {
    mode.__name__: mode for mode in (knn, linear, random, finetune, scratch)
}


def renewed(bench: Bench, model: Stream) -> Stream:
    """A network of the same make with new weights, drawn from the seed."""
    torch.manual_seed(bench.seed)
    fresh = create_model(model.model_name, None, **model.arguments).to(bench.device).eval()
    # Those of the weights, not of the name: the pixels stay what they are.
    fresh.mean, fresh.std, fresh.resize = model.mean, model.std, model.resize
    if bench.config.runtime.channels_last:
        use_channels_last(fresh, bench.device)
    return fresh


def _whole(bench: Bench, start: Callable[[], Stream], schedule: Schedule, readout: str) -> list[Row]:
    autocast = autocast_to(bench.config.runtime.precision, bench.device)
    rows: list[Row] = []
    for column, classes in bench.task.classes.items():
        torch.manual_seed(bench.seed)
        rows += _trained(bench, Classifier(start(), column, classes, autocast), schedule, readout)
    return rows


def _trained(bench: Bench, network: Probe | Classifier, schedule: Schedule, readout: str) -> list[Row]:
    tests: dict[int, list[Score]] = {}
    train(bench, network, schedule, tests.__setitem__)
    rows = []
    for number, final in enumerate(tests[schedule.steps]):
        curve = {step: scores[number].top1 for step, scores in tests.items()}
        best = max(curve, key=curve.__getitem__)
        rows.append(
            _row(
                bench,
                final.column,
                final.place.layer,
                final.place.pooling,
                readout,
                **{name: value for name, value in asdict(final).items() if name in ("top1", "top5", "videos")},
                shuffled=final.shuffled,
                steps=schedule.steps,
                best_top1=curve[best],
                best_step=best,
                curve=curve,
            )
        )
    return rows


def _row(bench: Bench, column: str, layer: str, pooling: str, readout: str, **measured: object) -> Row:
    where = {"label": column, "layer": layer, "pooling": pooling, "readout": readout}
    return {**where, "chance": bench.task.chance(column), **measured}
