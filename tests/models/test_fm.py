import pytest
import torch

from models.config import CrossBlock, DotBlock, MlpBlock, SelfAttentionBlock
from models.encode import FeatureEncoder
from models.errors import ModelConfigError
from models.fm import FoundationModel, multitask_bce
from models.fm_data import as_tensors
from tests.models.fm_world import CONFIG, SPECS, window

ROWS = window(64)
ENCODER = FeatureEncoder.fit(ROWS.inputs, SPECS, 1000)
INPUTS = as_tensors(ENCODER.encode(ROWS.inputs))


def model(**settings):
    torch.manual_seed(0)
    return FoundationModel(CONFIG.model_copy(update=settings), ENCODER, heads=2).eval()


def test_one_pass_gives_a_logit_a_head_and_the_captured_layers_side_by_side():
    blocks = {"cross": CrossBlock(), "dot": DotBlock(), "self": SelfAttentionBlock(), "mlp": MlpBlock(units=[16, 8])}
    fm = model(blocks=blocks, captures=["mlp.0", "input", "cross.1"])
    output = fm(INPUTS)
    assert output.logits.shape == (64, 2)
    widths = fm.stack.capture_widths
    assert fm.capture_width == widths["mlp.0"] + widths["input"] + widths["cross.1"]
    assert output.captured.shape == (64, fm.capture_width)
    _, activations = fm.stack(*fm.features(INPUTS))
    assert torch.equal(output.captured[:, 16 : 16 + widths["input"]], activations["input"])


def test_an_unknown_capture_names_those_there_are():
    with pytest.raises(ModelConfigError, match=r"fm.captures: got \['mlp.7'\]; allowed: \['input', 'mlp.0', 'mlp.1'\]"):
        model(captures=["mlp.0", "mlp.7"])


def test_past_events_and_their_age_move_the_logits():
    fm = model()
    torch.nn.init.normal_(fm.features.pools[0].attention.age)
    before = fm(INPUTS).logits
    has_two = INPUTS.masks["clicks"].sum(1) > 1
    for name in ("clicks", "clicks_age_hours"):
        swapped = INPUTS.lists | {name: INPUTS.lists[name].roll(1, dims=0)}
        changed = (fm(INPUTS._replace(lists=swapped)).logits - before).abs().sum(1) > 0
        assert changed[has_two].float().mean() > 0.5


def test_values_under_the_mask_change_nothing():
    fm = model()
    noise = {
        name: torch.where(INPUTS.masks[name], values, torch.ones_like(values)) for name, values in INPUTS.lists.items()
    }
    assert torch.equal(fm(INPUTS).logits, fm(INPUTS._replace(lists=noise)).logits)


def test_unseen_ids_are_zero_vectors_and_stay_so():
    fm = model()
    unseen = INPUTS._replace(cat=torch.zeros_like(INPUTS.cat))
    optimizer = torch.optim.Adam(fm.parameters(), lr=0.1)
    fm(unseen).logits.sum().backward()
    optimizer.step()
    assert not any(embedding.weight[0].any() for embedding in fm.features.embeddings)
    assert torch.isfinite(fm(unseen).logits).all()


def test_the_loss_counts_known_labels_by_their_weight_and_no_other():
    logits, labels = torch.randn(4, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    known = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    weight = torch.tensor([1.0, 2.0, 0.5, 9.0])
    expected, total = 0.0, 0.0
    for row in range(4):
        for head in range(2):
            if known[row, head]:
                p = torch.sigmoid(logits[row, head])
                expected -= weight[row] * torch.log(p if labels[row, head] else 1 - p)
                total += weight[row]
    value, weights = multitask_bce(logits, labels, known, weight)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert weights.item() == pytest.approx(total.item())
    changed, _ = multitask_bce(logits, torch.where(known > 0, labels, 1 - labels), known, weight)
    assert changed.item() == value.item()
