"""The pretraining job: prepare a corpus, train a stream on it, evaluate and report (``vie-pretrain``)."""
