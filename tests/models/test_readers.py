"""History readers against plain loops over tokens, on random histories with labels known at different instants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codec import pack
from models.config import ALL_CONTENT, ReaderConfig
from models.readers import FmTokens, HistoryReader, InverseDeviation
from models.vm_data import NEVER, HistoryBatch, TokenPool, gather_tokens
from tests.models.vm_files import CODE_DIM, HOUR, INPUTS, START

HEADS, ENTITIES, DIM = 2, 2, 6
TABLE = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


def make_pool(lengths, seed=0):
    g = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    z = torch.rand(total, CODE_DIM, generator=g) * 2 - 1
    labels = torch.randint(-1, 2, (total, HEADS), generator=g, dtype=torch.int8)
    event_ts = START + torch.randint(0, 100 * HOUR, (total,), generator=g)
    available = event_ts[:, None] + torch.randint(0, 90 * HOUR, (total, HEADS), generator=g)
    available[labels < 0] = NEVER
    return TokenPool(
        offsets=torch.tensor([0, 0, *torch.tensor(lengths).cumsum(0).tolist()]),
        event_ts=event_ts,
        labels=labels,
        label_available_at=available,
        z=torch.from_numpy(pack(z.numpy(), 4)),
        logits=torch.randn(total, HEADS, generator=g),
        entities=torch.randint(0, 20, (total, ENTITIES), generator=g),
    )


def make_reader(tokens, kinds=("mean", "newest", "decayed", "attention"), length=None):
    torch.manual_seed(1)
    config = ReaderConfig(key="item", tokens=tokens, kinds=list(kinds), dim=DIM, heads=2, length=length)
    reader = HistoryReader(config, INPUTS, TABLE.shape[1], lambda rows: TABLE[rows])
    with torch.no_grad():
        for name, parameter in reader.named_parameters():
            if "age_slope" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return reader


def nibbles(code):
    values = [v for byte in code.tolist() for v in (byte & 15, byte >> 4)]
    return [(v - 16 if v >= 8 else v) / 8 for v in values]


def slow_token(reader, kind, pool, at, t, of_key=()):
    """Input columns of one token as of t, then projection and LayerNorm."""
    known = [1.0 if pool.labels[at, h] >= 0 and pool.label_available_at[at, h] <= t else 0.0 for h in range(HEADS)]
    labels = [float(pool.labels[at, h]) if known[h] else 0.0 for h in range(HEADS)]
    log_age = 0.2 * math.log1p((t - int(pool.event_ts[at])) / 60_000)
    columns = []
    if kind == "fm":
        z = nibbles(pool.z[at])
        p = [1 / (1 + math.exp(-float(v))) for v in pool.logits[at]]
        residual = [(labels[h] - p[h]) * known[h] for h in range(HEADS)]
        columns += [*z, *(v * sum(residual) for v in z), *(0.25 * float(v) for v in pool.logits[at]), *p, *residual]
    if kind == "raw":
        columns += [float(v) for row in pool.entities[at] for v in TABLE[row]]
    columns += [*labels, *known, log_age, *of_key]
    x = reader.project.weight.double() @ torch.tensor(columns).double() + reader.project.bias.double()
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt(), log_age


def slow_read(reader, kind, pool, row, t, query):
    places = list(range(int(pool.offsets[row]), int(pool.offsets[row + 1])))[: reader.length]
    if not places:
        return torch.zeros(reader.width).double()
    tokens = [slow_token(reader, kind, pool, at, t) for at in places]
    vectors, logs = [v for v, _ in tokens], [a for _, a in tokens]
    hours = [(t - int(pool.event_ts[at])) / HOUR for at in places]
    out = [sum(vectors) / len(vectors), vectors[0]]
    for half_life in (1.0, 6.0, 48.0):
        out.append(sum(v * 2 ** (-h / half_life) for v, h in zip(vectors, hours, strict=True)) / 8)
    for head, slope in enumerate(reader.kinds[3].age_slope.tolist()):
        q = query[head * DIM : (head + 1) * DIM].double()
        scores = [float(q @ v) / math.sqrt(DIM) + slope * a for v, a in zip(vectors, logs, strict=True)]
        weights = [math.exp(s - max(scores)) for s in scores]
        out.append(sum(w / sum(weights) * v for w, v in zip(weights, vectors, strict=True)))
    return torch.cat([*out, torch.tensor([0.25 * math.log1p(len(places))])])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.sampled_from(["fm", "raw", "control"]),
    st.sampled_from([None, 2]),
    st.integers(0, 5),
)
@torch.no_grad()
def test_readers_equal_plain_loops(lengths, kind, length, seed):
    pool = make_pool([*lengths, 1], seed)
    reader = make_reader(kind, length=length)
    index = torch.arange(len(lengths) + 2)
    event_ts = START + 100 * HOUR + torch.arange(len(index)) * 7 * HOUR
    query = torch.randn(len(index), reader.query_width)
    got = reader([HistoryBatch(index, pool)], event_ts, query)
    for row in index.tolist():
        expected = slow_read(reader, kind, pool, row, int(event_ts[row]), query[row])
        torch.testing.assert_close(got[row].double(), expected.double(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("tokens", ["control", "raw"])
def test_control_and_raw_see_no_column_of_the_fm(tokens):
    pool, reader = make_pool([3, 5, 2]), make_reader(tokens)
    noise = TokenPool(**{**vars(pool), "z": 255 - pool.z, "logits": pool.logits * -3})
    blind = TokenPool(**{**vars(pool), "z": None, "logits": None})
    index, event_ts = torch.tensor([1, 2, 3, 0]), torch.full((4,), START + 120 * HOUR)
    query = torch.randn(4, reader.query_width)
    outputs = [reader([HistoryBatch(index, p)], event_ts, query) for p in (pool, noise, blind)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    fm = make_reader("fm")
    assert not torch.equal(*(fm([HistoryBatch(index, p)], event_ts, query) for p in (pool, noise)))


def test_content_chooses_the_columns_of_a_token():
    pool, lengths = make_pool([4]), torch.tensor([4])
    tokens = gather_tokens(pool, torch.tensor([1]), lengths, torch.tensor([START + 120 * HOUR]))
    whole, widths = FmTokens(INPUTS, ALL_CONTENT)(tokens), [CODE_DIM, CODE_DIM, 2 * HEADS, HEADS, 2 * HEADS]
    parts = dict(zip(ALL_CONTENT, whole[..., :-1].split(widths, dim=-1), strict=True))
    for content in (["z"], ["logit", "residual"], ["label", "z_residual"]):
        chosen = FmTokens(INPUTS, content)
        expected = torch.cat([*(parts[name] for name in content), whole[..., -1:]], dim=-1)
        assert torch.equal(chosen(tokens), expected)
        assert chosen.width == expected.shape[-1]
    assert torch.equal(whole, FmTokens(INPUTS, ReaderConfig(key="item").content)(tokens))


def test_empty_histories_give_exact_zeros_and_no_gradient():
    pool, reader = make_pool([3, 0]), make_reader("fm")
    index, event_ts = torch.tensor([0, 2, 1]), torch.full((3,), START + 120 * HOUR)
    query = torch.randn(3, reader.query_width, requires_grad=True)
    read = reader([HistoryBatch(index, pool)], event_ts, query)
    assert (read[:2] == 0).all()
    assert (read[2] != 0).any()
    read.sum().backward()
    assert (query.grad[:2] == 0).all()
    none = reader([HistoryBatch(index[:2], pool)], event_ts[:2], query[:2])
    assert none.shape == (2, reader.width)
    assert (none == 0).all()


def test_a_label_counts_from_the_instant_it_is_available():
    pool = make_pool([1])
    pool.labels[:] = 1
    pool.label_available_at[:] = START + 110 * HOUR
    index, lengths = torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    event_ts = START + 110 * HOUR + torch.tensor([-1, 0, 1])
    tokens = gather_tokens(pool, index, lengths, event_ts)
    assert tokens.known[:, 0, 0].tolist() == [0, 1, 1]
    assert tokens.labels[:, 0, 0].tolist() == [0, 1, 1]


def test_an_unseen_label_changes_nothing():
    pool, reader = make_pool([4, 4]), make_reader("fm")
    index, event_ts = torch.tensor([1, 2]), torch.full((2,), START + 101 * HOUR)
    later = pool.label_available_at > START + 101 * HOUR
    assert later.any()
    flipped = TokenPool(**{**vars(pool), "labels": torch.where(later, 1 - pool.labels.clamp(min=0), pool.labels)})
    query = torch.randn(2, reader.query_width)
    outputs = [reader([HistoryBatch(index, p)], event_ts, query) for p in (pool, flipped)]
    assert torch.equal(*outputs)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4), st.sampled_from([None, 2]))
@torch.no_grad()
def test_one_attention_over_the_tokens_of_several_keys_equals_a_plain_loop(lengths, length):
    pools = [make_pool([*(pair[place] for pair in lengths), 1], place) for place in (0, 1)]
    torch.manual_seed(1)
    config = ReaderConfig(key="item", with_keys=["user"], kinds=["attention"], dim=DIM, heads=2, length=length)
    reader = HistoryReader(config, INPUTS, TABLE.shape[1], lambda rows: TABLE[rows])
    reader.kinds[0].age_slope.copy_(torch.tensor([0.4, -0.2]))
    index = torch.arange(len(lengths) + 2)
    event_ts = START + 100 * HOUR + torch.arange(len(index)) * 7 * HOUR
    query = torch.randn(len(index), reader.query_width)
    got = reader([HistoryBatch(index, pool) for pool in pools], event_ts, query)
    for row in index.tolist():
        expected = slow_joint_attention(reader, pools, row, int(event_ts[row]), query[row].double())
        torch.testing.assert_close(got[row].double(), expected, rtol=1e-4, atol=2e-5)


def slow_joint_attention(reader, pools, row, t, query):
    tokens, counts = [], []
    for place, pool in enumerate(pools):
        at = list(range(int(pool.offsets[row]), int(pool.offsets[row + 1])))[: reader.length]
        tokens += [slow_token(reader, "fm", pool, i, t, of_key=[1.0 - place, float(place)]) for i in at]
        counts.append(0.25 * math.log1p(len(at)))
    if not tokens:
        return torch.zeros(reader.width).double()
    out = []
    for head, slope in enumerate(reader.kinds[0].age_slope.tolist()):
        q = query[head * DIM : (head + 1) * DIM]
        weights = [math.exp(float(q @ v) / math.sqrt(DIM) + slope * a) for v, a in tokens]
        out.append(sum(w / sum(weights) * v for w, (v, _) in zip(weights, tokens, strict=True)))
    return torch.cat([*out, torch.tensor(counts).double()])


def test_a_key_is_read_once_and_newest_reads_one_key():
    with pytest.raises(ValueError, match="allowed: each key once"):
        ReaderConfig(key="item", with_keys=["item"])
    with pytest.raises(ValueError, match="newest reads one key"):
        ReaderConfig(key="item", with_keys=["user"], kinds=["newest"])


def test_given_half_lives_stay():
    config = ReaderConfig(key="item", kinds=["decayed"], learn_half_lives=False)
    reader = HistoryReader(config, INPUTS, TABLE.shape[1], lambda rows: TABLE[rows])
    read = reader(
        [HistoryBatch(torch.tensor([1]), make_pool([4]))], torch.tensor([START + 101 * HOUR]), torch.zeros(1, 0)
    )
    read.square().sum().backward()
    assert reader.kinds[0].log_half_life.grad is None
    assert reader.project.weight.grad is not None


def test_half_lives_are_learned():
    pool, reader = make_pool([4, 4]), make_reader("fm", kinds=["decayed"])
    read = reader([HistoryBatch(torch.tensor([1, 2]), pool)], torch.full((2,), START + 101 * HOUR), torch.zeros(2, 0))
    read.square().sum().backward()
    assert (reader.kinds[0].log_half_life.grad != 0).any()


def test_the_gradient_of_layer_norm_in_pooling_is_exact():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(InverseDeviation.apply, (x,))
    expected = torch.nn.functional.layer_norm(x, (5,))
    centred = x - x.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(centred * InverseDeviation.apply(centred)[..., None], expected)
