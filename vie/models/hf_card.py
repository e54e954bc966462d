"""The licence that a repository of transformers names."""

from pathlib import Path


def licence_of(source: str) -> str:
    """What the model card of a folder, or of a repository on the hub, says; empty if it says nothing."""
    from huggingface_hub import ModelCard

    card = Path(source) / "README.md"
    if Path(source).is_dir() and not card.is_file():
        return ""
    try:
        told = ModelCard.load(card if card.is_file() else source, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # a licence that cannot be had is an unknown one, whatever the reason
        return ""
    licence = told.get("license")
    if licence == "other":  # whose name stands beside it
        licence = told.get("license_name") or licence
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence or "")
