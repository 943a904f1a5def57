import pickle

import pytest
import torch

from models.checkpoint import artifact_kind, digest_file, load_artifact, save_artifact
from models.errors import ArtifactError

CONTENT = {"config": '{"a": 1}', "state": {"w": torch.arange(4.0)}, "names": ["x"]}


def test_what_was_saved_is_loaded_and_equal_content_is_equal_bytes(tmp_path):
    first, second = tmp_path / "a" / "one.pt", tmp_path / "two.pt"
    digest = save_artifact(first, "fm", CONTENT)
    assert save_artifact(second, "fm", CONTENT) == digest == digest_file(first)
    loaded = load_artifact(first, "fm", digest)
    assert torch.equal(loaded["state"]["w"], CONTENT["state"]["w"])
    assert loaded["names"] == ["x"]


def test_a_wrong_digest_names_both(tmp_path):
    digest = save_artifact(tmp_path / "m.pt", "fm", CONTENT)
    with pytest.raises(ArtifactError, match=f"m.pt: digest is {digest}, 123 was recorded"):
        load_artifact(tmp_path / "m.pt", "fm", "123")


def test_a_missing_file_another_kind_and_rubbish_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no such model file"):
        load_artifact(tmp_path / "none.pt", "fm")
    save_artifact(tmp_path / "vm.pt", "vm", CONTENT)
    with pytest.raises(ArtifactError, match="got kind 'vm'; needed: kind 'fm'"):
        load_artifact(tmp_path / "vm.pt", "fm")
    assert artifact_kind(tmp_path / "vm.pt") == "vm"
    (tmp_path / "rubbish.pt").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match="not a model file"):
        load_artifact(tmp_path / "rubbish.pt", "fm")


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_code_in_a_file_never_runs(tmp_path, capsys):
    torch.save({"format": 1, "kind": "fm", "state": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ArtifactError, match="not a model file"):
        load_artifact(tmp_path / "evil.pt", "fm")
    assert "code ran" not in capsys.readouterr().out
    pickle.loads(pickle.dumps(Evil()))
    assert "code ran" in capsys.readouterr().out


def test_a_failed_save_leaves_the_old_file_and_no_litter(tmp_path):
    digest = save_artifact(tmp_path / "m.pt", "fm", CONTENT)
    with pytest.raises(Exception, match="pickle"):
        save_artifact(tmp_path / "m.pt", "fm", {"state": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]
    assert digest_file(tmp_path / "m.pt") == digest
