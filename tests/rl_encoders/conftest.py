import pytest
import torch

from vie import create_model, save_pretrained


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Folder of a small saved encoder."""
    torch.manual_seed(0)
    model = create_model("vie_single_r18", width=8).eval()
    folder = tmp_path_factory.mktemp("encoder")
    save_pretrained(model, folder, model.sampling)
    return str(folder)
