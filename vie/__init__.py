"""Video Instance Embedding: visual backbones pretrained on video without labels.

Zhuang, She, Andonian, Sobol Mark, Yamins, "Unsupervised Learning from Video with Deep Neural Embeddings" (CVPR 2020).
"""

from vie.bank import MemoryBank
from vie.clustering import cluster
from vie.errors import VieError
from vie.hub import Encoder, load, save_pretrained
from vie.knn import knn_scores
from vie.models import Stream, create_model, from_hugging_face, is_model, join_streams, list_models
from vie.neighbours import nearest
from vie.objectives import instance_recognition_loss, local_aggregation_loss
from vie.video.clips import Sampling
from vie.video.resize import Resize
from vie.weights import load_matching, read_state_dict

__all__ = [
    "Encoder",
    "MemoryBank",
    "Resize",
    "Sampling",
    "Stream",
    "VieError",
    "cluster",
    "create_model",
    "from_hugging_face",
    "instance_recognition_loss",
    "is_model",
    "join_streams",
    "knn_scores",
    "list_models",
    "load",
    "load_matching",
    "local_aggregation_loss",
    "nearest",
    "read_state_dict",
    "save_pretrained",
]
